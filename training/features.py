"""Batches of normalised clips on the device, and stored features of the frozen parts of the network."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.transforms import normalise
from datasets.video import VideoClips
from machine.writing import naming
from models.prototypes import PrototypeLayer
from training.precision import Precision


def valid_clips(loader: Iterable[dict], device: torch.device, description: str | None = None) -> Iterator[dict]:
    """The batches of a loader on the device: readable clips only, mirrored where `flip` is set, and normalised.

    Clips that are not uint8 stay as they are, and so do stored features of the trunk (`trunk`) in place of clips. A
    dataset of `VideoClips` records unreadable videos in `unreadable`.
    """
    dataset = getattr(loader, "dataset", None)
    for batch in tqdm(loader, desc=description, disable=description is None, leave=False):
        if "trunk" in batch:
            yield {**batch, **{name: batch[name].to(device, non_blocking=True) for name in ("trunk", "label")}}
            continue
        if isinstance(dataset, VideoClips):  # the dataset of this process; each loader process has a copy
            lost = batch["asked"][~batch["valid"] | (batch["asked"] != batch["item"])]
            dataset.unreadable.update(dataset.item_video[lost.numpy()].tolist())
        if not bool(batch["valid"].all()):
            batch = {key: value[batch["valid"]] for key, value in batch.items()}
        if len(batch["label"]):
            # a tensor of a loader process is an open file for as long as anyone keeps it, as many keep labels
            batch = {key: value.clone() if key != "clip" and torch.is_tensor(value) and value.is_shared() else value
                     for key, value in batch.items()}
            clips = batch["clip"].to(device, non_blocking=True)
            clips = clips.contiguous(memory_format=torch.channels_last_3d)  # like the trunk's weights, see build_model
            if clips.dtype == torch.uint8:
                clips = normalise(clips, getattr(dataset, "normalisation", "kinetics"), _flips(batch, device))
            yield {**batch, "clip": clips, "label": batch["label"].to(device, non_blocking=True)}


def _flips(batch: dict, device: torch.device) -> Tensor | None:
    """Which clips of a batch are to be mirrored, for `normalise`; None where there are none, or no `flip`."""
    flip = batch.get("flip")
    return None if flip is None or not bool(flip.any()) else flip.to(device, non_blocking=True)


def trunk_features(trunk: nn.Module, batch: dict) -> Tensor:
    """The trunk's features of a batch (B, C', t, h, w), where they are not stored in it."""
    return batch["trunk"] if "trunk" in batch else trunk(batch["clip"])


def size_of_clips(batch: dict) -> tuple[int, int, int]:
    """(T, H, W) of the clips of a batch."""
    return tuple(batch["clip"].shape[2:]) if "clip" in batch else batch["clip_size"]


class NormalisedTwice:
    """A loader whose clips are normalised twice, as in the push of the released code."""

    def __init__(self, loader: Iterable[dict]) -> None:
        self.loader, self.dataset = loader, getattr(loader, "dataset", None)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        for batch in self.loader:
            kind = getattr(self.dataset, "normalisation", "kinetics")
            once = normalise(batch["clip"], kind, _flips(batch, batch["clip"].device))
            yield {**batch, "clip": normalise(255 * once, kind)}


@dataclass
class KeptFeatures:
    """Features of clips in half precision, in the order of their loader."""

    features: Tensor  # (N, C, t, h, w) float16 on the CPU, or mapped from a file
    labels: Tensor  # (N,) int64
    videos: Tensor  # (N,) int64, which video a clip is of
    items: Tensor  # (N,) int64, the clip's number in its dataset

    @torch.no_grad()
    def distances(self, layer: PrototypeLayer, device: torch.device, batch_size: int = 64) -> Tensor:
        """Squared distances from the prototypes to the nearest patch of each clip, for features of the neck.

        Returns:
            (N, P) float32 on the CPU.
        """
        return torch.cat([layer(part.to(device).float())[0].cpu() for part in self.features.split(batch_size)])

    def activations(self, layer: PrototypeLayer, device: torch.device, batch_size: int = 64) -> Tensor:
        """Similarities instead of `distances`: (N, P)."""
        return layer.similarity(self.distances(layer, device, batch_size))

    def batches(self, order: Iterable[list[int]], device: torch.device) -> Iterator[dict]:
        """Batches of given items for `Trainer.step`, for features of the trunk."""
        for items in order:
            yield {"trunk": self.features[items].to(device, non_blocking=True).float(),
                   "label": self.labels[items].to(device, non_blocking=True), "video": self.videos[items]}


class Shelf:
    """A buffer for features that are computed batch by batch.

    Args:
        n: maximal number of clips.
        budget: bytes of features in memory; larger buffers are an unlinked file in `folder`.
    """

    def __init__(self, n: int, budget: float, folder: Path | None) -> None:
        self.n, self.budget, self.folder, self.used = n, budget, folder, 0
        self.features: Tensor | None = None
        self.rows: dict[str, list[Tensor]] = {"label": [], "video": [], "item": []}

    def add(self, features: Tensor, batch: dict) -> None:
        """Append the features (B, C, t, h, w) of the next clips, and their batch."""
        if self.features is None:
            shape = (self.n, *features.shape[1:])
            size = torch.Size(shape).numel()
            if size * 2 <= self.budget:
                self.features = torch.empty(shape, dtype=torch.float16)
            else:
                folder = self.folder or Path(tempfile.gettempdir())
                with naming(folder / "features"), tempfile.NamedTemporaryFile(dir=folder) as file:
                    if hasattr(os, "posix_fallocate"):  # a full disk raises here; a sparse file would crash later
                        os.posix_fallocate(file.fileno(), 0, size * 2)
                    self.features = torch.from_file(file.name, shared=True, size=size, dtype=torch.float16).view(shape)
        self.features[self.used:self.used + len(features)] = features.half().cpu()
        for name, rows in self.rows.items():
            rows.append(batch[name].to("cpu", copy=True))
        self.used += len(features)

    def kept(self) -> KeptFeatures:
        """All features that were added."""
        return KeptFeatures(self.features[:self.used], *(torch.cat(rows) for rows in self.rows.values()))


@torch.no_grad()
def keep_features(part: nn.Module, loader: Iterable[dict], *, device: torch.device, n_clips: int,
                  budget: float = 2 << 30, folder: Path | None = None, precision: Precision | None = None,
                  description: str | None = None) -> KeptFeatures:
    """Compute and store the features of every clip of a loader by a part of the network in eval mode.

    Args:
        part: clips (B, 3, T, H, W), or stored features of the trunk in their place -> (B, C, t, h, w).
        n_clips: maximal number of clips of the loader.
        budget: bytes of features in memory; more are stored in a file in `folder`.
        precision: of the part (default: float32).
        description: of the progress bar; None for no bar.
    Raises:
        ValueError: where no clip can be read.
    """
    part.eval()
    precision = precision or Precision(device)
    shelf = Shelf(n_clips, budget, folder)
    for batch in valid_clips(loader, device, description):
        with precision.in_inference():
            features = part(batch["trunk"] if "trunk" in batch else batch["clip"])
        shelf.add(features, batch)
    if not shelf.used:
        raise ValueError("not one training clip can be read; run util_scripts.generate_video_jpgs again")
    return shelf.kept()


class Views:
    """A few augmented views of every training clip, which the epochs of a frozen trunk reuse in turn.

    View v is the augmentation of epoch `first + v`, so the first epochs see the same clips as without stored views.

    Args:
        n_views, n_clips: their numbers; features of clip i in view v are at index `v * n_clips + i`.
        first: the pass of the first of these epochs.
    """

    def __init__(self, n_views: int, n_clips: int, *, first: int) -> None:
        self.n_views, self.n_clips, self.first = n_views, n_clips, first

    def __len__(self) -> int:
        return self.n_views * self.n_clips

    def passes(self, batch_size: int, rank: int = 0, size: int = 1) -> list[list[tuple[int, int]]]:
        """The batches (pass, item) of all views, in order, for a loader of `VideoClips`.

        Each of `size` processes gets every size-th item from its rank on.
        """
        shares = [range((rank - v * self.n_clips) % size, self.n_clips, size) for v in range(self.n_views)]
        return [[(self.first + v, i) for i in share[start:start + batch_size]]
                for v, share in enumerate(shares) for start in range(0, len(share), batch_size)]

    def items(self, batches: Iterable[list[tuple[int, int]]]) -> Iterator[list[int]]:
        """The indices of the features of scheduled batches (pass, item)."""
        for batch in batches:
            yield [(epoch - self.first) % self.n_views * self.n_clips + item for epoch, item in batch]

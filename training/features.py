"""Clips as the network wants them, and the features of its frozen parts, computed once and kept."""

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
from models.prototypes import PrototypeLayer
from training.precision import Precision


def valid_clips(loader: Iterable[dict], device: torch.device, description: str | None = None) -> Iterator[dict]:
    """The batches of a loader on the device: clips mirrored where `flip` says so, and normalised; only those that could
    be read.

    What is not uint8 any more is taken as it is. `VideoClips` remember in `unreadable` what could not be read.
    """
    dataset = getattr(loader, "dataset", None)
    for batch in tqdm(loader, desc=description, disable=description is None, leave=False):
        if isinstance(dataset, VideoClips):  # loader processes have told; those of the next pass need not
            lost = batch["asked"][~batch["valid"] | (batch["asked"] != batch["item"])]
            dataset.unreadable.update(dataset.item_video[lost.numpy()].tolist())
        if not bool(batch["valid"].all()):
            batch = {key: value[batch["valid"]] for key, value in batch.items()}
        if len(batch["label"]):
            clips = batch["clip"].to(device, non_blocking=True)
            clips = clips.contiguous(memory_format=torch.channels_last_3d)  # as the trunk's weights: see build_model
            if clips.dtype == torch.uint8:
                clips = normalise(clips, getattr(dataset, "normalisation", "kinetics"), _flips(batch, device))
            yield {**batch, "clip": clips, "label": batch["label"].to(device, non_blocking=True)}


def _flips(batch: dict, device: torch.device) -> Tensor | None:
    """The clips of a batch to be mirrored, as `normalise` takes them; None where there are none, or no `flip`."""
    flip = batch.get("flip")
    return None if flip is None or not bool(flip.any()) else flip.to(device, non_blocking=True)


class NormalisedTwice:
    """A loader whose clips are normalised once more than they should be, as those of the released code's push are."""

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
        """Of the neck's features: squared distances of the nearest patches to the prototypes as they are now.

        Returns:
            (N, P) float32 on the CPU.
        """
        return torch.cat([layer(part.to(device).float())[0].cpu() for part in self.features.split(batch_size)])

    def activations(self, layer: PrototypeLayer, device: torch.device, batch_size: int = 64) -> Tensor:
        """Similarities instead of `distances`."""
        return layer.similarity(self.distances(layer, device, batch_size))

    def batches(self, order: Iterable[list[int]], device: torch.device) -> Iterator[dict]:
        """Of the trunk's features: batches of given items, as `Trainer.step` takes them."""
        for items in order:
            yield {"trunk": self.features[items].to(device, non_blocking=True).float(),
                   "label": self.labels[items].to(device, non_blocking=True), "video": self.videos[items]}


class Shelf:
    """Where features are kept while they are computed, batch by batch.

    Args:
        n: clips at most.
        budget: bytes in memory; more go to an unlinked file in `folder`.
    """

    def __init__(self, n: int, budget: float, folder: Path | None) -> None:
        self.n, self.budget, self.folder, self.used = n, budget, folder, 0
        self.features: Tensor | None = None
        self.rows: dict[str, list[Tensor]] = {"label": [], "video": [], "item": []}

    def add(self, features: Tensor, batch: dict) -> None:
        """(B, C, t, h, w) features of the next clips, and the batch that they are of."""
        if self.features is None:
            shape = (self.n, *features.shape[1:])
            size = torch.Size(shape).numel()
            if size * 2 <= self.budget:
                self.features = torch.empty(shape, dtype=torch.float16)
            else:
                with tempfile.NamedTemporaryFile(dir=self.folder) as file:
                    if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and a crash on a sparse file
                        os.posix_fallocate(file.fileno(), 0, size * 2)
                    self.features = torch.from_file(file.name, shared=True, size=size, dtype=torch.float16).view(shape)
        self.features[self.used:self.used + len(features)] = features.half().cpu()
        for name, rows in self.rows.items():
            rows.append(batch[name].to("cpu", copy=True))
        self.used += len(features)

    def kept(self) -> KeptFeatures:
        """All that was added."""
        return KeptFeatures(self.features[:self.used], *(torch.cat(rows) for rows in self.rows.values()))


@torch.no_grad()
def keep_features(part: nn.Module, loader: Iterable[dict], *, device: torch.device, n_clips: int,
                  budget: float = 2 << 30, folder: Path | None = None, precision: Precision | None = None,
                  description: str | None = None) -> KeptFeatures:
    """What a part of the network, in eval mode, makes of every clip of a loader.

    Args:
        part: clips (B, 3, T, H, W) -> (B, C, t, h, w).
        n_clips: how many clips the loader holds at most.
        budget: bytes of features kept in memory; more go to a file in `folder`.
        precision: in which the part computes (default: float32).
        description: of the progress bar; None for none.
    Raises:
        ValueError: where not one clip can be read.
    """
    part.eval()
    precision = precision or Precision(device)
    shelf = Shelf(n_clips, budget, folder)
    for batch in valid_clips(loader, device, description):
        with precision.in_inference():
            features = part(batch["clip"])
        shelf.add(features, batch)
    if not shelf.used:
        raise ValueError("not one training clip can be read; run util_scripts.generate_video_jpgs again")
    return shelf.kept()


class Views:
    """A few augmented views of every training clip, which the epochs of a frozen trunk take turns with.

    View v shows clips as epoch `first + v` augments them, so the first epochs see what they would see without.

    Args:
        n_views, n_clips: how many; features of clip i in view v stand at `v * n_clips + i`.
        first: the pass that the first of these epochs is.
    """

    def __init__(self, n_views: int, n_clips: int, *, first: int) -> None:
        self.n_views, self.n_clips, self.first = n_views, n_clips, first

    def __len__(self) -> int:
        return self.n_views * self.n_clips

    def passes(self, batch_size: int, rank: int = 0, size: int = 1) -> list[list[tuple[int, int]]]:
        """The batches (pass, item) of all views, in order, for a loader of `VideoClips`.

        Of `size` processes each gets every size-th item, from its rank on.
        """
        shares = [range((rank - v * self.n_clips) % size, self.n_clips, size) for v in range(self.n_views)]
        return [[(self.first + v, i) for i in share[start:start + batch_size]]
                for v, share in enumerate(shares) for start in range(0, len(share), batch_size)]

    def items(self, batches: Iterable[list[tuple[int, int]]]) -> Iterator[list[int]]:
        """Where the features of scheduled batches (pass, item) stand."""
        for batch in batches:
            yield [(epoch - self.first) % self.n_views * self.n_clips + item for epoch, item in batch]

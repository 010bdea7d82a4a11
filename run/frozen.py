"""The features of a trunk that never moves, of every clip that a run goes over, each computed once."""

import argparse
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.video import VideoClips
from models import HIPE, Trunk
from models.stages import stage_maps
from options.trunks import TRUNK_FLAGS
from run.data import make_loader
from training.distributed import World
from training.features import Views
from training.precision import Precision
from training.starts import looks_at
from training.stored import FEATURES, FeatureFile, Part, Pass, StoredFeatures

FOLDER = "features"  # in the results folder
# What the features depend on, beside the trunk's weights and what the clips tell of themselves.
FLAGS = ("model", "model_depth", "temporal_strides", "spatial_strides", "file_type", "batch_size", *TRUNK_FLAGS)


def numbers_of_a_clip(args: argparse.Namespace, trunk: Trunk) -> int:
    """How many numbers the trunk's features of a clip are."""
    return trunk.out_channels * math.prod(trunk.cells((args.sample_duration, args.sample_size, args.sample_size)))


def remove_features(results: Path) -> None:
    """Remove what a run has stored."""
    shutil.rmtree(results / FOLDER, ignore_errors=True)


class FrozenTrunk:
    """What a frozen trunk makes of the clips of a run: sets of clips, each computed when it is first asked for.

    The trunk is in eval mode, so that its batch-norms keep their statistics. All processes ask together. A single one
    holds as many of the sets in memory as --cache_gb allows; several read all sets from their files, since each would
    hold what the system's cache of these files holds once.

    Args:
        args: of the run. model: whose trunk it is. mapped: whether its pooled head tells classes apart.
        results: folder, of which the features take one of their own. precision: of evaluation.
    Attributes:
        stop: whether a pass is to end early, see `FeatureFile.fill`.
    """

    def __init__(self, args: argparse.Namespace, model: HIPE, *, mapped: bool, results: Path, world: World,
                 precision: Precision) -> None:
        self.args, self.model, self.mapped, self.world, self.precision = args, model, mapped, world, precision
        self.folder, self.stop = results / FOLDER, lambda: False
        self._memory = args.cache_gb * 1e9 if world.size == 1 else 0.0  # bytes left
        self._trunk = digest(model.trunk)
        self._sets: dict[str, StoredFeatures] = {}

    def views(self, clips: VideoClips, views: Views) -> StoredFeatures:
        """Augmented views of the training clips, in half precision, which differs from float32 by one part in 2048 at
        most; features of clip i in view v are number `v * len(clips) + i`."""
        n, size = len(clips), self.world.size
        order = [(views.first + v, i) for i in range(self.world.rank, n, size) for v in range(views.n_views)]
        places = [v * n + i for rank in range(size) for i in range(rank, n, size) for v in range(views.n_views)]
        self._tell("views", f"{views.n_views} views of each of {n} training videos", len(views), torch.float16)
        return self._set("views", clips, order, self.precision, torch.float16, [views.n_views, views.first],
                         places=torch.tensor(places))

    def still(self, clips: VideoClips) -> StoredFeatures:
        """The clips of start, push and tuning, by the trunk in float32 and not rounded, since what is pushed is
        explained; for `spread_prototypes` with the looks at the peaks of the pooled head's class maps, as it is now."""
        args = self.args
        self._tell("still", f"{len(clips)} still clips of {len(clips.videos)} training videos", len(clips),
                   torch.float32)
        looks = self.mapped and args.starts == "spread" and not args.no_start
        return self._set("still", clips, self._share(clips), Precision(self.model.device), torch.float32,
                         digest(self.model.pooled_head) if looks else None, looks=looks)

    def validation(self, clips: VideoClips) -> StoredFeatures:
        """The clips of validation, not rounded either, so that accuracies are as by the clips themselves."""
        self._tell("validation", f"{len(clips)} clips of {len(clips.videos)} validation videos", len(clips),
                   torch.float32)
        return self._set("validation", clips, self._share(clips), self.precision, torch.float32)

    def _fits(self, n: int, dtype: torch.dtype) -> bool:
        """Whether there is memory left for the features of n clips."""
        return self._nbytes(n, dtype) <= self._memory

    def _nbytes(self, n: int, dtype: torch.dtype) -> int:
        return n * numbers_of_a_clip(self.args, self.model.trunk) * dtype.itemsize

    def _tell(self, name: str, what: str, n: int, dtype: torch.dtype) -> None:
        """Say what is about to be computed, above a progress bar that may be there."""
        if name not in self._sets and self.world.is_main:
            where = "in memory" if self._fits(n, dtype) else f"on disk ({self.folder})"
            tqdm.write(f"the trunk is frozen: its features of {what} are computed once and kept {where}, "
                       f"{self._nbytes(n, dtype) / 1e9:.2g} GB", file=sys.stderr)

    def _share(self, clips: VideoClips) -> list[int]:
        """The clips of this process's share of the videos."""
        return (clips.item_video % self.world.size == self.world.rank).nonzero()[0].tolist()

    def _set(self, name: str, clips: VideoClips, order: Sequence, precision: Precision, dtype: torch.dtype,
             more: object = None, *, looks: bool = False, places: Tensor | None = None) -> StoredFeatures:
        """A set of clips, from its files as far as these are of the same trunk and clips.

        Args:
            name: of the files. order: indices of this process's clips, those of a video one after the other, so that
                it is decoded once. more: what else the features depend on.
            places: of all processes' rows among all clips; by their items where None.
        """
        if name in self._sets:
            return self._sets[name]
        args, world, device = self.args, self.world, self.model.device
        content = [self._trunk, str(precision.inference), str(dtype), clips.identity(), more,
                   {flag: getattr(args, flag) for flag in FLAGS}]
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        paths = [self.folder / f"{name}.{rank}-of-{world.size}" for rank in range(world.size)]
        self.model.trunk.eval()
        batches = [order[start:start + args.batch_size] for start in range(0, len(order), args.batch_size)]
        a_video = args.sample_duration * args.sample_t_stride * len(order) * world.size // max(len(clips.videos), 1)

        def loader(left: Sequence[list]) -> DataLoader:
            return make_loader(clips.one_by_one(a_video), n_threads=args.n_threads, device=device, batch_sampler=left)

        own = FeatureFile(paths[world.rank], fingerprint)
        own.fill(Pass(batches, loader, self._part(precision, looks), dtype, f"trunk, {name}"), device=device,
                 world=world, stop=self.stop)
        counts = world.objects(len(own))  # by now all have written what all read
        if world.is_main:
            for path in self.folder.glob(f"{name}.*-of-*"):  # of another number of processes
                if f"-of-{world.size}." not in path.name:
                    path.unlink()
        files = [FeatureFile(path, fingerprint) for path in paths]
        for path, file, count in zip(paths, files, counts, strict=True):
            if len(file) != count:
                raise ValueError(f"{path}.rows: another process has written it and this one does not see it; give a "
                                 "--result_path that is one folder for all processes, or --cache_features 0")
        columns = [file.columns() for file in files if len(file)]
        features = [part.pop(FEATURES) for part in columns]
        joined = {key: torch.cat([part[key] for part in columns]) for key in (columns[0] if columns else ())}
        keys = places if places is not None else joined.get("item", torch.empty(0, dtype=torch.int64))
        stored = StoredFeatures(features, joined, keys, (args.sample_duration, args.sample_size, args.sample_size),
                                mapped=not self._fits(world.total(len(order)), dtype))
        self._memory -= 0 if stored.mapped else stored.nbytes
        self._sets[name] = stored
        return stored

    def _part(self, precision: Precision, looks: bool) -> Part:
        model = self.model

        def part(batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
            with precision.in_inference():
                trunk, stages = stage_maps(model.trunk, batch["clip"]) if looks else (model.trunk(batch["clip"]), [])
            trunk = trunk.float().contiguous()
            if not looks:
                return trunk, {}
            peaks = model.class_map(trunk, batch["label"]).flatten(1).argmax(1)
            return trunk, {f"looks.{i:03d}": look for i, look in enumerate(looks_at(stages, peaks))}
        return part


def digest(module: nn.Module) -> str:
    """A checksum of the parameters and buffers of a module."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()

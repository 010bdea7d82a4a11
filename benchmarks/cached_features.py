"""Heads trained on features of a trunk that were computed once; itself no benchmark."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.bench import loss_weights
from datasets.sampling import n_batches
from datasets.video import Video, VideoClips
from machine.writing import write_whole
from models import HIPE
from models.stages import stage_maps
from run.data import even_clips, make_loader, make_reader, training_clips, window_clips
from training.engine import Phase, Trainer
from training.features import KeptFeatures, Views, valid_clips
from training.merging import merge_prototypes, spread_of
from training.push import PushRecord, push
from training.schedule import ScheduledBatches, training_steps
from training.starts import spread_prototypes, start_prototypes

CPU = torch.device("cpu")
FIELDS = ("label", "video", "item", "frames", "crop")


class CachedTrunk(nn.Module):
    """A trunk whose features were computed before: it takes them in place of clips.

    Args:
        trunk: the real one. sizes: channels of its earlier stages, where these stand behind the features.
    """

    def __init__(self, trunk: nn.Module, sizes: Sequence[int] = ()) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.out_channels, self.stride = trunk.out_channels, trunk.stride
        self.offset = getattr(trunk, "offset", (0, 0, 0))

    def forward(self, features: Tensor) -> Tensor:
        return features[:, :self.out_channels]

    def stage_maps(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `models.stages.stage_maps`."""
        own, *earlier = features.split([self.out_channels, *self.sizes], 1)
        return own, [*earlier, own]


class FeatureBatches:
    """Batches as of a loader of clips, with the trunk's features in place of the clips."""

    def __init__(self, cached: dict[str, Tensor], batch_size: int) -> None:
        self.cached, self.batch_size = cached, batch_size

    def __len__(self) -> int:
        return -(-len(self.cached["label"]) // self.batch_size)

    def __iter__(self):
        for items in torch.arange(len(self.cached["label"])).split(self.batch_size):
            yield {"clip": self.cached["features"][items].float(), "valid": torch.ones(len(items), dtype=torch.bool),
                   **{name: self.cached[name][items] for name in FIELDS}}


@torch.no_grad()
def features_of(trunk: nn.Module, clips: VideoClips, name: str, *, stages: bool = False, **how) -> dict[str, Tensor]:
    """The trunk's features in half precision, and the other fields of the batches; `how` as in `make_loader`.

    With `stages` the maps of its earlier stages stand behind the features, and their channels under "sizes".
    """
    rows: dict[str, list[Tensor]] = {key: [] for key in ("features", *FIELDS)}
    sizes: list[int] = []
    for batch in valid_clips(make_loader(clips, n_threads=0, device=CPU, **how), CPU, name):
        features, maps = stage_maps(trunk, batch["clip"])
        sizes = [earlier.shape[1] for earlier in maps[:-1]]
        rows["features"].append(torch.cat([features, *(maps[:-1] if stages else ())], 1).half())
        for key in FIELDS:
            rows[key].append(batch[key])
    cached = {key: torch.cat(parts) for key, parts in rows.items()}
    return {**cached, "sizes": sizes} if stages else cached


def load_features(path: Path, model: HIPE, args: argparse.Namespace,
                  subsets: dict[str, list[Video]]) -> dict[str, dict]:
    """Features of the training views of the warm epochs (views), of a push's clips (still) and of the test windows.

    Read from `path` where it exists, else computed and written there.
    """
    if path.is_file():
        return torch.load(path, weights_only=True)
    reader, trunk = make_reader(args), model.trunk.eval()
    training = training_clips(args, subsets["training"], reader, normalisation=model.normalisation)
    views = Views(args.cache_features, len(training), first=args.trunk_epochs + 1)
    still = even_clips(args, subsets["training"], reader, args.push_clips, normalisation=model.normalisation)
    windows = window_clips(args, subsets["validation"], reader, args.inference_stride,
                           normalisation=model.normalisation)
    cached = {"views": features_of(trunk, training, "views", batch_sampler=views.passes(args.batch_size)),
              "still": features_of(trunk, still, "push clips", stages=True, batch_size=args.batch_size),
              "test": features_of(trunk, windows, "test windows", batch_size=args.batch_size)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: torch.save(cached, file))
    return cached


def train_head(model: HIPE, args: argparse.Namespace, cached: dict[str, dict], videos: Sequence[Video], seed: int,
               watch: Callable[[str], None] = lambda stage: None) -> PushRecord:
    """Start, warm epochs, push, merging and tuning, as main.py does them for as many --warm_epochs as --n_epochs.

    Args:
        args: of main.py. videos: of the training.
        watch: called after every stage with its name: before the push, pushed, merged, tuned.
    """
    names, labels = [video.name for video in videos], torch.tensor([video.label for video in videos])
    still = FeatureBatches(cached["still"], args.batch_size)
    ways = torch.full((len(names),), -1)
    if args.starts == "sampled":
        start_prototypes(model, still, device=CPU, generator=torch.Generator().manual_seed(seed), sure=args.sure)
    else:
        ways = spread_prototypes(model, still, n_videos=len(ways), device=CPU, seed=seed, sure=args.sure,
                                 standardise=args.standardise, clips_a_way=args.ways_clips).ways
    if not args.ways_weight:
        ways.fill_(-1)
    phases = {"warm": Phase("adam", 0, args.warm_learning_rate, 0, args.momentum, args.warm_lr_scheduler,
                            score_rate=args.warm_score_learning_rate),
              "tune": Phase("adam", 0, args.last_learning_rate, 0, args.momentum)}
    trainer = Trainer(model, phases, loss_weights(args), margin=args.separation_margin, focus=args.focus,
                      background=args.background, sure=args.sure)
    trainer.count_ways(ways, labels)
    views = KeptFeatures(*(cached["views"][name] for name in ("features", "label", "video", "item")))
    n_clips = len(views.labels) // args.cache_features
    steps = training_steps(
        n_batches=n_batches(n_clips, args.batch_size), trunk_epochs=args.trunk_epochs, warm_epochs=args.warm_epochs,
        n_epochs=args.warm_epochs, push_start=1, push_every=1, tune_iterations=args.tune_iterations)
    warm = steps.only("warm")
    places = Views(args.cache_features, n_clips, first=args.trunk_epochs + 1)
    order = ScheduledBatches(warm, n_clips, args.batch_size, seed=seed, trunk_epochs=args.trunk_epochs)
    for i, (step, batch) in enumerate(zip(warm, views.batches(places.items(order), CPU), strict=True)):
        trainer.step(step, i / len(warm), {**batch, "way": ways[batch["video"]]})
    watch("before the push")
    record, neck = push(model, still, names=names, device=CPU, n_clips=len(cached["still"]["label"]))
    record.clip_size = (args.sample_duration, args.sample_size, args.sample_size)
    watch("pushed")
    distances = neck.distances(model.prototype_layer, CPU)
    if args.merge_coverage and not args.no_merge:
        record, into = merge_prototypes(model, record, distances, neck.labels, args.merge_coverage, ways[neck.videos])
        distances = distances[:, into == torch.arange(len(into))]
        trainer.forget()
        watch("merged")
    record.spread = spread_of(model, record, distances, neck.videos, names, labels)
    activations = model.prototype_layer.similarity(distances)
    for step in steps.only("tune"):
        trainer.tune(step, 0.0, activations, neck.labels)
    watch("tuned")
    return record

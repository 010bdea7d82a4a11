"""Loaders of the training clips, and features that are computed once and gone over many times."""

import math
import sys
from collections.abc import Iterable, Iterator

from torch import nn
from torch.utils.data import DataLoader

from datasets.video import VideoClips, VideoTable
from run.data import even_clips, make_loader, training_clips
from run.frozen import numbers_of_a_clip
from run.state import Run
from training.features import KeptFeatures, NormalisedTwice, Views, keep_features, valid_clips
from training.precision import Precision
from training.schedule import GRADIENT_KINDS, ScheduledBatches, Step, Steps
from training.stored import StoredBatches


def share_of(run: Run, clips: VideoClips, batch_size: int) -> dict:
    """How a loader goes over this process's share of clips in their own order."""
    if run.world.size == 1:
        return {"batch_size": batch_size}
    return {"batch_size": batch_size, "sampler": run.world.share(len(clips))}


class Passes:
    """Loaders and features of a run's training clips.

    Args:
        training: videos. clips: random ones of these. still: evenly spaced ones.
        steps: of the whole schedule. todo: those that are left.
    Attributes:
        batches: by kind of step, the batches of all steps that are left. last_push: its epoch, 0 for none.
    """

    def __init__(self, run: Run, training: VideoTable, clips: VideoClips, still: VideoClips, steps: Steps,
                 todo: Steps) -> None:
        self.run, self.still = run, still
        self.last_push = max((step.epoch for step in steps.only("push")), default=0)
        self.batches = self._batches(clips, steps, todo)
        reader, few = run.reader("train"), min(run.args.middle_push_clips, run.args.push_clips)
        self.middle = still if few == run.args.push_clips else even_clips(
            run.args, training, reader, few, normalisation=run.model.normalisation)
        # not mirrored, for a push record knows no mirrored clips
        self.augmented = training_clips(run.args, training, reader, normalisation=run.model.normalisation,
                                        flip=False)

    def of_start(self) -> Iterable[dict]:
        """What the start of the prototypes goes over: all still clips, in the main process."""
        args = self.run.args
        if self.run.frozen is not None:
            return self.run.frozen.still(self.still).loader(args.batch_size)
        return make_loader(self.still, n_threads=args.n_threads, device=self.run.device, batch_size=args.batch_size)

    def of_push(self, step: Step) -> dict:
        """What a push and the tuning after it go over: the loader, its clips at most, and the precision.

        The last push decides what is explained; those before it take fewer clips and the precision of evaluation. Of a
        frozen trunk all take the same stored features.
        """
        run = self.run
        final, augmented = step.epoch == self.last_push, run.args.push_on != "still"
        precision = Precision(run.device) if final else run.precision
        if run.frozen is not None and not augmented:
            loader = run.frozen.still(self.still).loader(run.args.batch_size, run.world.rank, run.world.size)
            return {"loader": loader, "n_clips": len(run.world.share(len(self.still))), "precision": precision}
        clips = self.augmented if augmented else self.still if final else self.middle
        loader = self._loader(clips)
        return {"loader": NormalisedTwice(loader) if augmented else loader,
                "n_clips": len(run.world.share(len(clips))),
                "precision": precision}

    def features_of_push(self, step: Step) -> KeptFeatures:
        """The neck's features of the clips that a push went over, of this process's share."""
        model, pushed = self.run.model, self.of_push(step)
        part = model.neck if isinstance(pushed["loader"], StoredBatches) else nn.Sequential(model.trunk, model.neck)
        return keep_features(part, device=self.run.device, folder=self.run.results, **pushed)

    def trunk_features(self) -> KeptFeatures:
        """The trunk's features of augmented clips, on every process."""
        run, clips = self.run, self.augmented
        features = keep_features(run.model.trunk, self._loader(clips), device=run.device, folder=run.results,
                                 n_clips=len(run.world.share(len(clips))), precision=run.precision,
                                 description="trunk features")
        return self._collected(features, len(clips))

    def _loader(self, clips: VideoClips, order: Iterable[list] | None = None) -> DataLoader:
        """Batches of this process's share of clips in their own order, or in another."""
        how = {"batch_sampler": order} if order is not None else share_of(self.run, clips, self.run.args.batch_size)
        return make_loader(clips, n_threads=self.run.args.n_threads, device=self.run.device, **how)

    def _batches(self, clips: VideoClips, steps: Steps, todo: Steps) -> dict[str, Iterator[dict]]:
        run = self.run

        def order(*kinds: str) -> ScheduledBatches:
            return ScheduledBatches(todo.only(*kinds), len(clips), run.args.batch_size, seed=run.args.manual_seed,
                                    trunk_epochs=run.args.trunk_epochs, rank=run.world.rank, size=run.world.size)

        if run.frozen is not None:
            return dict.fromkeys(GRADIENT_KINDS, self._of_frozen(clips, steps, order(*GRADIENT_KINDS)))
        views = self._views(len(clips), steps) if todo.only("warm") else None
        if views is None:
            loaded = valid_clips(self._loader(clips, order(*GRADIENT_KINDS)), run.device)
            return dict.fromkeys(GRADIENT_KINDS, loaded)
        others = [kind for kind in GRADIENT_KINDS if kind != "warm"]
        loaded = valid_clips(self._loader(clips, order(*others)), run.device)
        return dict.fromkeys(others, loaded) | {"warm": self._of_views(clips, views, order("warm"))}

    def _of_frozen(self, clips: VideoClips, steps: Steps, order: ScheduledBatches) -> Iterator[dict]:
        """Batches of the features of a frozen trunk, whose views all epochs take in turn."""
        run = self.run
        epochs = {(stretch.kind == "trunk", stretch.epoch) for stretch in steps.only(*GRADIENT_KINDS).stretches}
        views = Views(min(run.args.cache_features, len(epochs)), len(clips), first=1)
        yield from run.frozen.views(clips, views).batches(views.items(order), run.device)

    def _views(self, n_clips: int, steps: Steps) -> Views | None:
        """The views of --cache_features, where the schedule has more warm epochs than these and they fit the budget."""
        args = self.run.args
        if not 0 < args.cache_features < len(steps.only("warm").stretches):
            return None
        views = Views(args.cache_features, n_clips, first=args.trunk_epochs + 1)
        gigabytes = len(views) * numbers_of_a_clip(args, self.run.model.trunk) * 2 / 1e9
        fit = gigabytes <= args.cache_gb
        print(f"warm epochs: the trunk's features of {args.cache_features} views of each of {n_clips} clips "
              + (f"are kept ({gigabytes:.2g} GB{' in each process' if self.run.world.size > 1 else ''})" if fit else
                 f"would take {gigabytes:.2g} GB, more than --cache_gb {args.cache_gb:g}: every epoch runs the trunk"),
              file=sys.stderr)
        return views if fit else None

    def _of_views(self, clips: VideoClips, views: Views, order: ScheduledBatches) -> Iterator[dict]:
        """Batches of the trunk's features of the views, which are computed when the first batch is asked for."""
        run = self.run
        loader = self._loader(clips, views.passes(run.args.batch_size, run.world.rank, run.world.size))
        features = keep_features(run.model.trunk, loader, device=run.device, n_clips=len(run.world.share(len(views))),
                                 budget=math.inf, precision=run.precision, description="trunk features")
        yield from self._collected(features, len(views)).batches(views.items(order), run.device)

    def _collected(self, features: KeptFeatures, n: int) -> KeptFeatures:
        """The features of all processes, n rows in the order of the clips."""
        return KeptFeatures(*(self.run.world.collect(part, n) for part in (
            features.features, features.labels, features.videos, features.items)))

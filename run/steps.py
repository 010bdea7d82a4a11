"""What each kind of step does in training, and what the steps share."""

import sys
import time
from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm import tqdm

from datasets.sampling import EpochBatches, n_batches
from explain import patch_sheet, prototype_pictures
from options.resolve import trunk_stays
from run.data import even_clips, report_looped, training_clips
from run.frozen import FrozenTrunk
from run.passes import Passes
from run.state import Run
from training.features import KeptFeatures
from training.log import Log, Meter
from training.merging import merge_prototypes, spread_of
from training.push import push
from training.schedule import Step, least_batch, remaining, training_steps
from training.starts import spread_prototypes, start_prototypes


class Work:
    """What the steps of a run share while it trains.

    Attributes:
        training: videos. clips: one random clip of each. still: evenly spaced clips, not augmented.
        steps: of the whole schedule. todo: those that are left. n_batches: steps of an epoch.
        passes: loaders and features of those clips. meter: of the epoch. log: events of the run.
        features: of this process's clips after a push. activations: (n, P) of these.
    Raises:
        ValueError: where there is no training video on disk, or fewer clips in a batch than processes.
    """

    log: Log

    def __init__(self, run: Run) -> None:
        args = run.args
        self.run, self.meter = run, Meter()
        self.training = run.subset("train")
        if not self.training:
            raise ValueError(f"{args.annotation_path}: lists no training video that is on disk; check --video_path")
        self._report_empty_classes()
        run.set_ways(run.ways, self.training)
        reader = run.reader("train")
        self.clips = training_clips(args, self.training, reader, normalisation=run.model.normalisation)
        report_looped(self.clips)
        if min(len(self.clips), args.batch_size) < run.world.size:
            raise ValueError(f"{run.world.size} processes cannot share batches of "
                             f"{min(len(self.clips), args.batch_size)} clips; start fewer, or raise --batch_size, "
                             "which counts the clips of all of them")
        self.n_batches = n_batches(len(self.clips), args.batch_size, least_batch(run.world.size))
        self.steps = training_steps(
            n_batches=self.n_batches, trunk_epochs=args.trunk_epochs, warm_epochs=args.warm_epochs,
            n_epochs=args.n_epochs, push_start=args.push_start, push_every=args.push_every,
            tune_iterations=args.tune_iterations, last_push=not args.no_last_push)
        self.todo = remaining(self.steps, run.done)
        self.still = even_clips(args, self.training, reader, args.push_clips, normalisation=run.model.normalisation)
        if args.cache_features and trunk_stays(args):
            run.frozen = FrozenTrunk(args, run.model, mapped=run.mapped, results=run.results, world=run.world,
                                     precision=run.precision)
        self.passes = Passes(run, self.training, self.clips, self.still, self.steps, self.todo)
        self.features: KeptFeatures | None = None
        self.activations: Tensor | None = None
        self._reported = False

    def release(self, step: Step, following: Step | None) -> None:
        """Free the features that no later step goes over."""
        if step.kind == "warm" and (following is None or following.kind != "warm"):
            self.passes.batches.pop("warm", None)
        if step.kind == "tune":
            self.features = self.activations = None

    def _report_empty_classes(self) -> None:
        hierarchy = self.run.hierarchy
        empty = sorted(set(range(hierarchy.n_leaves)) - set(self.training.labels.tolist()))
        if empty:
            names = ", ".join(hierarchy.names[leaf] for leaf in empty[:3])
            print(f"{self.run.args.annotation_path}: {len(empty)} of {hierarchy.n_leaves} classes have no training "
                  f"video on disk ({names}{', ...' if len(empty) > 3 else ''}); their prototypes stay unmatched",
                  file=sys.stderr)

    def report_unreadable(self) -> None:
        """Print once how many training videos could not be read in a whole epoch, by any process."""
        if self._reported:
            return
        self._reported = True
        unreadable = set().union(*self.run.world.objects(self.clips.unreadable))
        if unreadable and self.run.world.is_main:
            tqdm.write(f"warning: {len(unreadable)} of {len(self.clips.videos)} training videos could not be read, and "
                       "others took their place; util_scripts.check_dataset names all of them", file=sys.stderr)


# --- handlers, see `run.loop.HANDLERS`


def gradient_step(work: Work, step: Step, progress: float) -> None:
    """Take one step on a batch of training clips."""
    run = work.run
    batch = next(work.passes.batches[step.kind])
    if run.ways is not None and step.kind != "trunk":
        batch["way"] = run.ways[batch["video"]]
    work.meter.add(run.trainer.step(step, progress, batch), run.world.total(len(batch["label"])))


def start(work: Work, step: Step, progress: float) -> None:
    """Place the prototypes, and learn in which ways the videos show their classes."""
    run = work.run
    if not run.mapped:
        where = "are random" if run.args.no_start else "start at random patches of their nodes"
        tqdm.write(f"no trunk epochs, so no class maps: prototypes {where}, and focus and background separation "
                   "are off", file=sys.stderr)
    placed = 0
    if not run.args.no_start:
        ways, loader = None, work.passes.of_start()
        if run.world.is_main:
            placed, ways = _place(run, loader, len(work.training))
        run.world.align(run.model)
        run.set_ways(run.world.objects(ways)[0], work.training)
    known = 0 if run.ways is None else int((run.ways >= 0).sum())
    work.log.add("start", step, placed=placed, prototypes=len(run.model.prototype_layer.node_of), videos_of_a_way=known)


def _place(run: Run, loader: Iterable[dict], n_videos: int) -> tuple[int, Tensor | None]:
    """Give prototypes a start; how many were placed, and the videos' ways where the losses take them."""
    args = run.args
    how = {"device": run.device, "sure": args.sure, "mapped": run.mapped, "precision": run.precision, "progress": True}
    if args.starts == "sampled":
        generator = torch.Generator().manual_seed(args.manual_seed)
        return start_prototypes(run.model, loader, generator=generator, **how), None
    starts = spread_prototypes(run.model, loader, n_videos=n_videos, seed=args.manual_seed,
                               standardise=args.standardise, clips_a_way=args.ways_clips, **how)
    shown = run.mapped and args.ways_weight and bool((starts.ways >= 0).any())
    return starts.placed, starts.ways if shown else None


def push_prototypes(work: Work, step: Step, progress: float) -> None:
    """Push, after the last push merge, and write the prototypes and their pictures."""
    run, began = work.run, time.perf_counter()
    clips = work.passes.of_push(step)
    run.trainer.enter("tune")
    run.record, features = push(run.model, names=work.training.names, device=run.device, epoch=step.epoch,
                                folder=run.results, progress=True, world=run.world, repeats=run.args.push_repeats,
                                **clips)
    n_pushed = len(run.record.video)
    activations = _survey(work, features, merge=step.epoch == work.passes.last_push)
    seconds = time.perf_counter() - began
    matched = sum(video is not None for video in run.record.video)
    twice = run.record.duplicates(run.model.prototype_layer.node_of)
    n_clips, n_read = run.world.total(clips["n_clips"]), run.world.total(len(features.labels))
    n_left = len(run.record.video)
    began = time.perf_counter()
    run.write_prototypes()
    _draw(work, step)
    tqdm.write(f"push {step.epoch}: {matched} of {n_left} prototypes matched"
               + (f", the other {n_left - matched} keep their values" if matched < n_left else "")
               + (f"; {twice} came to the patch of another one of their node" if twice else "")
               + (f"; merged into {n_left} of {n_pushed}" if n_left < n_pushed else "")
               + (f"; {n_clips - n_read} of {n_clips} clips could not be read" if n_read < n_clips else ""))
    work.log.add("push", step, matched=matched, unmatched=n_left - matched, duplicates=twice, clips=n_read,
                 merged=n_pushed - n_left, gap=float(run.record.distance.sum()) / max(matched, 1),
                 seconds=round(seconds, 3), picture_seconds=round(time.perf_counter() - began, 3))
    if run.args.last_layer != "joint":  # else the neck moves now
        work.features, work.activations = features, activations


def _survey(work: Work, features: KeptFeatures, *, merge: bool) -> Tensor:
    """Compare all training clips with the pushed prototypes: merge by their distances, and keep their quantiles.

    Returns:
        (n, P) activations of this process's clips.
    """
    run, model, world = work.run, work.run.model, work.run.world
    own = features.distances(model.prototype_layer, run.device)  # (n, P)
    order = world.rows(features.items).argsort(stable=True)
    distances, labels, videos = (world.rows(part)[order] for part in (own, features.labels, features.videos))
    if merge and run.args.merge_coverage and not run.args.no_merge:
        run.record, into = merge_prototypes(model, run.record, distances, labels, run.args.merge_coverage,
                                            None if run.ways is None else run.ways[videos])
        keep = into == torch.arange(len(into))
        distances = distances[:, keep]
        if not keep.all():
            own = features.distances(model.prototype_layer, run.device)  # to the bit what a resumed run will have
            run.ways = None  # each belonged to some prototypes before
            run.trainer.forget()  # the optimisers of other prototypes
            run.trainer.enter("tune")
    run.record.spread = spread_of(model, run.record, distances, videos, work.training.names,
                                  torch.from_numpy(work.training.labels))
    return _near(run, model.prototype_layer.similarity(own))


def _near(run: Run, activations: Tensor) -> Tensor:
    """Activations on the device where they take little of its memory: hundreds of passes go over them."""
    return activations.to(run.device) if activations.nbytes <= 1 << 30 else activations


def _draw(work: Work, step: Step) -> None:
    """Draw the prototypes' patches."""
    run = work.run
    if run.args.no_img or not run.world.is_main:
        return
    out, node_of = run.results / "img" / f"epoch_{step.epoch}", run.model.prototype_layer.node_of.cpu()
    sources = set(run.record.video)
    videos = {name: work.training[i] for i, name in enumerate(work.training.names) if name in sources}
    unreadable = prototype_pictures(run.record, run.hierarchy, node_of, videos=videos, reader=run.reader("train"),
                                    out=out, n_jobs=run.args.n_threads, progress=True)
    if unreadable:
        tqdm.write(f"warning: {len(unreadable)} training videos cannot be read any more; prototypes from them have no "
                   f"picture (first: {unreadable[0]})", file=sys.stderr)
    if run.args.tensorboard:
        for node in range(len(run.hierarchy)):
            sheet = patch_sheet(out, (node_of == node).nonzero().flatten().tolist())
            if sheet is not None:
                work.log.image(f"prototypes/{run.hierarchy.full_name(node)}", sheet, step.epoch)


def tune(work: Work, step: Step, progress: float) -> None:
    """Pass over all training clips to tune the prototypes' weights, or, as in the released code, the prototypes."""
    run = work.run
    if run.args.last_layer == "joint":
        work.features = work.features or work.passes.trunk_features()
        tune_prototypes(work, step)
        return
    work.features = work.features or work.passes.features_of_push(step)
    if work.activations is None:
        work.activations = _near(run, work.features.activations(run.model.prototype_layer, run.device))
    work.meter.add(run.trainer.tune(step, progress, work.activations, work.features.labels),
                   run.world.total(len(work.features.labels)))


def tune_prototypes(work: Work, step: Step) -> None:
    """The released code's tuning: a pass as in a warm epoch, by an optimiser that remembers nothing."""
    run, features = work.run, work.features
    run.trainer.optimizers.pop("warm", None)
    order = EpochBatches(len(features.labels), run.args.batch_size, seed=run.args.manual_seed,
                         epoch=(step.epoch << 20) + step.iteration, least=least_batch(run.world.size))
    mine = ([item for _, item in items][run.world.rank::run.world.size] for items in order)
    for batch in features.batches(mine, run.device):
        work.meter.add(run.trainer.step(Step("warm", step.epoch, step.iteration), 0.0, batch),
                       run.world.total(len(batch["label"])))

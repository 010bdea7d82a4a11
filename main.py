"""Train HIPE, push its prototypes, validate, and write predictions: parse, build, walk the schedule."""

import argparse
import functools
import itertools
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets import DATASETS
from datasets.annotation import subset_of
from datasets.groups import CALIBRATION, held_out_groups, hold_out, ungrouped
from datasets.reading import CachedReader, Reader
from datasets.sampling import EpochBatches, n_batches
from datasets.video import Video, VideoClips, VideoTable, whole_videos
from evaluation.recognition import Believed, VideoPool, recognition_metrics
from explain import fingerprint, patch_sheet, prototype_pictures, write_report
from models import HIPE
from models.stages import stages_before
from options.errors import user_errors
from options.flags import parse_main
from run.data import even_clips, make_loader, make_reader, read_videos, training_clips, window_clips, window_power
from run.model import build_model, check_size, choose_device, fresh_embedding, load_trunk, model_of
from run.resume import check_tree, resume
from training.checkpoint import checkpoints_in, put_aside, save_checkpoint, sweep, write_whole
from training.distributed import World, joined, synchronise_batchnorm
from training.engine import LossWeights, Meter, Phase, Trainer, evaluate, predict, results_json
from training.features import KeptFeatures, NormalisedTwice, Views, keep_features, valid_clips
from training.log import Log, Stop
from training.merging import merge_prototypes, spread_of
from training.precision import Precision, check_compiler, choose_precision, prepare_device
from training.push import PushRecord, push
from training.schedule import GRADIENT_KINDS, ScheduledBatches, Step, Steps, least_batch, remaining, training_steps
from training.starts import spread_prototypes, start_prototypes

# What is of one model in a results folder, beside checkpoints and pictures; explanations know whose they are.
OF_A_MODEL = ("prototypes.json", "metrics.json", "train.json", "val.json", "test.json", "report.html")


class Run:
    """One run: what is trained, on what, how far it has come, and where it is written."""

    def __init__(self, args: argparse.Namespace, given: set[str], world: World) -> None:
        self.args, self.world = args, world
        self.device = world.device(choose_device(args.device, args.no_cuda), args.device)
        self.checkpoint, self.resumed_from = resume(args, given)
        self.hierarchy = check_tree(args, given, self.checkpoint, self.resumed_from)
        self.videos = read_videos(args, self.hierarchy)
        self.held_out = self._held_out()  # groups of training videos
        self.videos = hold_out(self.videos, self.held_out, DATASETS[self.args.dataset])
        self.results: Path = args.result_path
        self.earlier = [] if self.checkpoint is not None or args.no_train else checkpoints_in(self.results)
        if self.earlier and not args.overwrite:
            raise ValueError(f"{self.results}: holds a run already ({self.earlier[0].name}); go on with --resume_path "
                             "auto, begin afresh with --overwrite, or choose another --result_path")
        self.results.mkdir(parents=True, exist_ok=True)
        self.record: PushRecord | None = None
        self.ways: torch.Tensor | None = None  # (n training videos,) see `Starts`
        self.done: Step | None = None
        torch.manual_seed(args.manual_seed)
        with world.main_first():  # whose fitted embeddings the others find
            self.model = self._model().to(self.device)
        # whether the pooled head tells classes apart, so that there are class maps to place prototypes by
        self.mapped = args.trunk_epochs > 0 or getattr(args, "head_given", False)
        world.align(self.model)
        if world.size > 1 and args.batchnorm_sync:
            self.model = synchronise_batchnorm(self.model, self.device)
        if args.compile:
            check_compiler(self.device)
            self.model.trunk.compile()
        prepare_device(self.device, deterministic=args.deterministic)
        self.precision = choose_precision(args.amp, self.device)
        self.trainer = Trainer(self.model, self._phases(), self._weights(), margin=args.separation_margin,
                               focus=args.focus if self.mapped else 1.0, background=args.background,
                               sure=args.sure if self.mapped else 0.0,  # an untrained head is sure of nothing
                               cluster_margin=args.cluster_margin, rivals=args.separation_rivals,
                               last_layer=args.last_layer,
                               frozen=stages_before(self.model.trunk, args.ft_begin_module), freeze_bn=args.freeze_bn,
                               world=world, precision=self.precision)
        if self.checkpoint is not None:
            self._restore()
        self._write_json("opts.json", self._plain_args(), indent=1)
        self.source = make_reader(args)
        self.preloaded: set[str] = set()

    def _model(self) -> HIPE:
        args = self.args
        if self.checkpoint is not None:
            model, _, self.record = model_of(self.checkpoint, self.resumed_from)
            self.embedding, self.ways = self.checkpoint["embedding"], self.checkpoint.get("ways")
            return model
        if args.no_train:
            raise ValueError("--no_train needs a trained model; give one with --resume_path")
        points, c = fresh_embedding(args, self.hierarchy, self.results / "embeddings.pth")
        args.c, self.embedding = c, {"points": points, "c": c}
        model = build_model(args, self.hierarchy, points, c)
        check_size(model.trunk, (args.sample_duration, args.sample_size, args.sample_size))
        args.head_given = bool(args.pretrain_path) and load_trunk(args, model, self.hierarchy)
        return model

    def _held_out(self) -> list[str]:
        """The groups that --calibrate holds out of training: for a resumed run those that its first part held out."""
        if not self.args.calibrate:
            return []
        if self.checkpoint is None:
            dataset = DATASETS[self.args.dataset]
            groups = held_out_groups(self.videos, dataset, seed=self.args.manual_seed)
            if not groups:
                raise ValueError(f"{self.args.annotation_path}: too few groups of training videos to hold one out; "
                                 "leave --calibrate away")
            if sentence := ungrouped(self.args.dataset, dataset, self.videos.subset("training")):
                print(f"warning: {sentence}", file=sys.stderr)
            return groups
        if "held_out" not in self.checkpoint:
            raise ValueError(f"{self.resumed_from}: trained on all groups, so that none is left to calibrate on; leave "
                             "--calibrate away, or train afresh")
        return self.checkpoint["held_out"]

    def _restore(self) -> None:
        """Resume, in this order: 1 model and push record (in _model), 2 the cursor, 3 the optimisers, 4 the RNG."""
        self.done = Step(*self.checkpoint["done"])
        if not self.args.no_train:
            self.trainer.load_state(self.checkpoint["optimizers"])
            if self.precision.scaler is not None and "scaler" in self.checkpoint:
                self.precision.scaler.load_state_dict(self.checkpoint["scaler"])
            torch.set_rng_state(self.checkpoint["rng"]["cpu"])
            if self.device.type == "cuda" and "cuda" in self.checkpoint["rng"]:
                torch.cuda.set_rng_state(self.checkpoint["rng"]["cuda"], self.device)
        self.checkpoint = None  # a second copy of model and optimisers is of no use any more

    def _phases(self) -> dict[str, Phase]:
        args = self.args
        return {
            "trunk": Phase(args.trunk_optimizer, args.trunk_learning_rate, 0, args.trunk_weight_decay, args.momentum,
                           args.trunk_lr_scheduler, args.multistep_milestones),
            "warm": Phase("adam", 0, args.warm_learning_rate, 0, args.momentum, args.warm_lr_scheduler,
                          args.multistep_milestones, args.warm_score_learning_rate),
            "joint": Phase(args.optimizer, args.learning_rate, args.head_learning_rate, args.weight_decay,
                           args.momentum, args.lr_scheduler, args.multistep_milestones, args.score_learning_rate),
            "last": Phase("adam", 0, args.last_learning_rate, 0, args.momentum)}

    def _weights(self) -> LossWeights:
        args = self.args
        return LossWeights(ce=args.ce_weight, cluster=args.cluster_weight, separation=args.separation_weight,
                           background=args.background_weight if self.mapped else 0.0,
                           coverage=args.coverage_weight, group=args.group_weight,
                           orthogonality=args.orthogonality_weight, sharing=args.sharing_weight,
                           batch_ce=args.batch_ce_weight, l1=args.l1_weight,
                           level_ce=args.level_ce_weight if any(args.level_ce_weight) else 0.0, ways=args.ways_weight,
                           even=args.even_weight,
                           pooled=args.pooled_weight if self.mapped else 0.0)

    def _plain_args(self) -> dict:
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self.args).items()}

    def _write_json(self, name: str, content: object, indent: int | None = None) -> Path:
        if self.world.is_main:
            write_whole(self.results / name, lambda file: file.write(json.dumps(content, indent=indent).encode()))
        return self.results / name

    def subset(self, name: str) -> VideoTable:
        """The videos of a subset."""
        return self.videos.subset(subset_of(name))

    def reader(self, subset: str) -> Reader:
        """The reader, with the videos of a subset in memory as far as they fit, before loader processes share it."""
        if isinstance(self.source, CachedReader) and subset not in self.preloaded:
            self.preloaded.add(subset)
            videos = self.subset(subset)
            self.source.preload(videos.path(i) for i in range(len(videos)))
        return self.source

    def save(self, name: str) -> None:
        """Write a checkpoint into the results folder."""
        if not self.world.is_main:
            return
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(self.results / name, {
            "done": list(self.done), "args": self._plain_args(),
            "hierarchy_rows": [list(row) for row in self.hierarchy.rows],
            "embedding": self.embedding,
            "counts": self.model.prototype_layer.counts.tolist(),
            "model": self.model.state_dict(), "optimizers": self.trainer.state(), "rng": rng,
            "push_record": None if self.record is None else self.record.to_dict(),
            **({"held_out": self.held_out} if self.held_out else {}),
            **({} if self.ways is None else {"ways": self.ways}),
            **({} if self.precision.scaler is None else {"scaler": self.precision.scaler.state_dict()})})

    # --- training

    def train(self) -> bool:
        """Walk the schedule from where it stands; False when asked to stop before its end."""
        stop = Stop(patient=self.world.size > 1)
        try:
            return self._train(stop)
        finally:
            stop.release()

    def _train(self, stop: Stop) -> bool:
        args = self.args
        training = self.subset("train")
        if not training:
            raise ValueError(f"{args.annotation_path}: lists no training video that is on disk; check --video_path")
        self._tell_empty_classes(training)
        if self.ways is not None and len(self.ways) != len(training):
            print(f"{args.annotation_path}: has {len(training)} training videos on disk now, and had {len(self.ways)} "
                  "when prototypes started; in which ways they show their class is not known any more", file=sys.stderr)
            self.ways = None
        if self.ways is not None:
            self.trainer.count_ways(self.ways, torch.from_numpy(training.labels))
        clips = training_clips(args, training, self.reader("train"))
        tell_looped(clips)
        if min(len(clips), args.batch_size) < self.world.size:
            raise ValueError(f"{self.world.size} processes cannot share batches of {min(len(clips), args.batch_size)} "
                             "clips; start fewer, or raise --batch_size, which counts the clips of all of them")
        per_epoch = n_batches(len(clips), args.batch_size, least_batch(self.world.size))
        steps = training_steps(n_batches=per_epoch, trunk_epochs=args.trunk_epochs,
                               warm_epochs=args.warm_epochs, n_epochs=args.n_epochs, push_start=args.push_start,
                               push_every=args.push_every, tune_iterations=args.tune_iterations,
                               last_push=not args.no_last_push)
        todo = remaining(steps, self.done)
        if not todo:
            print(f"{self.results}: the run is finished; a larger --n_epochs goes on", file=sys.stderr)
            return True
        if self.earlier and self.world.is_main:  # not before everything else was found in order
            for old in [*self.earlier, *map(self.results.joinpath, OF_A_MODEL)]:
                old.unlink(missing_ok=True)
            for folder in ("img", "tensorboard"):
                shutil.rmtree(self.results / folder, ignore_errors=True)
        for ahead in put_aside(self.results, self.done) if self.world.is_main else ():
            print(f"{ahead.name}: lies ahead of where this run goes on; kept as {ahead.name}.ahead", file=sys.stderr)
        if self.world.is_main:
            sweep(self.results)
        log = Log(self.results, self.done, tensorboard=args.tensorboard, silent=not self.world.is_main)
        totals, behind = steps.counts(), steps[:len(steps) - len(todo)].counts()
        batches = self._batches(clips, steps, todo)
        still = even_clips(args, training, self.reader("train"), args.push_clips)
        # not mirrored: a push record knows no mirrored clips
        augmented = training_clips(args, training, self.reader("train"), flip=False)
        passes = self._push_passes(training, still, augmented, steps)
        kept: KeptFeatures | None = None
        tuning: torch.Tensor | None = None  # the kept features' activations against the pushed prototypes
        meter, bar, told = Meter(), None, False
        for step, following in itertools.pairwise(itertools.chain(todo, [None])):
            progress = behind[step.kind] / totals[step.kind]
            behind[step.kind] += 1
            bar = bar or self._bar(step, todo)
            if step.kind in GRADIENT_KINDS:
                batch = next(batches[step.kind])
                if self.ways is not None and step.kind != "trunk":
                    batch["way"] = self.ways[batch["video"]]
                meter.add(self.trainer.step(step, progress, batch), self.world.total(len(batch["label"])))
            elif step.kind == "start":
                self._start(still, log, step)
            elif step.kind == "push":
                kept, tuning = self._push(passes(step), log, step, training)
                if args.last_layer == "joint":
                    kept = tuning = None  # of the neck, which moves now
            elif args.last_layer == "joint":
                kept = kept or self._trunk_features(augmented)
                self._tune_prototypes(step, kept, meter)
            else:
                kept = kept or keep_features(nn.Sequential(self.model.trunk, self.model.neck), device=self.device,
                                             folder=self.results, **passes(step))
                if tuning is None:
                    tuning = self._near(kept.activations(self.model.prototype_layer, self.device))
                meter.add(self.trainer.tune(step, progress, tuning, kept.labels),
                          self.world.total(len(kept.labels)))
            self.done = step
            bar.update()
            ended = following is None or (following.kind, following.epoch) != (step.kind, step.epoch)
            if meter.count and (ended or meter.count % 20 == 0):
                self._watch(meter.means(), step, bar)
            if ended:
                bar.close()
                if step.kind in ("trunk", "joint"):  # each process has batch-norm statistics of its own clips
                    self.world.align(self.model)
                if meter.count:
                    log.add(step.kind, step, **meter.means())
                if not told and step.kind in GRADIENT_KINDS and meter.count == per_epoch:
                    self._tell_unreadable(clips)
                    told = True
                self._validate(log, step)
                meter, bar = Meter(), None
                if step.kind == "warm" and (following is None or following.kind != "warm"):
                    del batches["warm"]  # and with it the kept features
                if step.kind == "last":
                    kept, tuning = None, None
                self._checkpoint(step, following)
            asked = self.world.any(stop.asked)
            if asked and following is not None:
                self.save("last.pth")
                print(f"asked to stop: {self.results / 'last.pth'} stands at {step.kind} epoch {step.epoch}; go on "
                      "with --resume_path auto", file=sys.stderr)
                return False
        return not asked  # during the last step: what would come after is not what was asked for

    def _push_passes(self, training: VideoTable, still: VideoClips, augmented: VideoClips,
                     steps: Steps) -> Callable[[Step], dict]:
        """By step, what a push and the tuning after it go over: the loader, its clips at most, and the precision.

        The last push decides what is explained; in those before it fewer clips and the precision of evaluation do.
        """
        self.last_push = max((step.epoch for step in steps.only("push")), default=0)
        few = min(self.args.middle_push_clips, self.args.push_clips)
        middle = still if few == self.args.push_clips else even_clips(self.args, training, self.reader("train"),
                                                                            few)
        released = self.args.push_on != "still"

        def of(step: Step) -> dict:
            final = step.epoch == self.last_push
            clips = augmented if released else still if final else middle
            loader = self._loader(clips)
            return {"loader": NormalisedTwice(loader) if released else loader,
                    "n_clips": len(self.world.share(len(clips))),
                    "precision": Precision(self.device) if final else self.precision}
        return of

    def _loader(self, clips: VideoClips, order: Iterable[list] | None = None, *,
                persistent: bool = False) -> DataLoader:
        """Batches of this process's share of clips in their own order, or in another."""
        how = {"batch_sampler": order} if order is not None else self._share(clips, self.args.batch_size)
        return make_loader(clips, n_threads=self.args.n_threads, device=self.device, persistent=persistent,
                                 **how)

    def _share(self, clips: VideoClips, batch_size: int) -> dict:
        if self.world.size == 1:
            return {"batch_size": batch_size}
        return {"batch_size": batch_size, "sampler": self.world.share(len(clips))}

    def _batches(self, clips: VideoClips, steps: Steps, todo: Steps) -> dict[str, Iterator[dict]]:
        """By kind of step, the batches of all that is left to do."""
        def order(*kinds: str) -> ScheduledBatches:
            return ScheduledBatches(todo.only(*kinds), len(clips), self.args.batch_size, seed=self.args.manual_seed,
                                    trunk_epochs=self.args.trunk_epochs, rank=self.world.rank, size=self.world.size)

        views = self._views(len(clips), steps) if todo.only("warm") else None
        if views is None:
            return dict.fromkeys(GRADIENT_KINDS, valid_clips(self._loader(clips, order(*GRADIENT_KINDS)), self.device))
        loaded = valid_clips(self._loader(clips, order("trunk", "joint")), self.device)
        return {"trunk": loaded, "warm": self._cached(clips, views, order("warm")), "joint": loaded}

    def _views(self, n_clips: int, steps: Steps) -> Views | None:
        """The views of --cache_features, where the schedule has more warm epochs than these and they fit the budget."""
        args, trunk = self.args, self.model.trunk
        if not 0 < args.cache_features < len(steps.only("warm").stretches):
            return None
        views = Views(args.cache_features, n_clips, first=args.trunk_epochs + 1)
        size = (args.sample_duration, args.sample_size, args.sample_size)
        cells = math.prod(-(-n // stride) for n, stride in zip(size, trunk.stride, strict=True))
        gigabytes = len(views) * trunk.out_channels * cells * 2 / 1e9
        fit = gigabytes <= args.cache_gb
        print(f"warm epochs: the trunk's features of {args.cache_features} views of each of {n_clips} clips "
              + (f"are kept ({gigabytes:.2g} GB)" if fit else
                 f"would take {gigabytes:.2g} GB, more than --cache_gb {args.cache_gb:g}: every epoch runs the trunk"),
              file=sys.stderr)
        return views if fit else None

    def _cached(self, clips: VideoClips, views: Views, order: ScheduledBatches) -> Iterator[dict]:
        """Batches of the trunk's features of the views, which are computed when the first batch is asked for."""
        world = self.world
        loader = self._loader(clips, views.passes(self.args.batch_size, world.rank, world.size))
        kept = keep_features(self.model.trunk, loader, device=self.device, n_clips=len(world.share(len(views))),
                             budget=math.inf, precision=self.precision, description="trunk features")
        kept = KeptFeatures(*(world.collect(part, len(views))
                              for part in (kept.features, kept.labels, kept.videos, kept.items)))
        yield from kept.batches(views.items(order), self.device)

    def _trunk_features(self, clips: VideoClips) -> KeptFeatures:
        """The trunk's features of training clips, on every process."""
        kept = keep_features(self.model.trunk, self._loader(clips), device=self.device, folder=self.results,
                             n_clips=len(self.world.share(len(clips))), precision=self.precision,
                             description="trunk features")
        return KeptFeatures(*(self.world.collect(part, len(clips))
                              for part in (kept.features, kept.labels, kept.videos, kept.items)))

    def _tune_prototypes(self, step: Step, kept: KeptFeatures, meter: Meter) -> None:
        """The released code's tuning: a pass as in a warm epoch, by an optimiser that remembers nothing."""
        self.trainer.optimizers.pop("warm", None)
        order = EpochBatches(len(kept.labels), self.args.batch_size, seed=self.args.manual_seed,
                             epoch=(step.epoch << 20) + step.iteration, least=least_batch(self.world.size))
        mine = ([item for _, item in items][self.world.rank::self.world.size] for items in order)
        for batch in kept.batches(mine, self.device):
            meter.add(self.trainer.step(Step("warm", step.epoch, step.iteration), 0.0, batch),
                      self.world.total(len(batch["label"])))

    @staticmethod
    def _watch(means: dict[str, float], step: Step, bar: tqdm) -> None:
        if not np.isfinite(means["loss"]):
            raise ValueError(f"the loss is no finite number any more in {step.kind} epoch {step.epoch}; go on from the "
                             "last checkpoint (--resume_path auto) with a smaller learning rate")
        bar.set_postfix(loss=f"{means['loss']:.3f}", top1=f"{means['top1']:.2f}",
                        clips_s=f"{means['clips_per_s']:.0f}")

    def _bar(self, step: Step, todo: Steps) -> tqdm:
        """The progress bar of an epoch's steps of one kind."""
        total = next(stretch.n for stretch in todo.stretches if stretch[:2] == step[:2])
        of = self.args.trunk_epochs if step.kind == "trunk" else self.args.n_epochs
        name = step.kind if step.kind == "start" else f"{step.kind} {step.epoch}/{of}"
        return tqdm(total=total, desc=name, leave=False, mininterval=0.5)

    def _tell_empty_classes(self, training: VideoTable) -> None:
        empty = sorted(set(range(self.hierarchy.n_leaves)) - set(training.labels.tolist()))
        if empty:
            names = ", ".join(self.hierarchy.names[leaf] for leaf in empty[:3])
            print(f"{self.args.annotation_path}: {len(empty)} of {self.hierarchy.n_leaves} classes have no training "
                  f"video on disk ({names}{', ...' if len(empty) > 3 else ''}); their prototypes stay unmatched",
                  file=sys.stderr)

    def _tell_unreadable(self, clips: VideoClips) -> None:
        """Print how many training videos could not be read in a whole epoch, by any process, where there are any."""
        lost = set().union(*self.world.objects(clips.unreadable))
        if lost and self.world.is_main:
            tqdm.write(f"warning: {len(lost)} of {len(clips.videos)} training videos could not be read, and others "
                       "took their place; util_scripts.check_dataset names all of them", file=sys.stderr)

    def _start(self, clips: VideoClips, log: Log, step: Step) -> None:
        if not self.mapped:
            where = "are random" if self.args.no_start else "start at random patches of their nodes"
            tqdm.write(f"no trunk epochs, so no class maps: prototypes {where}, and focus and background separation "
                       "are off", file=sys.stderr)
        placed = 0
        if not self.args.no_start:
            if self.world.is_main:
                placed = self._place(clips)
            self.world.align(self.model)
            self.ways = self.world.objects(self.ways)[0]
            if self.ways is not None:
                self.trainer.count_ways(self.ways, torch.from_numpy(clips.videos.labels))
        known = 0 if self.ways is None else int((self.ways >= 0).sum())
        log.add("start", step, placed=placed, prototypes=len(self.model.prototype_layer.node_of), videos_of_a_way=known)

    def _place(self, clips: VideoClips) -> int:
        """Give prototypes, and the videos their ways, a start; how many prototypes were placed."""
        args = self.args
        loader = make_loader(clips, n_threads=args.n_threads, device=self.device, batch_size=args.batch_size)
        how = {"device": self.device, "sure": args.sure, "mapped": self.mapped, "precision": self.precision,
               "progress": True}
        if args.starts == "sampled":
            generator = torch.Generator().manual_seed(args.manual_seed)
            return start_prototypes(self.model, loader, generator=generator, **how)
        starts = spread_prototypes(self.model, loader, n_videos=len(clips.videos), seed=args.manual_seed,
                                   standardise=args.standardise, clips_a_way=args.ways_clips, **how)
        if self.mapped and args.ways_weight and bool((starts.ways >= 0).any()):
            self.ways = starts.ways
        return starts.placed

    def _push(self, over: dict, log: Log, step: Step, training: VideoTable) -> tuple[KeptFeatures, torch.Tensor]:
        """Push, and after the last push merge; the features of this process's clips, and their activations."""
        began = time.perf_counter()
        self.trainer.enter("last")
        self.record, kept = push(self.model, names=training.names, device=self.device, epoch=step.epoch,
                                 folder=self.results, progress=True, world=self.world,
                                 repeats=self.args.push_repeats, **over)
        n_pushed = len(self.record.video)
        activations = self._survey(kept, training, merge=step.epoch == self.last_push)
        seconds = time.perf_counter() - began
        matched = sum(video is not None for video in self.record.video)
        twice = self.record.duplicates(self.model.prototype_layer.node_of)
        n_clips, n_read = self.world.total(over["n_clips"]), self.world.total(len(kept.labels))
        began = time.perf_counter()
        rows = self.record.rows(self.hierarchy, self.model.prototype_layer.node_of)
        self._write_json("prototypes.json", rows)
        self._pictures(step, training, log)
        tqdm.write(f"push {step.epoch}: {matched} of {len(rows)} prototypes matched"
                   + (f", the other {len(rows) - matched} keep their values" if matched < len(rows) else "")
                   + (f"; {twice} came to the patch of another one of their node" if twice else "")
                   + (f"; merged into {len(rows)} of {n_pushed}" if len(rows) < n_pushed else "")
                   + (f"; {n_clips - n_read} of {n_clips} clips could not be read" if n_read < n_clips else ""))
        log.add("push", step, matched=matched, unmatched=len(rows) - matched, duplicates=twice, clips=n_read,
                merged=n_pushed - len(rows),
                gap=float(self.record.distance.sum()) / max(matched, 1), seconds=round(seconds, 3),
                picture_seconds=round(time.perf_counter() - began, 3))
        return kept, activations

    def _survey(self, kept: KeptFeatures, training: VideoTable, *, merge: bool) -> torch.Tensor:
        """See how near all training clips come to the pushed prototypes: merge by it, and keep its quantiles.

        Returns:
            (n, P) activations of this process's clips.
        """
        model, world = self.model, self.world
        own = kept.distances(model.prototype_layer, self.device)  # (n, P)
        order = world.rows(kept.items).argsort(stable=True)
        distances, labels, videos = (world.rows(part)[order] for part in (own, kept.labels, kept.videos))
        if merge and self.args.merge_coverage and not self.args.no_merge:
            self.record, into = merge_prototypes(model, self.record, distances, labels, self.args.merge_coverage,
                                                 None if self.ways is None else self.ways[videos])
            keep = into == torch.arange(len(into))
            distances = distances[:, keep]
            if not keep.all():
                own = kept.distances(model.prototype_layer, self.device)  # to the bit what a resumed run will have
                self.ways = None  # each was some prototypes' before
                self.trainer.forget()  # the optimisers of other prototypes
                self.trainer.enter("last")
        self.record.spread = spread_of(model, self.record, distances, videos, training.names,
                                       torch.from_numpy(training.labels))
        return self._near(model.prototype_layer.similarity(own))

    def _near(self, activations: torch.Tensor) -> torch.Tensor:
        """Activations on the device where they take little of its memory: hundreds of passes go over them."""
        return activations.to(self.device) if activations.nbytes <= 1 << 30 else activations

    def _pictures(self, step: Step, training: VideoTable, log: Log) -> None:
        if self.args.no_img or not self.world.is_main:
            return
        out, node_of = self.results / "img" / f"epoch_{step.epoch}", self.model.prototype_layer.node_of.cpu()
        sources = set(self.record.video)
        by_name = {name: training[i] for i, name in enumerate(training.names) if name in sources}
        lost = prototype_pictures(self.record, self.hierarchy, node_of, videos=by_name, reader=self.reader("train"),
                                  out=out, n_jobs=self.args.n_threads, progress=True)
        if lost:
            tqdm.write(f"warning: {len(lost)} training videos cannot be read any more; prototypes from them have no "
                       f"picture (first: {lost[0]})", file=sys.stderr)
        if self.args.tensorboard:
            for node in range(len(self.hierarchy)):
                sheet = patch_sheet(out, (node_of == node).nonzero().flatten().tolist())
                if sheet is not None:
                    log.image(f"prototypes/{self.hierarchy.full_name(node)}", sheet, step.epoch)

    @functools.cached_property
    def _validation(self) -> tuple[VideoTable, DataLoader]:
        """The validation videos, and a loader of their clips whose processes wait for the next validation."""
        videos = self.subset("val")
        clips = even_clips(self.args, videos, self.reader("val"), self.args.n_val_samples)
        return videos, self._loader(clips, persistent=True)

    def validate(self, *, pooled: bool = False) -> dict[str, float] | None:
        """Accuracies over the validation videos, by the prototypes or by the trunk epochs' softmax head."""
        videos, loader = self._validation
        if not videos:
            return None
        scores = evaluate(self.model, loader, torch.from_numpy(videos.labels), device=self.device, pooled=pooled,
                          description="val", world=self.world, precision=self.precision,
                          power=window_power(self.args))
        self.trainer.kind = None  # evaluation left the model in eval mode
        unread = len(videos) - scores["videos"]
        return scores | ({"unread": unread} if unread else {})

    def _validate(self, log: Log, step: Step) -> None:
        last_epoch = self.args.trunk_epochs if step.kind == "trunk" else self.args.n_epochs
        due = step.epoch % self.args.val_every == 0 or step.epoch == last_epoch
        if self.args.no_val or step.kind == "start" or not due:
            return
        scores = self.validate(pooled=step.kind == "trunk")
        if scores is not None:
            log.add("val", step, **scores)
            tell(f"{step.kind} {step.epoch}", scores)

    def _checkpoint(self, step: Step, following: Step | None) -> None:
        """Save at the end of an epoch, after its push and tuning."""
        due = following is None or step.epoch % self.args.checkpoint == 0
        if step.kind == "trunk":
            if due or following.kind != "trunk":
                self.save("trunk.pth")
        elif step.kind != "start" and due and (following is None or following.epoch != step.epoch):
            self.save(f"save_{step.epoch}.pth")

    # --- inference

    def infer(self) -> None:
        """Pool the probabilities of each video's windows, and write {subset}.json."""
        args, name = self.args, self.args.inference_subset
        videos = whole_videos(self.subset(name))
        if not videos:
            raise ValueError(f"{args.annotation_path}: lists no video of --inference_subset {name} that is on disk")
        if self.record is None:
            print("inference: nothing was pushed yet, so these predictions are not by training patches",
                  file=sys.stderr)
        clips, pool = self._predict(videos, self.reader(name), "inference")
        tell_looped(clips)
        if not pool.seen.any():
            raise ValueError(f"inference: not one video of --inference_subset {name} can be read; prepare them again "
                             "with util_scripts.generate_video_jpgs")
        believed = self._believed()
        content = results_json(pool, videos, clips, self.hierarchy, top=args.output_topk, believed=believed)
        self._write_metrics(pool, videos, believed)
        if self.record is not None and not (self.results / "prototypes.json").is_file():
            self._write_json("prototypes.json", self.record.rows(self.hierarchy, self.model.prototype_layer.node_of))
        unread = len(videos) - len(content["results"])
        print(f"{self._write_json(f'{name}.json', content)}: predictions of {len(content['results'])} videos"
              + (f"; {unread} could not be read" if unread else ""))


    def _predict(self, videos: Sequence[Video], reader: Reader, what: str) -> tuple[VideoClips, VideoPool]:
        """All windows of some videos, and what these come to."""
        args = self.args
        clips = window_clips(args, videos, reader, args.inference_stride)
        loader = make_loader(clips, n_threads=args.n_threads, device=self.device,
                                   **self._share(clips, args.inference_batch_size or args.batch_size))
        return clips, predict(self.model, loader, len(videos), device=self.device, description=what, world=self.world,
                              precision=self.precision, power=window_power(args))

    def _believed(self) -> Believed:
        """Temperature and threshold of back-off: fitted on the groups that --calibrate held out of training."""
        args = self.args
        videos = whole_videos(self.videos.subset(CALIBRATION))
        if not videos:
            print("back-off: no groups were held out to calibrate on (--calibrate), so probabilities are taken as they "
                  f"come and the threshold is --target_accuracy {args.target_accuracy:g} itself", file=sys.stderr)
            return Believed.uncalibrated(args.target_accuracy)
        _, pool = self._predict(videos, self.source, "calibration")
        labels = torch.tensor([video.label for video in videos])[pool.seen]
        if not len(labels):
            print("warning: back-off: not one of the videos that were held out to calibrate on can be read, so "
                  "probabilities are taken as they come", file=sys.stderr)
            return Believed.uncalibrated(args.target_accuracy)
        probs = pool.probs[pool.seen, :self.hierarchy.n_leaves]
        believed = Believed.fitted(probs, labels, self.hierarchy, args.target_accuracy)
        chosen = f"chosen on {len(labels)} videos of {len(self.held_out)} groups that were held out of training"
        if believed.threshold > 1:
            print(f"warning: back-off: no threshold keeps {args.target_accuracy:g} right answers on the {len(labels)} "
                  "held-out videos (too few, or too many mistakes), so every answer is the root; a lower "
                  "--target_accuracy asks for less", file=sys.stderr)
        print(f"back-off: temperature {believed.temperature:.3g} and threshold {believed.threshold:.3g}, {chosen}")
        return believed

    def _write_metrics(self, pool: VideoPool, videos: Sequence[Video], believed: Believed) -> None:
        """metrics.json, of the videos that could be read and whose class is known."""
        labels = torch.tensor([video.label for video in videos])
        known = (pool.seen & (labels >= 0)).nonzero()[:, 0]
        if not len(known):
            return
        found = recognition_metrics(pool.probs[known, :self.hierarchy.n_leaves], labels[known],
                                    [videos[v].name for v in known.tolist()], self.hierarchy, believed=believed)
        about = {"model": fingerprint(self.model), "subset": self.args.inference_subset, "n_videos": len(known),
                 "n_clips": int(pool.count[known].sum()), "window_power": pool.power}
        self._write_json("metrics.json", about | found, indent=1)


def tell_looped(clips: VideoClips) -> None:
    """Print how many videos are shorter than a clip, where there are any."""
    if clips.looped:
        print(f"warning: {clips.looped} of {len(clips.videos)} videos are shorter than a clip, and are looped; a "
              "smaller --sample_duration would show every frame once", file=sys.stderr)


def tell(what: str, scores: dict[str, float]) -> None:
    """Print accuracies in one line."""
    tqdm.write(f"{what}: validation " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    with joined() as world:
        _work(argv, world)


def _work(argv: list[str] | None, world: World) -> None:
    args, given = parse_main(argv)
    if args.no_train and args.no_val and not args.inference:
        print("--no_train and --no_val leave nothing to do; add --inference", file=sys.stderr)
    run = Run(args, given, world)
    if not args.no_train:
        if not run.train():
            return
    elif not args.no_val:
        scores = run.validate()
        if scores is not None:
            tell("checkpoint", scores)
    if args.inference:
        run.infer()
        if world.is_main:
            print(f"report: {write_report(run.results)}")


if __name__ == "__main__":
    with user_errors():
        main()

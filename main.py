"""Train HIPE, push its prototypes, validate, and write predictions: parse, build, walk the schedule."""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import build
from datasets.sampling import n_batches
from datasets.ucf101 import subset_of
from datasets.video import Video
from hierarchy.tree import Hierarchy
from models import HIPE
from models.weights import load_pretrained
from options import CALL_FLAGS, WEIGHT_FLAGS, parse_main, resolve
from training.checkpoint import checkpoints_in, load_checkpoint, newest_whole, save_checkpoint, write_whole
from training.engine import LossWeights, Meter, Phase, Trainer, evaluate, predict, results_json
from training.push import KeptFeatures, PushRecord, keep_features, push, start_prototypes, valid_clips
from training.schedule import GRADIENT_KINDS, ScheduledBatches, Step, completed, remaining, training_steps
from util_scripts.errors import user_errors


class Log:
    """metrics.jsonl, one line an event, and the same numbers for tensorboard where it is wanted."""

    def __init__(self, folder: Path, done: Step | None, tensorboard: bool) -> None:
        self.path = folder / "metrics.jsonl"
        if self.path.is_file():  # what came after the checkpoint is about to happen again
            lines = [] if done is None else [line for line in self.path.read_text().splitlines() if self._kept(line, done)]
            write_whole(self.path, lambda file: file.write("".join(line + "\n" for line in lines).encode()))
        self.writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter
            self.writer = SummaryWriter(str(folder / "tensorboard"))

    @staticmethod
    def _kept(line: str, done: Step) -> bool:
        try:
            return completed(Step(*json.loads(line)["done"]), done)
        except (ValueError, KeyError, TypeError):  # a line cut short by a kill
            return False

    def add(self, event: str, done: Step, **values: float | str) -> None:
        """Append one event at a place in the schedule."""
        with open(self.path, "a") as file:
            file.write(json.dumps({"event": event, "epoch": done.epoch, **values, "done": list(done)}) + "\n")
        if self.writer is not None:
            group = event if done.kind in (event, "start") else f"{event}/{done.kind}"
            for name, value in values.items():
                if isinstance(value, int | float):
                    self.writer.add_scalar(f"{group}/{name}", value, done.epoch)
            self.writer.flush()


class Stop:
    """Remembers that the program was asked to stop, so that it can do so between two steps."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


def resume(args: argparse.Namespace, given: set[str]) -> tuple[dict | None, Path | None]:
    """Find and read the checkpoint that --resume_path means, and take over its flags.

    Model, data and schedule flags come from the checkpoint unless they are given; a given flag that contradicts the
    weights is an error.
    Returns:
        the checkpoint and its path, or None twice for a fresh run. Sets args.result_path.
    """
    path = None
    if args.resume_path == "auto":
        args.result_path = build.under_root(args, args.result_path or "results")
        path = newest_whole(args.result_path)
        if path is None and checkpoints_in(args.result_path):
            raise ValueError(f"{args.result_path}: none of its checkpoints can be read; begin afresh with --overwrite")
    elif args.resume_path:
        path = build.under_root(args, args.resume_path)
        args.result_path = build.under_root(args, args.result_path) if args.result_path else path.parent
    else:
        args.result_path = build.under_root(args, args.result_path or "results")
    for name in ("video_path", "annotation_path", "pretrain_path"):
        if getattr(args, name):
            setattr(args, name, str(build.under_root(args, getattr(args, name))))
    args.root_path = str(Path(args.root_path).expanduser().resolve())
    checkpoint = None if path is None else load_checkpoint(path)
    if checkpoint is None:
        resolve(args)
        return None, None
    stored = checkpoint["args"]
    for name in WEIGHT_FLAGS:
        # strides are judged by what they come to, not by which of their flags was given
        if name in given and name in stored and name not in ("conv1_t_stride", "no_max_pool"):
            value = getattr(args, name)
            if value != stored[name]:
                raise ValueError(f"{path}: --{name} {value} contradicts the checkpoint, which was trained with "
                                 f"{stored[name]}; leave the flag out, or train afresh")
    for name, value in stored.items():
        if name not in given and name not in CALL_FLAGS:
            setattr(args, name, value)
    resolve(args)
    for name in ("temporal_strides", "spatial_strides"):
        if getattr(args, name) != stored[name]:
            raise ValueError(f"{path}: --{name} {getattr(args, name)} contradicts the checkpoint, which was trained with "
                             f"{stored[name]}; leave the flag out, or train afresh")
    return checkpoint, path


def check_tree(args: argparse.Namespace, given: set[str], checkpoint: dict | None, path: Path | None) -> Hierarchy:
    """The class tree of the run, which must be the checkpoint's own where there is one."""
    if checkpoint is None:
        hierarchy = Hierarchy.from_csv(build.find_file(args, args.tree_file))
    else:
        hierarchy = Hierarchy.from_rows(checkpoint["hierarchy_rows"])
        if "tree_file" in given:
            other = build.find_file(args, args.tree_file)
            if Hierarchy.from_csv(other) != hierarchy:
                raise ValueError(f"{path}: trained on another tree than {other}; leave --tree_file out, or train afresh")
    if args.n_classes is not None and args.n_classes != hierarchy.n_leaves:
        raise ValueError(f"--n_classes {args.n_classes} contradicts the tree {args.tree_file}, which has "
                         f"{hierarchy.n_leaves} classes; mend one of them")
    args.n_classes = hierarchy.n_leaves
    return hierarchy


class Run:
    """One run: what is trained, on what, how far it has come, and where it is written."""

    def __init__(self, args: argparse.Namespace, given: set[str]) -> None:
        self.args = args
        self.device = build.choose_device(args.device, args.no_cuda)
        self.checkpoint, self.resumed_from = resume(args, given)
        self.hierarchy = check_tree(args, given, self.checkpoint, self.resumed_from)
        self.videos = build.read_videos(args, self.hierarchy)
        self.results: Path = args.result_path
        held = checkpoints_in(self.results)
        if held and self.checkpoint is None and not args.no_train:
            if not args.overwrite:
                raise ValueError(f"{self.results}: holds a run already ({held[0].name}); go on with --resume_path auto, "
                                 "begin afresh with --overwrite, or choose another --result_path")
            for old in held:
                old.unlink()
        self.results.mkdir(parents=True, exist_ok=True)
        self.record: PushRecord | None = None
        self.done: Step | None = None
        torch.manual_seed(args.manual_seed)
        self.model = self._model().to(self.device)
        self.trainer = Trainer(self.model, self._phases(), self._weights(), margin=args.separation_margin,
                               focus=args.focus, background=args.background)
        if self.checkpoint is not None:
            self._restore()
        write_whole(self.results / "opts.json", lambda file: file.write(json.dumps(self._plain_args(), indent=1).encode()))
        self.readers: dict[str, object] = {}

    def _model(self) -> HIPE:
        args = self.args
        if self.checkpoint is not None:
            model, _, self.record = build.model_of(self.checkpoint, self.resumed_from)
            return model
        if args.no_train:
            raise ValueError("--no_train needs a trained model; give one with --resume_path")
        points, c = build.fresh_embedding(args, self.hierarchy, self.results / "embeddings.pth")
        args.c = c
        model = build.build_model(args, self.hierarchy, points, c)
        if args.pretrain_path:
            dropped = load_pretrained(model.trunk, args.pretrain_path)
            print(f"{args.pretrain_path}: trunk loaded, head dropped ({', '.join(dropped) or 'none there'})", file=sys.stderr)
        return model

    def _restore(self) -> None:
        """Resume, in this order: 1 the model and the push record (in _model), 2 the cursor, 3 the optimisers, 4 the RNG."""
        self.done = Step(*self.checkpoint["done"])
        if not self.args.no_train:
            self.trainer.load_state(self.checkpoint["optimizers"])
            torch.set_rng_state(self.checkpoint["rng"]["cpu"])
            if self.device.type == "cuda" and "cuda" in self.checkpoint["rng"]:
                torch.cuda.set_rng_state_all(self.checkpoint["rng"]["cuda"])
        self.checkpoint = None  # a second copy of model and optimisers is of no use any more

    def _phases(self) -> dict[str, Phase]:
        args = self.args
        return {
            "trunk": Phase(args.trunk_optimizer, args.trunk_learning_rate, 0, args.trunk_weight_decay, args.momentum,
                           args.trunk_lr_scheduler, args.multistep_milestones),
            "warm": Phase("adam", 0, args.warm_learning_rate, 0, args.momentum, args.warm_lr_scheduler,
                          args.multistep_milestones),
            "joint": Phase(args.optimizer, args.learning_rate, args.head_learning_rate, args.weight_decay, args.momentum,
                           args.lr_scheduler, args.multistep_milestones),
            "last": Phase("adam", 0, args.last_learning_rate, 0, args.momentum)}

    def _weights(self) -> LossWeights:
        args = self.args
        return LossWeights(ce=args.ce_weight, cluster=args.cluster_weight, separation=args.separation_weight,
                           background=args.background_weight, coverage=args.coverage_weight, group=args.group_weight,
                           orthogonality=args.orthogonality_weight, sharing=args.sharing_weight)

    def _plain_args(self) -> dict:
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self.args).items()}

    def subset(self, name: str) -> list[Video]:
        """The videos of a subset with a known class."""
        return [video for video in self.videos if video.subset == subset_of(name)]

    def reader(self, subset: str):
        """One reader a subset, so that what it keeps in memory is read once."""
        if subset not in self.readers:
            self.readers[subset] = build.make_reader(self.args, self.subset(subset))
        return self.readers[subset]

    def save(self, name: str) -> None:
        """Write a checkpoint into the results folder."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state_all()
        embeddings = self.model.embeddings
        save_checkpoint(self.results / name, {
            "done": list(self.done), "args": self._plain_args(), "hierarchy_rows": [list(row) for row in self.hierarchy.rows],
            "embedding": {"points": embeddings.points.cpu(), "c": embeddings.c},
            "model": self.model.state_dict(), "optimizers": self.trainer.state(), "rng": rng,
            "push_record": None if self.record is None else self.record.to_dict()})

    # --- training

    def train(self) -> bool:
        """Walk the schedule from where it stands; False when asked to stop before its end."""
        args, stop = self.args, Stop()
        training = self.subset("train")
        if not training:
            raise ValueError(f"{args.annotation_path}: lists no training video that is on disk; check --video_path")
        self._tell_empty_classes(training)
        clips = build.training_clips(args, training, self.reader("train"))
        steps = training_steps(n_batches=n_batches(len(clips), args.batch_size), trunk_epochs=args.trunk_epochs, warm_epochs=args.warm_epochs,
                               n_epochs=args.n_epochs, push_start=args.push_start, push_every=args.push_every,
                               tune_iterations=args.tune_iterations)
        todo = remaining(steps, self.done)
        log = Log(self.results, self.done, args.tensorboard)
        if not todo:
            print(f"{self.results}: the run is finished; a larger --n_epochs goes on", file=sys.stderr)
            return True
        totals = Counter(step.kind for step in steps)
        behind = Counter(step.kind for step in steps[:len(steps) - len(todo)])
        loader = build.make_loader(clips, n_threads=args.n_threads, device=self.device, batch_sampler=ScheduledBatches(
            todo, len(clips), args.batch_size, seed=args.manual_seed, trunk_epochs=args.trunk_epochs))
        batches = valid_clips(loader, self.device)
        still = build.even_clips(args, training, self.reader("train"), args.push_clips)
        push_loader = build.make_loader(still, n_threads=args.n_threads, batch_size=args.batch_size, device=self.device)
        kept: KeptFeatures | None = None
        tuning = None
        meter, bar = Meter(), None
        for place, step in enumerate(todo):
            progress = behind[step.kind] / totals[step.kind]
            behind[step.kind] += 1
            following = todo[place + 1] if place + 1 < len(todo) else None
            if bar is None:
                bar = self._bar(step, todo, place)
            if step.kind in GRADIENT_KINDS:
                batch = next(batches)
                scalars = self.trainer.step(step, progress, batch)
                meter.add(scalars, len(batch["label"]))
            elif step.kind == "start":
                self._start(push_loader, log, step)
            elif step.kind == "push":
                kept, tuning = self._push(push_loader, log, step, training, len(still)), None
            else:
                if tuning is None:
                    kept = kept or keep_features(self.model, push_loader, device=self.device, n_clips=len(still),
                                                 folder=self.results)
                    tuning = kept.activations(self.model.prototype_layer, self.device)
                meter.add(self.trainer.tune(step, progress, tuning, kept.labels), len(kept.labels))
            self.done = step
            bar.update()
            ended = following is None or (following.kind, following.epoch) != (step.kind, step.epoch)
            if meter.count and (ended or meter.count % 20 == 0):
                means = meter.means()
                if not np.isfinite(means["loss"]):
                    raise ValueError(f"the loss is not a finite number any more at {step.kind} epoch {step.epoch}; go on "
                                     "from the last checkpoint (--resume_path auto) with a smaller learning rate")
                bar.set_postfix(loss=f"{means['loss']:.3f}", top1=f"{means['top1']:.2f}", clips_s=f"{means['clips_per_s']:.0f}")
            if ended:
                bar.close()
                if meter.count:
                    log.add(step.kind, step, **meter.means())
                self._validate(log, step)
                meter, bar = Meter(), None
                if step.kind == "last":
                    kept, tuning = None, None
                self._checkpoint(step, following)
            if stop.asked and following is not None:
                self.save("last.pth")
                print(f"asked to stop: {self.results / 'last.pth'} is at {step.kind} epoch {step.epoch}; go on with "
                      "--resume_path auto", file=sys.stderr)
                return False
        return True

    def _bar(self, step: Step, todo: list[Step], place: int) -> tqdm:
        same = 0
        while place + same < len(todo) and (todo[place + same].kind, todo[place + same].epoch) == (step.kind, step.epoch):
            same += 1
        of = self.args.trunk_epochs if step.kind == "trunk" else self.args.n_epochs
        name = step.kind if step.kind == "start" else f"{step.kind} {step.epoch}/{of}"
        return tqdm(total=same, desc=name, leave=False, mininterval=0.5)

    def _tell_empty_classes(self, training: list[Video]) -> None:
        empty = sorted(set(range(self.hierarchy.n_leaves)) - {video.label for video in training})
        if empty:
            names = ", ".join(self.hierarchy.names[leaf] for leaf in empty[:3])
            print(f"{self.args.annotation_path}: {len(empty)} of {self.hierarchy.n_leaves} classes have no training video "
                  f"on disk ({names}{', ...' if len(empty) > 3 else ''}); their prototypes stay unmatched", file=sys.stderr)

    def _start(self, loader, log: Log, step: Step) -> None:
        placed = 0
        if not self.args.no_start:
            generator = torch.Generator().manual_seed(self.args.manual_seed)
            placed = start_prototypes(self.model, loader, device=self.device, generator=generator, progress=True)
        log.add("start", step, placed=placed, prototypes=len(self.model.prototype_layer.node_of))

    def _push(self, loader, log: Log, step: Step, training: list[Video], n_clips: int) -> KeptFeatures:
        began = time.perf_counter()
        self.trainer.enter("last")
        self.record, kept = push(self.model, loader, names=[video.name for video in training], device=self.device,
                                 epoch=step.epoch, n_clips=n_clips, folder=self.results, progress=True)
        seconds = time.perf_counter() - began
        matched = sum(video is not None for video in self.record.video)
        began = time.perf_counter()
        rows = self.record.rows(self.hierarchy, self.model.prototype_layer.node_of)
        write_whole(self.results / "prototypes.json", lambda file: file.write(json.dumps(rows).encode()))
        self._pictures(step, training, log)
        log.add("push", step, matched=matched, unmatched=len(rows) - matched, clips=len(kept.labels),
                gap=float(self.record.distance.sum()) / max(matched, 1), seconds=round(seconds, 3),
                picture_seconds=round(time.perf_counter() - began, 3))
        return kept

    def _pictures(self, step: Step, training: list[Video], log: Log) -> None:
        if not self.args.no_img:
            from explain import prototype_pictures
            prototype_pictures(self.record, self.hierarchy, self.model.prototype_layer.node_of.cpu(),
                               videos={video.name: video for video in training}, reader=self.reader("train"),
                               out=self.results / "img" / f"epoch_{step.epoch}", n_jobs=self.args.n_threads)

    def _validate(self, log: Log, step: Step) -> None:
        args = self.args
        last_epoch = {"trunk": args.trunk_epochs}.get(step.kind, args.n_epochs)
        due = step.epoch % args.val_every == 0 or step.epoch == last_epoch
        videos = self.subset("val")
        if args.no_val or not videos or step.kind == "start" or not due:
            return
        clips = build.even_clips(args, videos, self.reader("val"), args.n_val_samples)
        loader = build.make_loader(clips, n_threads=args.n_threads, batch_size=args.batch_size, device=self.device)
        labels = torch.tensor([video.label for video in videos])
        scores = evaluate(self.model, loader, labels, device=self.device, pooled=step.kind == "trunk", description="val")
        self.trainer.kind = None  # evaluation left the model in eval mode
        log.add("val", step, **scores)
        print(f"{step.kind} {step.epoch}: validation " + " ".join(f"{name} {value:.4g}" for name, value in scores.items()))

    def _checkpoint(self, step: Step, following: Step | None) -> None:
        """Save at the end of an epoch, after its push and tuning."""
        every = self.args.checkpoint
        if step.kind == "trunk":
            if (following is None or following.kind != "trunk" or step.epoch % every == 0) and \
                    (following is None or following.epoch != step.epoch or following.kind != "trunk"):
                self.save("trunk.pth")
        elif step.kind != "start":
            over = following is None or following.epoch != step.epoch
            if over and (step.epoch % every == 0 or following is None):
                self.save(f"save_{step.epoch}.pth")

    # --- inference

    def infer(self) -> None:
        """Average the probabilities of each video's windows, and write {subset}.json."""
        args = self.args
        videos = [video for video in self.videos if video.subset == subset_of(args.inference_subset)]
        if not videos:
            raise ValueError(f"{args.annotation_path}: lists no video of --inference_subset {args.inference_subset} that is "
                             "on disk")
        clips = build.window_clips(args, videos, self.reader(args.inference_subset), args.inference_stride)
        loader = build.make_loader(clips, n_threads=args.n_threads, device=self.device,
                                   batch_size=args.inference_batch_size or args.batch_size)
        means = predict(self.model, loader, len(videos), device=self.device, description="inference")
        path = self.results / f"{args.inference_subset}.json"
        content = results_json(means, videos, clips, self.hierarchy, top=args.output_topk)
        write_whole(path, lambda file: file.write(json.dumps(content).encode()))
        print(f"{path}: predictions of {len(content['results'])} videos")


def main(argv: list[str] | None = None) -> None:
    """Do what the command line says."""
    args, given = parse_main(argv)
    warnings.simplefilter("default", RuntimeWarning)
    run = Run(args, given)
    if not args.no_train and not run.train():
        return
    if args.inference:
        run.infer()


if __name__ == "__main__":
    with contextlib.suppress(ProcessLookupError):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve the loader's processes
    with user_errors():
        main()

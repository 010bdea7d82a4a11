"""What a run is: what is trained, on what, and how far it has come."""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from datasets import DATASETS
from datasets.annotation import subset_of
from datasets.groups import held_out_groups, hold_out, ungrouped
from datasets.reading import CachedReader, Reader
from datasets.video import VideoTable
from machine.writing import check_writable, write_text
from models import HIPE
from models.stages import stages_before
from run.data import make_reader, read_videos
from run.frozen import FrozenTrunk
from run.model import build_model, check_size, choose_device, fresh_embedding, load_trunk, model_of
from run.resume import resume
from training.checkpoint import checkpoints_in, save_checkpoint, using
from training.distributed import World, synchronise_batchnorm
from training.engine import Phase, Trainer
from training.losses import LossWeights
from training.precision import check_compiler, choose_precision, prepare_device
from training.push import PushRecord
from training.schedule import Step
from training.stored import StoredBatches


class Run:
    """One run. It is assembled, saved and restored in this order:

     1. flags: those given, else those of the checkpoint
     2. class tree
     3. groups of training videos that --calibrate holds out
     4. seed, from which a fresh model is drawn
     5. model, with the class embeddings of its score and the number of prototypes of each node
     6. push record, and the ways that training videos show their classes in
     7. cursor: the last completed step
     8. optimisers
     9. scaler of float16 gradients
    10. states of the random number generators

    Attributes:
        args: flags, of which none changes any more. world: the processes that share the run. results: folder.
        held_out: groups of training videos. videos: all others. source: their reader.
        record: of the last push. ways: (n,) way of each training video, -1 where it is unknown. done: cursor.
        mapped: whether the pooled head tells classes apart, so that there are class maps to place prototypes by.
        earlier: checkpoints of another run in the folder, which training replaces.
        validation: videos and their loader, made by the first validation.
        frozen: features of all clips, while a run trains whose trunk learns nothing.
    """

    def __init__(self, args: argparse.Namespace, given: set[str], world: World) -> None:
        self.world = world
        self.device = world.device(choose_device(args.device, args.no_cuda), args.device)
        start = resume(args, given)
        self.args, self.hierarchy, checkpoint, path = start.args, start.hierarchy, start.checkpoint, start.path
        args = self.args
        videos = read_videos(args, self.hierarchy)
        self.held_out = _held_out(args, videos, checkpoint, path)
        self.videos = hold_out(videos, self.held_out, DATASETS[args.dataset])
        self.source = make_reader(args)
        self.preloaded: set[str] = set()  # subsets that were read into memory
        self.validation: tuple[VideoTable, DataLoader | StoredBatches] | None = None
        self.frozen: FrozenTrunk | None = None
        self.results: Path = args.result_path
        self.earlier = [] if checkpoint is not None or args.no_train else checkpoints_in(self.results)
        if self.earlier and not args.overwrite:
            raise ValueError(f"{self.results}: holds a run already ({self.earlier[0].name}); go on with --resume_path "
                             "auto, begin afresh with --overwrite, or choose another --result_path")
        check_writable(self.results)
        torch.manual_seed(args.manual_seed)
        self.record: PushRecord | None = None
        self.ways: torch.Tensor | None = None
        self.done: Step | None = None
        with world.main_first():  # whose fitted embeddings the others find
            self.model = self._fresh_model() if checkpoint is None else self._stored_model(checkpoint, path)
        self.model.to(self.device)
        self.mapped = args.trunk_epochs > 0 or self.model.head_given
        world.align(self.model)
        if world.size > 1 and args.batchnorm_sync:
            self.model = synchronise_batchnorm(self.model, self.device)
        if args.compile:
            check_compiler(self.device)
            self.model.trunk.compile()
        prepare_device(self.device, deterministic=args.deterministic)
        self.precision = choose_precision(args.amp, self.device)
        self.trainer = make_trainer(args, self.model, mapped=self.mapped, world=world, precision=self.precision)
        if checkpoint is not None:
            self._restore(checkpoint, path)
        self.write_json("opts.json", self._plain_args() | {
            "c": self.embedding["c"], "normalisation": self.model.normalisation,
            "head_given": self.model.head_given}, indent=1)

    def _fresh_model(self) -> HIPE:
        args = self.args
        if args.no_train:
            raise ValueError("--no_train needs a trained model; give one with --resume_path")
        points, c = fresh_embedding(args, self.hierarchy, self.results / "embeddings.pth")
        self.embedding = {"points": points, "c": c}
        model = build_model(args, self.hierarchy, points, c)
        check_size(model.trunk, (args.sample_duration, args.sample_size, args.sample_size))
        if args.pretrain_path:
            load_trunk(args, model, self.hierarchy)
        return model

    # --- what a checkpoint holds; `model_of` and `_held_out` read what has to be known before

    def save(self, name: str) -> None:
        """Write a checkpoint into the results folder; the numbers are those of the class."""
        if not self.world.is_main:
            return
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(self.results / name, {
            "args": self._plain_args(),  # 1
            "hierarchy_rows": [list(row) for row in self.hierarchy.rows],  # 2
            **({"held_out": self.held_out} if self.held_out else {}),  # 3; 4 is a flag
            "model": self.model.state_dict(), "embedding": self.embedding,  # 5
            "counts": self.model.prototype_layer.counts.tolist(),
            "normalisation": self.model.normalisation, "head_given": self.model.head_given,
            "push_record": None if self.record is None else self.record.to_dict(),  # 6
            **({} if self.ways is None else {"ways": self.ways}),
            "done": self.done.stored(),  # 7
            "optimizers": self.trainer.state(),  # 8
            **({} if self.precision.scaler is None else {"scaler": self.precision.scaler.state_dict()}),  # 9
            "rng": rng})  # 10

    def _stored_model(self, checkpoint: dict, path: Path) -> HIPE:
        """5 and 6."""
        model, _, self.record = model_of(checkpoint, path)
        self.embedding, self.ways = checkpoint["embedding"], checkpoint.get("ways")
        return model

    def _restore(self, checkpoint: dict, path: Path) -> None:
        """7 to 10; of a checkpoint without 8 or 10 these begin afresh."""
        self.done = Step.of_stored(checkpoint["done"])  # 7
        if self.args.no_train:
            return
        optimizers, rng = checkpoint.get("optimizers"), checkpoint.get("rng") or {}
        missing = [name for name, lacks in (("optimisers", optimizers is None), ("random states", "cpu" not in rng))
                   if lacks]
        if missing and self.world.is_main:
            print(f"{path}: without {' and '.join(missing)}, which begin afresh", file=sys.stderr)
        with using(path, "optimisers or random states"):
            self.trainer.load_state(optimizers or {})  # 8
            if self.precision.scaler is not None and "scaler" in checkpoint:  # 9
                self.precision.scaler.load_state_dict(checkpoint["scaler"])
            if "cpu" in rng:
                torch.set_rng_state(rng["cpu"])  # 10
            if self.device.type == "cuda" and "cuda" in rng:
                torch.cuda.set_rng_state(rng["cuda"], self.device)

    def _plain_args(self) -> dict:
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self.args).items()}

    def write_json(self, name: str, content: object, indent: int | None = None) -> Path:
        """Write a JSON file into the results folder; its path."""
        if self.world.is_main:
            write_text(self.results / name, json.dumps(content, indent=indent), durable=True)
        return self.results / name

    def write_prototypes(self) -> None:
        """Write prototypes.json, of the last push."""
        self.write_json("prototypes.json", self.record.rows(self.hierarchy, self.model.prototype_layer.node_of))

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

    def set_ways(self, ways: torch.Tensor | None, training: VideoTable) -> None:
        """Take the ways of the training videos, which the losses count by class; None where they are not known."""
        if ways is not None and len(ways) != len(training):
            print(f"{self.args.annotation_path}: has {len(training)} training videos on disk now, and had {len(ways)} "
                  "when prototypes started; the ways in which they show their classes are forgotten", file=sys.stderr)
            ways = None
        self.ways = ways
        if ways is not None:
            self.trainer.count_ways(ways, torch.from_numpy(training.labels))


def _held_out(args: argparse.Namespace, videos: VideoTable, checkpoint: dict | None, path: Path | None) -> list[str]:
    """The groups that --calibrate holds out of training: for a resumed run those that its first part held out."""
    if not args.calibrate:
        return []
    if checkpoint is None:
        dataset = DATASETS[args.dataset]
        groups = held_out_groups(videos, dataset, seed=args.manual_seed)
        if not groups:
            raise ValueError(f"{args.annotation_path}: too few groups of training videos to hold one out; leave "
                             "--calibrate away")
        if sentence := ungrouped(args.dataset, dataset, videos.subset("training")):
            print(f"warning: {sentence}", file=sys.stderr)
        return groups
    if "held_out" not in checkpoint:
        raise ValueError(f"{path}: trained on all groups, so that none is left to calibrate on; leave --calibrate "
                         "away, or train afresh")
    return checkpoint["held_out"]


def make_trainer(args: argparse.Namespace, model: HIPE, *, mapped: bool, world: World, precision) -> Trainer:
    """The trainer of a run.

    Args:
        mapped: whether the pooled head tells classes apart; without class maps, losses see all cells of all clips.
    """
    phases = {
        "trunk": Phase(args.trunk_optimizer, args.trunk_learning_rate, 0, args.trunk_weight_decay, args.momentum,
                       args.trunk_lr_scheduler, args.multistep_milestones),
        "warm": Phase("adam", 0, args.warm_learning_rate, 0, args.momentum, args.warm_lr_scheduler,
                      args.multistep_milestones, args.warm_score_learning_rate),
        "joint": Phase(args.optimizer, args.learning_rate, args.head_learning_rate, args.weight_decay,
                       args.momentum, args.lr_scheduler, args.multistep_milestones, args.score_learning_rate),
        "tune": Phase("adam", 0, args.last_learning_rate, 0, args.momentum)}
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.trunk.modules())
    if args.freeze_bn and not norms and world.is_main:
        print(f"note: --model {args.model} has no batch-norms, so that --freeze_bn changes nothing", file=sys.stderr)
    weights = LossWeights(ce=args.ce_weight, cluster=args.cluster_weight, separation=args.separation_weight,
                          background=args.background_weight if mapped else 0.0,
                          coverage=args.coverage_weight, group=args.group_weight,
                          orthogonality=args.orthogonality_weight, sharing=args.sharing_weight,
                          batch_ce=args.batch_ce_weight, l1=args.l1_weight,
                          level_ce=args.level_ce_weight if any(args.level_ce_weight) else 0.0, ways=args.ways_weight,
                          even=args.even_weight, pooled=args.pooled_weight if mapped else 0.0)
    return Trainer(model, phases, weights, margin=args.separation_margin, focus=args.focus if mapped else 1.0,
                   background=args.background,
                   sure=args.sure if mapped else 0.0,  # an untrained head is sure of nothing
                   cluster_margin=args.cluster_margin, rivals=args.separation_rivals, last_layer=args.last_layer,
                   frozen=stages_before(model.trunk, args.ft_begin_module), freeze_bn=args.freeze_bn, world=world,
                   precision=precision)

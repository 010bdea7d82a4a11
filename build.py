"""From flags or a checkpoint to model, videos and loaders: what all scripts share."""

import argparse
import copy
import gc
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from datasets import DATASETS, READERS
from datasets.reading import CachedReader, Reader
from datasets.sampling import EvenClips, RandomClip, SlidingWindows
from datasets.transforms import EvalTransform, TrainTransform
from datasets.video import Video, VideoClips, VideoTable
from hierarchy.embeddings import find_embeddings
from hierarchy.tree import Hierarchy
from models import HIPE, TRUNKS
from models.scores import SCORES
from models.weights import is_named, is_own, load_pretrained, read_state, unwrap
from options import CALL_FLAGS, LEGACY, PAPER, TRUNK_FLAGS, WEIGHT_FLAGS, fill, parse_main, resolve
from training.checkpoint import checkpoints_in, load_checkpoint, newest_whole
from training.push import PushRecord

HERE = Path(__file__).resolve().parent
DATA_PATHS = ("video_path", "annotation_path")


def under_root(args: argparse.Namespace, path: str | Path) -> Path:
    """The absolute path of a flag: relative ones hang off --root_path."""
    return (Path(args.root_path).expanduser() / Path(path).expanduser()).resolve()


def find_file(args: argparse.Namespace, name: str) -> Path:
    """A file looked for under --root_path, then beside main.py.

    Raises:
        FileNotFoundError: naming both places.
    """
    for path in (under_root(args, name), HERE / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{name}: neither under {Path(args.root_path).resolve()} nor in {HERE}; check the path")


def moved(path: str | None, old_root: str, new_root: str) -> str | None:
    """A stored path, under the new root where the data has moved there from the old one."""
    if path and Path(path).is_relative_to(old_root):
        there = Path(new_root).expanduser().resolve() / Path(path).relative_to(old_root)
        if there.exists():
            return str(there)
    return path


def choose_device(device: str | None, no_cuda: bool) -> torch.device:
    """The device asked for, else a GPU where there is one.

    Raises:
        ValueError: where a device is insisted on and not there.
    """
    # TF32 would put a patch at 1e-5 of itself, where the similarity is steepest
    torch.backends.cudnn.allow_tf32 = False
    if device is not None:
        if no_cuda and device.startswith("cuda"):
            raise ValueError(f"--device {device} contradicts --no_cuda; give one of them")
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"--device {device}: PyTorch cannot use it here ({str(error).splitlines()[0]}); leave the "
                             "flag out to use the CPU") from error
    if no_cuda or not torch.cuda.is_available():
        if not no_cuda:
            print("no CUDA device: running on the CPU", file=sys.stderr)
        return torch.device("cpu")
    return torch.device("cuda")


def build_trunk(args: argparse.Namespace) -> nn.Module:
    """A fresh trunk as the flags say."""
    trunk = TRUNKS[args.model]
    options = {option: getattr(args, flag) for option, (flag, _) in TRUNK_FLAGS.items()}
    options |= {"temporal_strides": args.temporal_strides, "spatial_strides": args.spatial_strides,
                "max_pool": not args.no_max_pool}
    if trunk.depths:
        options["depth"] = args.model_depth
    return trunk(**{name: value for name, value in options.items() if name == "depth" or name in trunk.options})


def check_size(trunk: nn.Module, size: tuple[int, int, int]) -> None:
    """Run a trunk on shapes alone.

    Raises:
        ValueError: where clips of `size` (T, H, W) are smaller than its poolings and kernels.
    """
    try:
        features = copy.deepcopy(trunk).to("meta").eval()(torch.empty(1, 3, *size, device="meta"))
    except RuntimeError:
        features = torch.empty(0)
    if features.numel() == 0:
        raise ValueError(f"clips of {size[0]} frames of {size[1]} x {size[2]} pixels are too small for this trunk; "
                         "raise --sample_duration or --sample_size")


def channels_last(network: nn.Module) -> nn.Module:
    """A network with its kernels in the layout in which convolutions run up to a third faster, on CPUs too."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}  # a trunk has one or the other, the neck the latter
    for parameter in network.parameters():
        if parameter.dim() in layouts:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.dim()])
    return network


def build_model(args: argparse.Namespace, hierarchy: Hierarchy, points: Tensor | None, c: float,
                counts: Sequence[int] | None = None) -> HIPE:
    """A fresh model as the flags say.

    Args:
        points: (K, D) tangent vectors of the nodes, for a score that wants them; c: curvature they were fitted for.
        counts: prototypes of each of the K nodes, where they are not --prototypes_per_node each.
    """
    score = SCORES[args.score]
    options = {"points": points, "c": c, "temperature": args.T, "learn_temperature": args.learn_T,
               "last_scale": None if args.random_last else args.last_scale, "start": args.weight_start}
    model = HIPE(build_trunk(args), hierarchy, partial(score, **{name: options[name] for name in score.options}),
                 channels=args.prototype_channels, hidden=args.neck_channels, neck=args.neck,
                 per_node=counts or args.prototypes_per_node,
                 scale=args.similarity_scale if args.similarity == "exp" else None)
    return channels_last(model)


def load_trunk(args: argparse.Namespace, model: HIPE, hierarchy: Hierarchy) -> bool:
    """Start a model's trunk from --pretrain_path, and say so; clips are then normalised as its weights saw theirs.

    Returns:
        whether the pooled head came along: the file is a checkpoint of this program, for the same classes.
    Raises:
        FileNotFoundError, ValueError: naming the file, where it does not fit.
    """
    found = load_pretrained(model.trunk, args.pretrain_path, n_classes=args.n_pretrain_classes,
                            tell=lambda line: print(line, file=sys.stderr))
    args.normalisation = args.normalisation or found.normalisation
    content = {} if is_named(args.pretrain_path) else read_state(args.pretrain_path)
    if not is_own(content):
        return False
    other = Hierarchy.from_rows(content["hierarchy_rows"])
    if other.names[: other.n_leaves] != hierarchy.names[: hierarchy.n_leaves]:
        return False
    state = unwrap(content)[0]
    model.pooled_head.load_state_dict({name: state[f"fc.{name}"] for name in ("weight", "bias")})
    print(f"{args.pretrain_path}: of the same classes, its pooled head is taken, too", file=sys.stderr)
    return True


def fresh_embedding(args: argparse.Namespace, hierarchy: Hierarchy,
                    cache: Path | None) -> tuple[Tensor | None, float]:
    """The class embeddings of a new run, found in this order: given, shipped, cached, fitted; None where the score is
    not of any."""
    if "points" not in SCORES[args.score].options:
        return None, args.c
    return find_embeddings(hierarchy, emb_file=args.emb_file, shipped=HERE / "hierarchy" / "UCF-101_embeddings.pth",
                           cache=cache, dim=args.emb_dim, c=args.c, edge=args.edge)


def stored_args(checkpoint: dict) -> argparse.Namespace:
    """All flags that a checkpoint was made with, also those that are younger than it."""
    paper = bool(checkpoint["args"].get("paper"))
    defaults = vars(parse_main(["--paper"] if paper else [])[0])
    args = argparse.Namespace(**{**defaults, **LEGACY, **(PAPER if paper else {}), **checkpoint["args"]})
    fill(args)
    return args


def window_power(args: argparse.Namespace) -> float:
    """The exponent by which windows come to a video's probabilities, 1 for their mean."""
    return args.window_power if args.window_pool == "power" else 1.0


def _check_pool(args: argparse.Namespace, given: set[str]) -> None:
    if "window_power" in given and args.window_pool == "mean":
        raise ValueError(f"--window_power {args.window_power:g} means nothing to --window_pool mean, which this run "
                         "has; leave it out, or give --window_pool power")


def model_of(checkpoint: dict, path: str | Path) -> tuple[HIPE, Hierarchy, PushRecord | None]:
    """The model, the tree and the push record that a checkpoint carries.

    Raises:
        ValueError: naming the file, where its weights do not fit its own flags.
    """
    hierarchy = Hierarchy.from_rows(checkpoint["hierarchy_rows"])
    args = stored_args(checkpoint)
    model = build_model(args, hierarchy, checkpoint["embedding"]["points"], checkpoint["embedding"]["c"],
                        checkpoint.get("counts"))
    state = {name if not name.startswith(("last_layer.", "embeddings.")) else f"score.{name}": value  # of before scores
             for name, value in checkpoint["model"].items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: its weights do not fit its own flags; the file was changed: train again") from error
    record = checkpoint["push_record"]
    return model, hierarchy, None if record is None else PushRecord.from_dict(record)


def read_videos(args: argparse.Namespace, hierarchy: Hierarchy) -> VideoTable:
    """All videos that the annotation lists and that are on disk.

    Raises:
        ValueError, FileNotFoundError: as the dataset's reader, and where a path is not given.
    """
    for flag in ("video_path", "annotation_path"):
        if not getattr(args, flag):
            raise ValueError(f"--{flag} is missing; give the {flag.replace('_', ' ')} under --root_path")
    return DATASETS[args.dataset](under_root(args, args.annotation_path), under_root(args, args.video_path), hierarchy,
                                  file_type=args.file_type, strict=args.strict)


def make_reader(args: argparse.Namespace) -> Reader:
    """The reader of --file_type, which keeps videos in memory as far as --memory_gb allows."""
    reader = READERS[args.file_type]()
    return CachedReader(reader, int(args.memory_gb * 1e9)) if args.memory_gb else reader


def normalisation_of(args: argparse.Namespace) -> str:
    """What clips go through on the device; checkpoints from before the flag know of Kinetics' only."""
    return getattr(args, "normalisation", None) or "kinetics"


def training_clips(args: argparse.Namespace, videos: Sequence[Video], reader: Reader, *,
                   flip: bool = True) -> VideoClips:
    """One random, augmented clip of every video, half of them mirrored if `flip` and the flags say so."""
    least = args.train_crop_min_ratio
    transform = TrainTransform(args.sample_size, scales=(args.train_crop_min_scale, 1.0), ratio=(least, 1 / least),
                               flip=flip and not args.no_hflip, crop=args.train_crop, jitter=args.train_jitter)
    return VideoClips(videos, sampler=RandomClip(args.sample_duration, stride=args.sample_t_stride),
                      transform=transform, reader=reader, seed=args.manual_seed, strict=args.strict,
                      normalisation=normalisation_of(args))


def even_clips(args: argparse.Namespace, videos: Sequence[Video], reader: Reader, n: int) -> VideoClips:
    """n evenly spaced, un-augmented clips of every video."""
    return VideoClips(videos, sampler=EvenClips(args.sample_duration, n, stride=args.sample_t_stride),
                      transform=EvalTransform(args.sample_size), reader=reader, seed=args.manual_seed,
                      strict=args.strict, normalisation=normalisation_of(args))


def window_clips(args: argparse.Namespace, videos: Sequence[Video], reader: Reader, step: int) -> VideoClips:
    """All windows of every video, `step` frames apart."""
    return VideoClips(videos, sampler=SlidingWindows(args.sample_duration, step, stride=args.sample_t_stride),
                      transform=EvalTransform(args.sample_size), reader=reader, seed=args.manual_seed,
                      strict=args.strict, normalisation=normalisation_of(args))


def quiet_worker(_: int) -> None:
    """A loader process leaves stopping to its parent: what is sent to the whole group of processes passes it by."""
    os.setpgid(0, 0)
    gc.freeze()  # were its parent's objects gone through for garbage, their memory would be copied


def make_loader(dataset: Dataset, *, n_threads: int, device: torch.device, batch_size: int | None = None,
                sampler: Sequence[int] | None = None, batch_sampler=None, persistent: bool = False) -> DataLoader:
    """A loader in the dataset's order (batch_size), of some items (sampler) or in that of a batch sampler, with no more
    processes than cores; persistent ones stay from one pass to the next."""
    n_threads = min(n_threads, len(dataset), os.cpu_count() or 1)
    how = {"batch_sampler": batch_sampler} if batch_sampler is not None else {"batch_size": batch_size,
                                                                              "sampler": sampler}
    # Each pass draws a seed: were it from the global generator, a resumed run would draw other numbers from that.
    return DataLoader(dataset, num_workers=n_threads, pin_memory=device.type == "cuda", worker_init_fn=quiet_worker,
                      persistent_workers=persistent and n_threads > 0, prefetch_factor=4 if n_threads else None,
                      generator=torch.Generator(), **how)


def resume(args: argparse.Namespace, given: set[str]) -> tuple[dict | None, Path | None]:
    """Find and read the checkpoint that --resume_path means, and take over its flags.

    Model, data and schedule flags come from the checkpoint unless they are given; a given flag that contradicts the
    weights is an error.
    Returns:
        the checkpoint and its path, or None twice for a fresh run. Sets args.result_path.
    """
    path = None
    if args.resume_path == "auto":
        args.result_path = under_root(args, args.result_path or "results")
        path = newest_whole(args.result_path)
        if path is not None:
            print(f"{path}: going on from here", file=sys.stderr)
        if path is None and checkpoints_in(args.result_path):
            raise ValueError(f"{args.result_path}: none of its checkpoints can be read; begin afresh with --overwrite")
    elif args.resume_path:
        path = under_root(args, args.resume_path)
        args.result_path = under_root(args, args.result_path) if args.result_path else path.parent
    else:
        args.result_path = under_root(args, args.result_path or "results")
    for name in ("video_path", "annotation_path", "pretrain_path"):
        if getattr(args, name) and not (name == "pretrain_path" and is_named(args.pretrain_path)):
            setattr(args, name, str(under_root(args, getattr(args, name))))
    if args.emb_file:
        args.emb_file = str(find_file(args, args.emb_file))
    args.root_path = str(Path(args.root_path).expanduser().resolve())
    checkpoint = None if path is None else load_checkpoint(path)
    if checkpoint is None:
        resolve(args)
        _check_pool(args, given)
        return None, None
    stored = vars(stored_args(checkpoint))
    for name in WEIGHT_FLAGS:
        # strides are judged by what they come to, not by which of their flags was given
        if name in given and name in stored and name not in ("conv1_t_stride", "no_max_pool"):
            value = getattr(args, name)
            if name == "normalisation":
                stored[name] = normalisation_of(argparse.Namespace(**stored))
            if value != stored[name]:
                raise _contradiction(path, name, value, stored[name])
    for name, value in stored.items():
        if name not in given and name not in CALL_FLAGS:
            setattr(args, name, value)
    if "root_path" in given:
        for name in set(DATA_PATHS) - given:
            setattr(args, name, moved(getattr(args, name), stored["root_path"], args.root_path))
    else:
        args.root_path = stored["root_path"]
    resolve(args)
    _check_pool(args, given)
    for name in ("temporal_strides", "spatial_strides"):
        if getattr(args, name) != stored[name]:
            raise _contradiction(path, name, getattr(args, name), stored[name])
    return checkpoint, path


def _contradiction(path: Path, name: str, given: object, stored: object) -> ValueError:
    return ValueError(f"{path}: --{name} {given} contradicts the checkpoint, which was trained with {stored}; leave "
                      "the flag out, or train afresh")


def check_tree(args: argparse.Namespace, given: set[str], checkpoint: dict | None, path: Path | None) -> Hierarchy:
    """The class tree of the run, which must be the checkpoint's own where there is one."""
    if checkpoint is None:
        args.tree_file = str(find_file(args, args.tree_file))
        hierarchy = Hierarchy.from_csv(args.tree_file)
    else:
        hierarchy = Hierarchy.from_rows(checkpoint["hierarchy_rows"])
        if "tree_file" in given:
            other = find_file(args, args.tree_file)
            if Hierarchy.from_csv(other) != hierarchy:
                raise ValueError(f"{path}: trained on another tree than {other}; leave --tree_file out, or train "
                                 "afresh")
    if args.n_classes is not None and args.n_classes != hierarchy.n_leaves:
        raise ValueError(f"--n_classes {args.n_classes} contradicts the tree {args.tree_file}, which has "
                         f"{hierarchy.n_leaves} classes; mend one of them")
    args.n_classes = hierarchy.n_leaves
    return hierarchy

"""From flags or a checkpoint to the model."""

import argparse
import copy
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from hierarchy.embeddings import find_embeddings
from hierarchy.tree import Hierarchy
from models import HIPE, TRUNKS, Trunk
from models.scores import SCORES
from models.state_files import read_state
from models.unwrapping import is_own, own_weights
from models.weights import load_pretrained
from run.paths import HERE
from run.resume import stored_args, stored_normalisation
from training.checkpoint import using
from training.push import PushRecord


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


def trunk_arguments(args: argparse.Namespace) -> dict[str, object]:
    """What the flags give to the constructor of the trunk --model."""
    trunk = TRUNKS[args.model]
    arguments = {name: option.value(getattr(args, option.flag)) for name, option in trunk.options.items()}
    if trunk.strides is not None:
        arguments |= {"temporal_strides": args.temporal_strides, "spatial_strides": args.spatial_strides}
    if trunk.depths:
        arguments["depth"] = args.model_depth
    return arguments


def build_trunk(args: argparse.Namespace) -> Trunk:
    """A fresh trunk as the flags say."""
    return TRUNKS[args.model](**trunk_arguments(args))


def check_size(trunk: nn.Module, size: tuple[int, int, int]) -> None:
    """Run a trunk on shapes alone.

    Raises:
        ValueError: where clips of `size` (T, H, W) are smaller than its patches, poolings and kernels.
    """
    try:
        features = copy.deepcopy(trunk).to("meta").eval()(torch.empty(1, 3, *size, device="meta"))
    except (RuntimeError, ArithmeticError):  # a kernel does not fit, or there is no patch to divide by
        features = torch.empty(0)
    if features.numel() == 0:
        raise ValueError(f"clips of {frames_in_words(size[0])} of {size[1]} x {size[2]} pixels are too small for this "
                         "trunk; raise --sample_duration or --sample_size")


def frames_in_words(n: int) -> str:
    """1 frame, 2 frames."""
    return f"{n} frame{'' if n == 1 else 's'}"


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
    model.normalisation = args.normalisation or model.normalisation
    return channels_last(model)


def load_trunk(args: argparse.Namespace, model: HIPE, hierarchy: Hierarchy) -> None:
    """Start a model's trunk from --pretrain_path, and say so.

    Sets model.normalisation, to what the weights were trained with where no flag says otherwise, and model.head_given:
    where the file is a checkpoint of this program for the same classes, the pooled head comes along.

    Raises:
        FileNotFoundError, ValueError: naming the file, where it does not fit.
    """
    weights = load_pretrained(model.trunk, args.pretrain_path, n_classes=args.n_pretrain_classes,
                              tell=lambda line: print(line, file=sys.stderr))
    model.normalisation = args.normalisation or weights.normalisation
    (n_frames, pixels), (duration, size) = model.trunk.clip, (args.sample_duration, args.sample_size)
    if weights.published and (2 * duration < n_frames or 2 * size < pixels):
        print(f"note: weights of --model {args.model} were published for clips of {frames_in_words(n_frames)} of "
              f"{pixels} pixels, and clips here have {duration} of {size}; --sample_duration and --sample_size change "
              "that", file=sys.stderr)
    content = read_state(args.pretrain_path) if Path(args.pretrain_path).is_file() else {}
    if not is_own(content):
        return
    head = {name: own_weights(content).state.get(f"fc.{name}") for name in ("weight", "bias")}
    rows = content.get("hierarchy_rows")
    if rows is None or any(value is None for value in head.values()):  # of its trunk alone
        return
    other = Hierarchy.from_rows(rows)
    if other.names[: other.n_leaves] != hierarchy.names[: hierarchy.n_leaves]:
        return
    model.pooled_head.load_state_dict(head)
    print(f"{args.pretrain_path}: of the same classes, its pooled head is taken, too", file=sys.stderr)
    model.head_given = True


def fresh_embedding(args: argparse.Namespace, hierarchy: Hierarchy,
                    cache: Path | None) -> tuple[Tensor | None, float]:
    """The class embeddings of a new run, found in this order: given, shipped, cached, fitted; None where the score is
    not of any."""
    if "points" not in SCORES[args.score].options:
        return None, args.c
    return find_embeddings(hierarchy, emb_file=args.emb_file, shipped=HERE / "hierarchy" / "UCF-101_embeddings.pth",
                           cache=cache, dim=args.emb_dim, c=args.c, edge=args.edge)


def model_of(checkpoint: dict, path: str | Path) -> tuple[HIPE, Hierarchy, PushRecord | None]:
    """The model, the tree and the push record that a checkpoint carries.

    Raises:
        ValueError: naming the file, where its weights do not fit its own flags.
    """
    with using(path, "its flags, tree or push record"):
        hierarchy = Hierarchy.from_rows(checkpoint["hierarchy_rows"])
        model = build_model(stored_args(checkpoint), hierarchy, checkpoint["embedding"]["points"],
                            checkpoint["embedding"]["c"], checkpoint.get("counts"))
        record = checkpoint.get("push_record")
        record = None if record is None else PushRecord.from_dict(record)
        model.normalisation = stored_normalisation(checkpoint)
    state = {name if not name.startswith(("last_layer.", "embeddings.")) else f"score.{name}": value  # of before scores
             for name, value in checkpoint["model"].items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: its weights do not fit its own flags; the file was changed: train again") from error
    model.head_given = bool(checkpoint.get("head_given", checkpoint["args"].get("head_given")))
    return model, hierarchy, record

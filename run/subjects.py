"""What local_attribution.py explains: the model of a HIPE checkpoint, or a trunk under a published head."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from explain.attribution import Subject
from hierarchy.names import normalise
from hierarchy.texts import read_json
from hierarchy.tree import Hierarchy
from models import HIPE, TRUNKS, Trunk
from models.hub_files import class_names as hub_names
from models.hub_files import folder_of
from models.published import PUBLISHED, kinetics_400
from models.weights import check_source, is_named, load_pretrained, named_classes
from options.flags import parse_main
from options.resolve import resolve
from run.data import window_power
from run.model import build_trunk, channels_last, model_of, trunk_arguments
from run.paths import HERE, under_root
from run.resume import stored_args
from run.weights import config_of, weights_of


@dataclass(frozen=True, kw_only=True)
class PublishedTrunk(Subject):
    """A trunk under its published head, a linear layer over pooled features or a class token."""

    arguments: Mapping[str, object]  # of the trunk's constructor
    head_bias: Tensor  # (K,), beside `head`
    pooler: nn.Module | None = None  # what stands before `head`, where it has weights


def dataset_classes(name: str) -> list[str] | None:
    """The class names of a dataset by its name, however it is spelt; None for one whose names are not shipped."""
    plain = normalise(name)
    if plain == "ucf101":
        tree = Hierarchy.from_csv(HERE / "UCF-101_hierarchy.csv")
        return list(tree.names[:tree.n_leaves])
    return kinetics_400() if plain in ("kinetics", "kinetics400") else None


def distinct(names: Sequence[str]) -> list[str]:
    """Names with their index where a tree takes several for the same: ImageNet's dog is "Cardigan (264)"."""
    counts = Counter(map(normalise, names))
    return [name if counts[normalise(name)] == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def class_names(args: argparse.Namespace, trunk: Trunk) -> tuple[list[str], str]:
    """The trunk's class names, in the order of its outputs: those given, the dataset's, those of named weights, or of
    the config.json beside the weights; and in words where they are from.

    Raises:
        ValueError, FileNotFoundError: where they are not given, or the file holds something else.
    """
    if not args.classes:
        return _known_names(args, trunk)
    path, content = "--classes", args.classes
    if not isinstance(content, list):
        path = under_root(args, args.classes)
        content = read_json(path, missing="no such file; check --classes", remedy="write a list of class names")
    content = content.get("labels", content) if isinstance(content, dict) else content
    if (isinstance(content, dict) and all(isinstance(index, int) for index in content.values())
            and sorted(content.values()) == list(range(len(content)))):
        content = sorted(content, key=content.get)
    if not isinstance(content, list) or not content or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path}: not a list of class names, nor names with the indices 0, 1, ...; mend --classes")
    return content, "--classes"


def _known_names(args: argparse.Namespace, trunk: Trunk) -> tuple[list[str], str]:
    """As `class_names`, where no flag gives them."""
    if args.pretrain_dataset:
        names = dataset_classes(args.pretrain_dataset)
        if names is None:
            raise ValueError(f"--pretrain_dataset {args.pretrain_dataset}: the names of its classes are not shipped, "
                             "those of ucf101 and kinetics400 are; give them as --classes classes.json")
        return names, f"--pretrain_dataset {args.pretrain_dataset}"
    if is_named(args.pretrain_path):
        return distinct(named_classes(trunk, args.pretrain_path)), f"--pretrain_path {args.pretrain_path}"
    why = ""
    if trunk.on_hub and (folder := folder_of(weights_of(args))) is not None:
        if names := hub_names(folder):
            return distinct(names), f"id2label of {folder / 'config.json'}"
        why = f": {folder / 'config.json'} has none, or numbers alone, such as LABEL_0"
    raise ValueError(f"the class names are missing{why}; give them as --classes classes.json, or --pretrain_dataset "
                     "ucf101 or kinetics400")


def trunk_subject(args: argparse.Namespace, device: torch.device) -> PublishedTrunk:
    """The trunk of --model under the head of --pretrain_path; of named weights stderr tells what was loaded, but not
    once more in worker processes.

    Raises:
        ValueError, FileNotFoundError: where the weights do not fit the trunk, or hold no head for these classes.
    """
    full, _ = parse_main([])
    for name in vars(full):
        if hasattr(args, name) and getattr(args, name) is not None:
            setattr(full, name, getattr(args, name))
    full.pretrain_path, full.trunk_config = weights_of(args), config_of(full)
    check_source(TRUNKS[full.model], full.pretrain_path)
    full = resolve(full)
    trunk = build_trunk(full)
    names, origin = class_names(args, trunk)
    hierarchy = Hierarchy([[name] for name in names], where=lambda i: f"{origin}, name {i}")
    path = full.pretrain_path
    told = (is_named(path) or trunk.on_hub) and parent_process() is None
    tell = (lambda line: print(line, file=sys.stderr)) if told else None
    loaded = load_pretrained(trunk, path, n_classes=args.n_pretrain_classes, tell=tell, takes_head=True)
    state = loaded.head
    weights = [key for key in state if key.endswith("weight") and state[key].dim() > 1
               and state[key].flatten(1).shape[1] == trunk.out_channels]
    if len(weights) != 1:
        raise ValueError(f"{path}: holds no classification head over {trunk.out_channels} channels; give weights with "
                         "one (fc.weight, fc.bias)")
    weight = state[weights[0]].flatten(1).float()
    if len(weight) != hierarchy.n_leaves:
        remedy = "give the names as --classes" if origin.startswith("id2label") else "mend one of them"
        raise ValueError(f"{path}: its head tells {len(weight)} classes apart and {origin} names {hierarchy.n_leaves}; "
                         f"{remedy}")
    bias = state.get(weights[0].removesuffix("weight") + "bias", torch.zeros(len(weight))).float()
    head = nn.Linear(trunk.out_channels, len(weight))
    head.load_state_dict({"weight": weight, "bias": bias})
    pooler = trunk.pooler(loaded.between)
    whole = channels_last(nn.ModuleDict({"trunk": trunk, "head": head, **({"pooler": pooler} if pooler else {})}))
    whole.to(device).eval().requires_grad_(False)
    pooled: Callable[[Tensor], Tensor] = getattr(
        trunk, "class_token", lambda clips: (pooler or trunk.pooled)(trunk(clips)))
    return PublishedTrunk(
        f"{full.model}-{full.model_depth}" if full.model_depth else full.model, str(path), hierarchy, trunk,
        lambda clips: whole["head"](pooled(clips)).log_softmax(-1), args.normalisation or loaded.normalisation, device,
        head=whole["head"].weight, head_bias=whole["head"].bias, logits=lambda clips: whole["head"](pooled(clips)),
        credit=PUBLISHED[str(path)].origin if str(path) in PUBLISHED else "", arguments=trunk_arguments(full),
        pooler=pooler)


class ClipForm(NamedTuple):
    """How a model sees a video: pixels, frames and stride of a clip, and the power by which windows are pooled."""

    size: int
    duration: int
    stride: int
    power: float


def clip_of(args: argparse.Namespace, checkpoint: dict | None, trunk: Trunk | None = None) -> ClipForm:
    """How a model sees a video: as the flags say, else the checkpoint, else what the trunk's weights are usually asked
    with, of a trunk as their config.json says."""
    if checkpoint is not None:
        stored = stored_args(checkpoint)
        usual, power = (stored.sample_size, stored.sample_duration, stored.sample_t_stride), window_power(stored)
    else:
        (frames, pixels), stride = (trunk or TRUNKS[args.model]).clip, TRUNKS[args.model].frame_stride
        usual, power = (pixels, frames, stride), 1.0
    flags = args.sample_size, args.sample_duration, args.sample_t_stride
    return ClipForm(*(value if value is not None else other for value, other in zip(flags, usual, strict=True)), power)


def hipe_subject(args: argparse.Namespace, checkpoint: dict, path: Path, device: torch.device) -> Subject:
    """The model of a HIPE checkpoint; of the trunk epochs the softmax head, for the prototypes know nothing yet.

    Neither head has `logits`: every method explains log-probabilities of HIPE's classes (see Method.of_logits).

    Raises:
        ValueError: for a level or a prototype that the model does not have.
    """
    model, *_ = model_of(checkpoint, path)
    model = model.to(device).eval().requires_grad_(False)
    check_question(model, checkpoint, path, level=args.level, prototype=args.prototype)
    return subject_of(model, checkpoint, path)


def of_trunk_epochs(checkpoint: dict) -> bool:
    """Whether a checkpoint is of the trunk epochs, in which the softmax head decides."""
    return bool(checkpoint["done"]) and checkpoint["done"][0] == "trunk"


def check_question(model: HIPE, checkpoint: dict, path: Path, *, level: int | None, prototype: int | None) -> None:
    """See that a model has the level and the prototype that are asked for; None where none is.

    Raises:
        ValueError: naming the flag.
    """
    hierarchy, n = model.hierarchy, len(model.prototype_layer.node_of)
    if level is not None and not 0 <= level < hierarchy.n_levels:
        raise ValueError(f"--level {level} is not in the class tree of {path}; it has the levels 0 to "
                         f"{hierarchy.n_levels - 1}")
    if prototype is not None and not 0 <= prototype < n:
        raise ValueError(f"--prototype {prototype} is not in {path}; it has the prototypes 0 to {n - 1}")
    if prototype is not None and of_trunk_epochs(checkpoint):
        raise ValueError(f"{path}: of the trunk epochs, whose prototypes know nothing yet; give a later checkpoint, or "
                         "leave out --prototype")


def subject_of(model: HIPE, checkpoint: dict, path: Path) -> Subject:
    """What attribution sees of the model of a checkpoint, which is in eval mode and on its device."""
    hierarchy, normalisation, device = model.hierarchy, model.normalisation, model.device
    if of_trunk_epochs(checkpoint):
        return Subject("trunk", str(path), hierarchy, model.trunk, model.softmax_log_probs, normalisation, device,
                       head=model.softmax_weights)
    return Subject("hipe", str(path), hierarchy, model.trunk, lambda clips: model(clips).log_probs, normalisation,
                   device, lambda clips: model(clips).activations, model.prototype_layer.node_of.tolist(),
                   highest=model.prototype_layer.highest)

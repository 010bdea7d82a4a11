"""Published weights for trunks: by name or file, made to fit a trunk, and what to say when they do not."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from models import TRUNKS
from models.hub_files import described_by, folder_of, is_hub_name, normalisation_in, read_folder
from models.published import PUBLISHED, read_published
from models.state_files import read_state
from models.trunk import State, Trunk
from models.unwrapping import is_own, layout_of, layouts, unwrap


def is_named(source: str | Path) -> bool:
    """Whether published weights are given by a name, torchvision's or one of PUBLISHED, not as a file."""
    return str(source) in PUBLISHED or re.fullmatch(r"[A-Z][A-Z0-9_]*_V\d+|DEFAULT", str(source)) is not None


def check_source(trunk: type[Trunk], source: str | Path) -> None:
    """See that a source of weights is a name, or there, and no folder of the hub for a trunk that has none.

    Raises:
        FileNotFoundError, ValueError: naming the path.
    """
    path = Path(source)
    if not (is_named(source) or path.exists() or (trunk.on_hub and is_hub_name(source))):
        raise FileNotFoundError(f"{path}: no such file{' or folder' * trunk.on_hub}; check the path")
    _check_folder(trunk, path)


def _check_folder(trunk: type[Trunk], path: Path) -> None:
    if path.is_dir() and not trunk.on_hub and (family := described_by(path)) is not None:
        raise ValueError(f"{path}: a folder of the hub, whose config.json describes {family}; give --model {family}, "
                         "or a file of weights")


def _library_weights(trunk: Trunk, name: str) -> Enum:
    """torchvision's entry of this name for a trunk.

    Raises:
        ValueError: where there is none.
    """
    library = trunk.torchvision_name
    from torchvision.models import get_model_weights  # here, for it takes a second to import
    known = get_model_weights(library).__members__ if library else {}
    if name not in known:
        names = [*known, *(other for other, entry in PUBLISHED.items() if isinstance(trunk, TRUNKS[entry.trunk]))]
        remedy = f"it has {', '.join(names)}" if names else "give a file"
        raise ValueError(f"--pretrain_path {name}: torchvision has no such weights for this trunk; {remedy}")
    return known[name]


def named_classes(trunk: Trunk, name: str) -> list[str]:
    """The class names that weights of this name have, in the order of their outputs.

    Raises:
        ValueError: where torchvision has none of this name for the trunk.
    """
    return PUBLISHED[name].classes() if name in PUBLISHED else list(_library_weights(trunk, name).meta["categories"])


def fetch_named(trunk: Trunk, name: str, tell: Callable[[str], None] | None = None) -> State:
    """Weights by their name, from the cache or the internet.

    Args:
        tell: is given a line before anything large is fetched.
    Raises:
        ValueError: where there are none of this name for the trunk, or they cannot be had here.
    """
    if name in PUBLISHED:
        entry = PUBLISHED[name]
        if not isinstance(trunk, TRUNKS[entry.trunk]):
            raise ValueError(f"--pretrain_path {name}: weights of --model {entry.trunk}, not of this trunk; mend one "
                             "of the two flags")
        return read_published(name, tell)
    weights = _library_weights(trunk, name).value
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if cached.is_file():  # torch checks the sum of what it fetches alone
        try:
            return read_state(cached)
        except ValueError as error:
            raise ValueError(f"--pretrain_path {name}: {error}; remove this file first") from error
    try:
        return torch.hub.load_state_dict_from_url(weights.url, map_location="cpu", progress=False, check_hash=True,
                                                  weights_only=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"--pretrain_path {name}: {weights.url} is neither in {cached.parent} nor can "
            f"it be fetched ({error}); fetch it on another machine and put it there, or give it as a file") from error


def flags_of(state: State) -> dict[str, object]:
    """The flags that make a trunk of a state dict's shapes, as far as these tell them."""
    names = layouts().get(layout_of(state), [])
    name = next((name for name in names if TRUNKS[name].is_of(state)), None)
    if name is None:
        return {}
    options = TRUNKS[name].options
    flags = {"depth": "model_depth", **{argument: option.flag for argument, option in options.items()}}
    return {"--model": name} | {f"--{flags[argument]}": value
                                for argument, value in TRUNKS[name].arguments_of(state).items()}


def fit(value: Tensor, own: Tensor, first: bool) -> Tensor:
    """Inflate a 2D kernel (Carreira and Zisserman, CVPR 2017): repeated in time and divided by the repeats.

    Args:
        value: any tensor of a state dict; own: the trunk's own, whose shape it should get.
        first: whether it is the trunk's first convolution, which gets the mean over channels where it has others.
    Returns:
        the tensor, unchanged where it is no 2D kernel.
    """
    if value.dim() != 4:
        return value
    if first and value.shape[1] != own.shape[1]:
        value = value.mean(1, keepdim=True).expand(-1, own.shape[1], -1, -1)
    if own.dim() == 5:
        value = value.unsqueeze(2).expand(-1, -1, own.shape[2], -1, -1) / own.shape[2]
    return value


@dataclass(frozen=True)
class Loaded:
    """What became of published weights."""

    head: dict[str, Tensor]  # of the classifier, which the trunk is without
    between: dict[str, Tensor]  # of what stands in that head before the classifier
    normalisation: str  # under which the weights saw their clips: a key of datasets.transforms.NORMALISATIONS
    published: bool  # in one of the published layouts, and not a checkpoint of this program

    @property
    def dropped(self) -> list[str]:
        """Keys of the head."""
        return list(self.head)


def load_pretrained(trunk: Trunk, source: str | Path, *, n_classes: int | None = None,
                    tell: Callable[[str], None] | None = None, takes_head: bool = False) -> Loaded:
    """Load published weights into a trunk, of which 2D ones are inflated; the head is returned.

    Args:
        source: a file in one of the published layouts, a folder of the hub, or the name of weights or of such a folder.
        n_classes: of the head, where the caller thinks to know.
        tell: is given one line on what is loaded. takes_head: whether the caller uses the head, which it then says.
    Raises:
        FileNotFoundError, ValueError: where there is no such file, the head has other classes, or anything but the
            head is missing, unexpected, of another shape or not finite: naming the keys and the likeliest cause.
    """
    _check_folder(type(trunk), Path(source))
    folder = folder_of(source, tell) if trunk.on_hub and not is_named(source) else None
    whole = folder is not None and not Path(source).is_file()  # the folder itself, not one of its files
    content = (fetch_named(trunk, str(source), tell) if is_named(source) else read_folder(folder) if whole else
               read_state(source))
    try:
        weights = unwrap(content, trunk)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    own_format = is_own(content)
    published, narrow = _as_float32(weights.state)
    layout, before = layout_of(published, type(trunk)), trunk.state_dict()
    normalisation = "kinetics" if layout is None else layout.normalisation_of(published)
    if own_format:
        normalisation = content.get("normalisation") or content["args"].get("normalisation") or "kinetics"
    assumed = False
    if folder is not None and not own_format:
        stated = normalisation_in(folder, centred=trunk.centred)
        normalisation, assumed = stated or normalisation, stated is None
    made_by = f"{layout.name if layout else 'no layout known here'}{f' (arch {weights.arch})' if weights.arch else ''}"
    made_by += f" ({layout.licence})" if layout and layout.licence else ""
    if str(source) in PUBLISHED:
        entry = PUBLISHED[str(source)]
        made_by, normalisation = f"{entry.what} ({entry.origin})", entry.normalisation
    if layout is None and own_format:
        made_by = f"the names of --model {content['args'].get('model')}"
    made_by += f" under {weights.place}" * bool(weights.place) + f", {narrow} made float32" * bool(narrow)

    state = layout.rename(published, before) if layout in trunk.layouts else dict(published)
    trunk.fit_stem(state)
    own = trunk.state_dict()
    state, head, between = _without_head(state, trunk, own)
    _check_head(source, head, n_classes)
    convs = [key for key, value in own.items() if value.dim() >= 4]
    inflated = any(state[key].dim() == 4 and own[key].dim() == 5 for key in convs if key in state)
    state = {key: fit(value, own[key], key == convs[0]) if key in own else value for key, value in state.items()}

    problems = _misfits(state, own)
    if problems:
        lists = "; ".join(f"{len(keys)} {kind}: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}"
                          for kind, keys in problems.items())
        alone = list(problems) == ["of another shape"] and len(problems["of another shape"]) == 1
        channels = _seen_channels(state[convs[0]], own[convs[0]]) if alone else None
        foreign = layout is None and sum(key in state for key in own) < len(own) / 2
        grown = sum(len(keys) for kind, keys in problems.items() if kind != "missing") > 1
        cause = (f"the likeliest cause: made for {channels} input channels (optical flow?)" if channels else
                 likeliest_cause(published, before, grown=grown, sized=bool(trunk.depths), foreign=foreign))
        check = "check --model, --model_depth, --resnet_shortcut and --resnet_widen_factor" if trunk.depths else (
            "check --model")
        raise ValueError(f"{source}: not the weights of this trunk: {lists}; the file has {made_by}"
                         f"{' and a head' * bool(head)}{_classes_of(head)}; {cause}; {check}")
    spoilt = [key for key, value in state.items() if not value.isfinite().all()]
    if spoilt:
        raise ValueError(f"{source}: {len(spoilt)} tensors hold numbers that are not finite: {', '.join(spoilt[:8])}"
                         f"{' ...' if len(spoilt) > 8 else ''}; the training that it is from diverged, or the file is "
                         "damaged: give an earlier checkpoint, or fetch it again")
    trunk.load_state_dict(state, strict=False)
    if tell is not None:
        tensors = f"{len(state)} tensors{' (inflated)' if inflated else ''}"
        names = f"{_classes_of(head)} ({', '.join(head)})" if head else ""
        names += f" with its {' and '.join(dict.fromkeys(key.split('.')[0] for key in between))}" * bool(between)
        left = f"; {', '.join(weights.others[:4])}{' ...' * (len(weights.others) > 4)} left out" * bool(weights.others)
        what = (f"{tensors} and the classifier{names} loaded" if head and takes_head else
                f"{tensors} loaded, {f'head{names} dropped' if head else 'no head in the file'}")
        usual = ", as is usual, for no preprocessor_config.json says it" * assumed
        tell(f"{source}: weights of {made_by}; {what}{left}; for clips normalised as {normalisation}{usual}")
    return Loaded(head, between, normalisation, published=layout is not None and not own_format)


def _as_float32(state: State) -> tuple[dict[str, Tensor], str]:
    """A state dict with all its real numbers as float32, and in words the types that others of them had."""
    types = dict.fromkeys(str(value.dtype).removeprefix("torch.") for value in state.values()
                          if value.is_quantized or (value.is_floating_point() and value.dtype != torch.float32))
    dense = {key: value.to_dense() if value.layout != torch.strided else value for key, value in state.items()}
    return {key: value.dequantize() if value.is_quantized else
            value.float() if value.is_floating_point() else value for key, value in dense.items()}, " and ".join(types)


def _without_head(state: State, trunk: Trunk, own: State) -> tuple[dict[str, Tensor], ...]:
    """A state dict without the classifier that came with it, the classifier, and what stands before that."""
    known = (*trunk.layouts, *layouts())
    heads, parts = (tuple(f"{name}." for layout in known for name in names(layout))
                    for names in (lambda layout: layout.heads, lambda layout: layout.between))
    head = {key: value for key, value in state.items() if key.startswith(heads) and key not in own}
    between = {key: value for key, value in state.items() if key.startswith(parts) and key not in own}
    return {key: value for key, value in state.items() if key not in head and key not in between}, head, between


def _classes_of(head: State) -> str:
    """How many classes a head tells apart, in words; empty without one."""
    counts = {value.shape[0] for value in head.values() if value.dim()}
    return f" of {max(counts)} classes" if counts else ""


def _check_head(source: str | Path, head: State, n_classes: int | None) -> None:
    """See that a head tells as many classes apart as the caller thinks, where they think anything."""
    counts = {value.shape[0] for value in head.values() if value.dim()}
    if n_classes and not counts:
        raise ValueError(f"{source}: holds no head that could tell --n_pretrain_classes {n_classes} apart; leave the "
                         "flag out")
    if n_classes and n_classes not in counts:
        raise ValueError(f"{source}: its head tells {max(counts)} classes apart, not --n_pretrain_classes "
                         f"{n_classes}; mend the flag, or leave it out")


def _misfits(state: State, own: State) -> dict[str, list[str]]:
    """In what a state dict differs from a trunk's: keys, by "missing", "unexpected", "of another shape" or type."""
    # files older than PyTorch 0.4.1 lack the batch-norm counters, which no output depends on
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    reshaped = [f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}" for key in own
                if key in state and state[key].shape != own[key].shape]
    others = [f"{key} {str(state[key].dtype).removeprefix('torch.')}" for key in own if key in state
              and own[key].is_floating_point() and not state[key].is_floating_point()]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped, "of another type": others}
    return {kind: keys for kind, keys in kinds.items() if keys}


def _seen_channels(kernel: Tensor, own: Tensor) -> int | None:
    """The input channels of a first convolution's kernel that differs from the trunk's own in nothing else."""
    theirs, ours = kernel.shape, own.shape
    same = len(theirs) == len(ours) and theirs[0] == ours[0] and theirs[2:] == ours[2:]
    return theirs[1] if same and theirs[1] != ours[1] else None


def likeliest_cause(state: State, own: State, *, grown: bool, sized: bool, foreign: bool) -> str:
    """Which flag would explain that a state dict does not fit a trunk's, `own`.

    Args:
        grown: whether there is more in it than a damaged file would have: other keys, or several other shapes.
        sized: whether the trunk comes in depths; one that does not has no flags that would make it as the file's.
        foreign: whether it has neither names that are known here nor many of the trunk's.
    """
    strange = "the likeliest cause: a damaged file, or one of other code"
    if foreign:
        return (f"the likeliest cause: a network that is not known here, with tensors such as "
                f"{', '.join(list(state)[:2])}")
    try:
        theirs, ours = flags_of(state), flags_of(own)
    except IndexError:  # kernels without the axes of a kernel
        return strange
    differ = any(value != ours.get(flag, value) for flag, value in theirs.items())
    if "--model" in theirs and (theirs["--model"] != ours.get("--model") or (differ and not sized)):
        return "the likeliest cause: another network, " + " ".join(f"{flag} {value}" for flag, value in theirs.items())
    other = [f"{flag} {value} ({ours[flag]} here)" for flag, value in theirs.items() if value != ours.get(flag, value)]
    if other:
        return f"the likeliest cause: the file wants {', '.join(other)}"
    if grown and set(theirs) == {"--model"}:  # networks of which flags tell no sizes
        return "the likeliest cause: another depth or size of this network"
    return strange

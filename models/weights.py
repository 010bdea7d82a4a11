"""Published weights for trunks: which layout a file has, how it fits, and what to say when it does not."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.densenet3d import DEPTHS as DENSE_DEPTHS
from models.resnet3d import DEPTHS

State = dict[str, Tensor]
HEADS = ("fc.", "classifier.", "new_fc.", "logits.", "head.", "base_model.fc.", "base_model.classifier.")
# by a key that only this layout has: its name, the --model that it belongs to, and the --normalisation of its clips
LAYOUTS = {
    r"Conv3d_1a_7x7\.conv3d\.weight": ("the PyTorch port of I3D", "i3d", "i3d"),
    r"base_model\.layer1\.0\.conv1\.net\.weight": ("TSM on ResNet", "tsm_resnet50", "imagenet"),
    r"base_model\.features\.": ("TSM on MobileNetV2", "tsm_mobilenetv2", "imagenet"),
    r"conv2\.B01\.conv_i1\.conv\.weight": ("MF-Net", "mfnet", "mfnet"),
    r"features\.denseblock1\.": ("Hara's DenseNets", "densenet", "kinetics"),
    r"conv1_s\.weight": ("Hara's R(2+1)D", "resnet2p1d", "kinetics"),
    r"stem\.3\.weight": ("torchvision's R(2+1)D", "r2plus1d_18", "torchvision"),
    r"stem\.0\.weight": ("torchvision's video ResNets", "r3d_18", "torchvision"),
    r"pos_encoding\.class_token": ("torchvision's MViT", "mvit_v2_s", "mvit"),
    r"patch_embed\.proj\.weight": ("torchvision's video Swin", "swin3d_t", "imagenet"),
    r"features\.0\.0\.0\.weight": ("torchvision's S3D", "s3d", "torchvision"),
    r"features\.18\.0\.weight": ("MobileNetV2", "tsm_mobilenetv2", "imagenet"),
    r"layer1\.0\.conv1\.weight": ("Hara's ResNets", "resnet", "kinetics"),
}


def read_state(path: str | Path) -> dict:
    """Read a checkpoint file, of tensors and plain types only.

    Raises:
        FileNotFoundError, ValueError: naming the file, where there is none or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a truncated, foreign or unsafe file
        if "GLOBAL" in str(error):
            raise ValueError(
                f"{path}: a pickle with more than tensors and plain types, which could run any code and is not opened; "
                "if you trust where it is from, convert it once, best on a machine without anything of value: python "
                "-c \"import torch; c = torch.load('OLD', map_location='cpu', weights_only=False); "
                "c = c.state_dict() if hasattr(c, 'state_dict') else c.get('state_dict', c); "
                "torch.save({k: v for k, v in c.items() if torch.is_tensor(v)}, 'NEW')\"") from error
        raise ValueError(f"{path}: cannot be read as a checkpoint of tensors and plain types; it may be truncated, or "
                         f"something else: fetch it again ({type(error).__name__})") from error


def is_named(source: str | Path) -> bool:
    """Whether published weights are given by torchvision's name for them, not as a file."""
    return re.fullmatch(r"[A-Z][A-Z0-9_]*_V\d+|DEFAULT", str(source)) is not None


def fetch_named(trunk: nn.Module, name: str) -> State:
    """torchvision's own weights, from its cache or the internet.

    Raises:
        ValueError: where torchvision has none of this name for the trunk, or they cannot be had here.
    """
    library = getattr(trunk, "torchvision_name", None)
    from torchvision.models import get_model_weights  # here, for it takes a second to import
    known = get_model_weights(library).__members__ if library else {}
    if name not in known:
        remedy = f"it has {', '.join(known)}" if known else "give a file"
        raise ValueError(f"--pretrain_path {name}: torchvision has no such weights for this trunk; {remedy}")
    weights = known[name].value
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


def is_own(content: dict) -> bool:
    """Whether a checkpoint is one of this program."""
    return str(content.get("format", "")).startswith("hipe-") and isinstance(content.get("model"), dict)


def unwrap(content: object) -> tuple[State, str | None]:
    """The state dict in a checkpoint, without the prefix of data-parallel training, and the `arch` it names.

    Of a checkpoint of this program: its trunk, and its pooled head as `fc`.

    Raises:
        ValueError: where there is none.
    """
    if isinstance(content, dict) and is_own(content):
        return {key.removeprefix("trunk.").replace("pooled_head.", "fc."): value for key, value in
                content["model"].items() if key.startswith(("trunk.", "pooled_head."))}, "HIPE"
    arch = content.get("arch") if isinstance(content, dict) else None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise ValueError("holds no weights; give the checkpoint of a trunk, with a state_dict")
    state = {key.removeprefix("module."): value for key, value in state.items()
             if isinstance(key, str) and isinstance(value, Tensor)}
    return state, arch if isinstance(arch, str) else None


def layout_of(state: State) -> tuple[str, str | None, str]:
    """The published layout of a state dict, the --model it belongs to, and the --normalisation under which its clips
    were seen; for 2D weights the layout says so."""
    flat = max((value.dim() for value in state.values()), default=0) == 4
    for sign, (name, model, normalisation) in LAYOUTS.items():
        if any(re.match(sign, key) for key in state):
            if normalisation == "kinetics" and flat:
                normalisation = "imagenet"
            elif normalisation == "kinetics" and not any(key.endswith("num_batches_tracked") for key in state):
                normalisation = "activitynet"  # Hara's first release, made before batch-norms counted
            # what is not TSM's and knows no time is a network for images
            name = "2D " + name.removeprefix("Hara's ") if flat and "TSM" not in name else name
            return name, model, normalisation
    return "no layout known here", None, "kinetics"


def flags_of(state: State) -> dict[str, object]:
    """The flags that make a trunk of these shapes, as far as they can be told."""
    model = layout_of(state)[1]
    if model == "r3d_18" and state.get("layer2.0.conv1.0.weight", torch.empty(0, 0, 3)).shape[2] == 1:
        model = "mc3_18"
    if model not in ("resnet", "resnet2p1d", "densenet"):
        return {"--model": model} if model else {}
    stem = next((state[key] for key in ("conv1.weight", "conv1_t.weight", "features.conv1.weight") if key in state),
                None)
    size = {} if stem is None or stem.dim() < 5 else {"--conv1_t_size": stem.shape[2]}
    if model == "densenet":
        counts = Counter(re.findall(r"denseblock(\d)\.denselayer\d+\.norm1\.weight", " ".join(state)))
        depth = _key_of(DENSE_DEPTHS, tuple(counts[i] for i in "1234"))
        width = {} if stem is None else {"--resnet_widen_factor": stem.shape[0] / 64}
        return {"--model": model, "--model_depth": depth, **width, **size}
    blocks = {tuple(map(int, found)) for found in re.findall(r"\blayer(\d)\.(\d+)\.", " ".join(state))}
    counts = tuple(sum(layer == i for layer, _ in blocks) for i in (1, 2, 3, 4))
    deep = "layer1.0.conv3.weight" in state
    flags = {"--model": _family(state) if deep else model if model == "resnet2p1d" else _family(state),
             "--model_depth": _key_of({d: c for d, c in DEPTHS.items() if (d >= 50) == deep}, counts),
             "--resnet_shortcut": "B" if "layer2.0.downsample.0.weight" in state else "A", **size}
    first, middle = state.get("layer1.0.conv2.weight"), state.get("layer2.0.conv2.weight")
    if flags["--model"] == "resnext" and middle is not None:
        flags["--resnext_cardinality"] = middle.shape[0] // middle.shape[1]
        return flags
    widen = None if stem is None else stem.shape[0] / 64
    if flags["--model"] == "wideresnet" and widen and first is not None:
        if first.shape[0] == stem.shape[0] and first.shape[0] % 64 == 0:
            widen = 1.0  # Hara's later code has a stem as wide as layer1's planes, which tells nothing of the factor
        flags["--wide_resnet_k"] = round(first.shape[0] / 64 / widen)
    if widen is not None:
        flags["--resnet_widen_factor"] = widen
    return flags


def _key_of(table: dict[int, tuple], counts: tuple) -> int | str:
    """The depth with these numbers of blocks, or the numbers where no depth has them."""
    return next((depth for depth, known in table.items() if known == counts), " ".join(map(str, counts)) + " blocks")


def _family(state: State) -> str:
    """Which of Hara's residual networks has blocks of these shapes."""
    if "conv1_s.weight" in state:
        return "resnet2p1d"
    conv1, bn1 = state.get("layer2.0.conv1.weight"), state.get("layer2.0.bn1.weight")
    conv2, conv3 = state.get("layer2.0.conv2.weight"), state.get("layer2.0.conv3.weight")
    if conv1 is not None and bn1 is not None and bn1.shape[0] == conv1.shape[1] != conv1.shape[0]:
        return "preresnet"
    if conv2 is None or conv3 is None:
        return "resnet"
    if conv2.shape[0] != conv2.shape[1]:
        return "resnext"
    return "wideresnet" if conv3.shape[0] == 2 * conv2.shape[0] else "resnet"


def rename(state: State, own: State) -> State:
    """Carry a published layout's names over to the trunk's."""
    if any(key.startswith("features.conv0.") for key in state):  # DenseNets: torchvision's and Hara's first release
        state = {re.sub(r"^features\.(conv|norm)0\.", r"features.\g<1>1.",
                        re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", key)): value for key, value in state.items()}
    if any(key.startswith("base_model.") for key in own):
        # MobileNetV2's blocks are one flat list in TSM's code, and lists within a list in torchvision
        state = {_nested(key, state): value for key, value in state.items()}
        if not any(key.startswith("base_model.") for key in state):  # weights for images know no shift
            shifted = {key.removeprefix("base_model.").replace(".net.", "."): key for key in own}
            state = {shifted.get(key, key): value for key, value in state.items()}
    return state


def _nested(key: str, state: State) -> str:
    found = re.fullmatch(r"(.*features\.\d+\.conv\.)(\d)\.((?:net\.)?[a-z_]+)", key)
    if found is None or not {f"{found[1]}0.weight", f"{found[1]}0.net.weight"} & set(state):
        return key
    block, index, rest = found[1], int(found[2]), found[3]
    whole = f"{block}7.weight" in state  # the first block has no expansion
    inner, last = divmod(index, 3)
    if inner < (2 if whole else 1):
        return f"{block}{inner}.{last}.{rest}"
    return f"{block}{inner + last}.{rest}"


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

    dropped: list[str]  # keys of the head
    normalisation: str  # under which the weights saw their clips: a key of datasets.transforms.NORMALISATIONS


def load_pretrained(trunk: nn.Module, source: str | Path, *, n_classes: int | None = None,
                    tell: Callable[[str], None] | None = None) -> Loaded:
    """Load published weights into a trunk; the head is dropped, and 2D weights are inflated.

    Args:
        source: a file in one of the published layouts, or torchvision's name of weights.
        n_classes: of the head, where the caller thinks to know.
        tell: is given one line on what was found, loaded and dropped.
    Raises:
        FileNotFoundError, ValueError: where there is no such file, the head has other classes, or anything but the
            head is missing, unexpected, of another shape or not finite: naming the keys and the likeliest cause.
    """
    content = fetch_named(trunk, str(source)) if is_named(source) else read_state(source)
    try:
        state, arch = unwrap(content)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    published, before = state, trunk.state_dict()
    if hasattr(trunk, "fit_stem"):
        trunk.fit_stem(state)
    own = trunk.state_dict()
    state = rename(state, own)
    dropped = [key for key in state if key.startswith(HEADS) and key not in own]
    told_apart = {state[key].shape[0] for key in dropped if state[key].dim()}
    if n_classes and not told_apart:
        raise ValueError(f"{source}: holds no head that could tell --n_pretrain_classes {n_classes} apart; leave the "
                         "flag out")
    if n_classes and n_classes not in told_apart:
        raise ValueError(f"{source}: its head tells {max(told_apart)} classes apart, not --n_pretrain_classes "
                         f"{n_classes}; mend the flag, or leave it out")
    convs = [key for key, value in own.items() if value.dim() >= 4]
    state = {key: fit(value, own[key], key == convs[0]) if key in own else value
             for key, value in state.items() if key not in dropped}
    # files older than PyTorch 0.4.1 lack the batch-norm counters, which no output depends on
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    reshaped = [f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}" for key in own
                if key in state and state[key].shape != own[key].shape]
    layout, _, normalisation = layout_of(published)
    if isinstance(content, dict) and is_own(content):
        normalisation = content.get("normalisation") or content["args"].get("normalisation") or "kinetics"
    if missing or unexpected or reshaped:
        lists = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        problems = "; ".join(f"{len(keys)} {name}: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}"
                             for name, keys in lists if keys)
        alone = not missing and not unexpected and len(reshaped) == 1
        channels = _seen_channels(state[convs[0]], own[convs[0]]) if alone else None
        cause = (f"the likeliest cause: made for {channels} input channels (optical flow?)" if channels else
                 likeliest_cause(published, before, grown=len(unexpected) + len(reshaped) > 1,
                                 sized=bool(trunk.depths)))
        check = "check --model, --model_depth, --resnet_shortcut and --resnet_widen_factor" if trunk.depths else (
            "check --model")
        raise ValueError(f"{source}: not the weights of this trunk: {problems}; the file has {layout}"
                         f"{f' (arch {arch})' if arch else ''}; {cause}; {check}")
    spoilt = [key for key, value in state.items() if not value.isfinite().all()]
    if spoilt:
        raise ValueError(f"{source}: {len(spoilt)} tensors hold numbers that are not finite: {', '.join(spoilt[:8])}"
                         f"{' ...' if len(spoilt) > 8 else ''}; the training that it is from diverged, or the file is "
                         "damaged: give an earlier checkpoint, or fetch it again")
    trunk.load_state_dict(state, strict=False)
    if tell is not None:
        inflated = layout.startswith("2D") and any(own[key].dim() == 5 for key in convs)
        tell(f"{source}: weights of {layout}{f' (arch {arch})' if arch else ''}, {len(state)} tensors loaded"
             f"{' and inflated' if inflated else ''}, head dropped ({', '.join(dropped) or 'there was none'}), "
             f"their clips were normalised as {normalisation}")
    return Loaded(dropped, normalisation)


def _seen_channels(kernel: Tensor, own: Tensor) -> int | None:
    """The input channels of a first convolution's kernel that differs from the trunk's own in nothing else."""
    theirs, ours = kernel.shape, own.shape
    same = len(theirs) == len(ours) and theirs[0] == ours[0] and theirs[2:] == ours[2:]
    return theirs[1] if same and theirs[1] != ours[1] else None


def likeliest_cause(state: State, own: State, *, grown: bool, sized: bool) -> str:
    """Which flag would explain that a state dict does not fit a trunk's.

    Args:
        grown: whether there is more in it than a damaged file would have: other keys, or several other shapes.
        sized: whether the trunk comes in depths; one that does not has no flags to make it as the file's.
    """
    strange = "the likeliest cause: a damaged file, or one of other code"
    try:
        theirs, ours = flags_of(rename(state, {})), flags_of(own)
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

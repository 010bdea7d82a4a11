"""Folders of the Hugging Face hub: sizes, tensors, class names and the normalisation of clips, as their files state
them."""

import json
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from models.state_files import read_state

NEEDS = ("needs the package transformers, which is not here ({}); pip install -r requirements-transformers.txt, or "
         "choose another --model")
FAMILIES = ("videomae", "vjepa2", "vivit", "timesformer")  # of config.json, and names of trunks
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
DESCRIPTIONS = ("config.json", *PROCESSORS, *WEIGHTS[1::2])
# what processors of these files do to a channel of 0..1: less a mean, over a deviation; by datasets' names of these
USUAL = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "mvit": ((0.45,) * 3, (0.225,) * 3),
         "i3d": ((0.5,) * 3, (0.5,) * 3), "vivit": ((0.75,) * 3, (0.25,) * 3)}


def is_hub_name(source: str | Path) -> bool:
    """Whether a text is the name of a folder of the hub, such as MCG-NJU/videomae-base."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(source)) is not None


def described_by(folder: Path) -> str | None:
    """The trunk that the config.json of a folder describes; None where it is not there, or of another network."""
    try:
        family = _json(folder / "config.json").get("model_type")
    except (FileNotFoundError, ValueError):
        return None
    return family if family in FAMILIES else None


def folder_of(source: str | Path, tell: Callable[[str], None] | None = None) -> Path | None:
    """The folder with config.json that a source of weights means, or lies in; None for a file without one, or none.

    Args:
        source: a folder, a file in it, or the name of one on the hub, which is fetched where the hub's cache does not
            have it. tell: is given a line before anything is fetched.
    Raises:
        ValueError, FileNotFoundError: where there is none, or it cannot be fetched.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path}: a folder without config.json; give one that has it, with "
                                    "model.safetensors, as the hub does")
        return path
    if path.exists():
        return path.parent if (path.parent / "config.json").is_file() else None
    return _fetched(str(source), tell) if is_hub_name(source) else None


def _fetched(name: str, tell: Callable[[str], None] | None) -> Path:
    """The folder of a name in the hub's cache, with all that is needed: what is not there is fetched."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(f"--pretrain_path {name}: the hub {NEEDS.format(error)}") from error
    try:
        cached = Path(snapshot_download(name, allow_patterns=["config.json"], local_files_only=True))
    except Exception:  # of many kinds: it is not in the cache
        cached = None
    if cached is not None and lacking(cached) is None:
        return cached
    if tell is not None:
        tell(f"{name}: fetching config.json and the weights from the Hugging Face hub")

    def fetch(*files: str) -> Path:
        try:  # the descriptions every time, for meanwhile the name may have come to mean a newer folder
            return Path(snapshot_download(name, allow_patterns=[*DESCRIPTIONS, *files]))
        except Exception as error:  # of the network, of names, of permissions
            said = textwrap.shorten(str(error), 160, placeholder=" ...")
            raise ValueError(
                f"--pretrain_path {name}: neither a file or folder here nor whole in the hub's cache; check the name, "
                "or fetch its config.json and model.safetensors on another machine and give their folder, for from "
                f"here it cannot be fetched ({type(error).__name__}: {said})") from error

    folder = fetch()
    for weights in WEIGHTS[::2]:  # pytorch_model.bin only where there is nothing better
        if lacking(folder) is not None:
            folder = fetch(weights, *_parts(folder / f"{weights}.index.json"))
    if (missing := lacking(folder)) is not None:
        raise ValueError(f"--pretrain_path {name}: {missing} is neither in the hub's cache ({folder}) nor can it be "
                         "fetched; check the name and the network, or give a folder that has it")
    return folder


def lacking(folder: Path) -> str | None:
    """The first file that a folder should have and has not: config.json, or one with weights; None for a whole one.

    Raises:
        ValueError: naming a list of parts that cannot be read.
    """
    if not (folder / "config.json").is_file():
        return "config.json"
    name = _weights_in(folder)
    if name is None:
        return WEIGHTS[0]
    return next((part for part in _parts(folder / name) if not (folder / part).is_file()), None)


def _weights_in(folder: Path) -> str | None:
    """The first of WEIGHTS that a folder has."""
    return next((name for name in WEIGHTS if (folder / name).is_file()), None)


def _parts(index: Path) -> list[str]:
    """The files of weights that an index lists; none where it is no index, or not there.

    Raises:
        ValueError: where it cannot be read, or lists none.
    """
    if not index.name.endswith(".index.json") or not index.is_file():
        return []
    parts = _json(index).get("weight_map")
    if not isinstance(parts, dict) or not parts or not all(isinstance(part, str) for part in parts.values()):
        raise ValueError(f"{index}: without a weight_map of files; fetch it again")
    return [Path(part).name for part in dict.fromkeys(parts.values())]


def _json(path: Path) -> dict:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: no mapping of names to values; fetch it again")
    return content


def config_text(given: str, source: str | Path | None, *, family: str, known: Sequence[str],
                tell: Callable[[str], None] | None = None) -> str:
    """The sizes of a network as a line of JSON, {} where neither a config nor a source says any.

    Args:
        given: JSON, or a path to config.json or its folder; goes before what lies with the source.
        source: of weights. family: that config.json must be of. known: names of sizes, all others are left out.
    Raises:
        ValueError, FileNotFoundError: naming the file, where it cannot be read or is of another family.
    """
    where = "--trunk_config"
    if given.lstrip().startswith("{"):
        try:
            content = json.loads(given)
        except ValueError as error:
            raise ValueError(f"{where}: no JSON ({error}); give a config.json, or its content") from error
    elif given:
        path = Path(given).expanduser()
        path = path / "config.json" if path.is_dir() else path
        where, content = str(path), _json(path)
    else:
        folder = None if source is None else folder_of(source, tell)
        if folder is None:
            return "{}"
        where, content = str(folder / "config.json"), _json(folder / "config.json")
    if (other := content.get("model_type") or family) != family:
        remedy = f"give --model {other}, or" if other in FAMILIES else "no --model is of that kind; give"
        raise ValueError(f"{where}: describes {other}, not {family}; {remedy} another folder")
    sizes = {name: content[name] for name in known if content.get(name) is not None}
    return json.dumps(sizes, sort_keys=True, separators=(",", ":"))


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, of its first file in WEIGHTS, in one piece or in several.

    Raises:
        ValueError, FileNotFoundError: where there is none, or one of them cannot be read.
    """
    name = _weights_in(folder)
    if name is None:
        raise FileNotFoundError(f"{folder}: has none of {', '.join(WEIGHTS[::2])}; give a folder with the weights")
    if not (parts := _parts(folder / name)):
        return read_state(folder / name)
    state: dict[str, Tensor] = {}
    for part in parts:
        content = read_state(folder / part)
        if not isinstance(content, dict):
            raise ValueError(f"{folder / part}: no mapping of names to tensors; fetch it again")
        state |= content
    return state


def class_names(folder: Path) -> list[str] | None:
    """The class names in config.json's id2label, in the order of the outputs; None where it has only numbers."""
    names = _json(folder / "config.json").get("id2label")
    if not isinstance(names, dict) or sorted(names, key=str) != sorted(map(str, range(len(names)))):
        return None
    names = [str(names[str(i)]) for i in range(len(names))]
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def normalisation_in(folder: Path, *, centred: bool = False) -> str | None:
    """How the folder's processor normalises clips, a key of datasets.transforms.NORMALISATIONS; None without its file.

    Args:
        centred: whether this family's processor takes 1 off what it has scaled, where its file does not say so.
    Raises:
        ValueError: where its mean and deviation are none that have a name.
    """
    path = next((folder / name for name in PROCESSORS if (folder / name).is_file()), None)
    if path is None:
        return None
    content = _json(path)
    content = content.get("video_processor", content)
    try:
        scale = 255 * float(content.get("rescale_factor", 1 / 255)) if content.get("do_rescale", True) else 255.0
        shift = float(bool(content.get("offset", centred)))
        plain = not content.get("do_normalize", True)
        mean, deviation = (([float(value) for value in content[name]] if not plain and name in content else None)
                           for name in ("image_mean", "image_std"))
        if not plain and (mean is None or deviation is None):
            return None
        mean, deviation = (mean or [0.0] * 3), (deviation or [1.0] * 3)
        mean, deviation = [(m + shift) / scale for m in mean], [d / scale for d in deviation]
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: its mean and deviation cannot be read ({error}); mend it, or remove it") from error
    return _named(mean, deviation, path)


def _named(mean: Sequence[float], deviation: Sequence[float], path: Path) -> str:
    known: Mapping[str, tuple] = USUAL
    for name, (usual_mean, usual_deviation) in known.items():
        pairs = zip((*mean, *deviation), (*usual_mean, *usual_deviation), strict=False)
        if len(mean) == len(deviation) == 3 and all(math.isclose(a, b, abs_tol=1e-3) for a, b in pairs):
            return name
    raise ValueError(f"{path}: clips less {', '.join(f'{m:.4g}' for m in mean)} over "
                     f"{', '.join(f'{d:.4g}' for d in deviation)} (of 0..1) are none that --normalisation knows; give "
                     "a copy of the folder without this file, with --normalisation")

"""Finding the weights of a trunk in a checkpoint, in whatever containers and under whatever prefixes they lie."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from models import TRUNKS
from models.trunk import Layout, State, Trunk

# what data parallelism, sharding, compilation and checkpointing put into names, anywhere; no trunk has parts so named
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
DEEPEST = 12  # containers in containers, beyond which nobody puts weights
USUAL = 0.5  # share of a trunk's names that a file of it has at least
LIKELY = 16  # prefixes under which another network is looked for


def layouts() -> dict[Layout, list[str]]:
    """All published layouts, as the trunks state them, and the names of the trunks that have each."""
    known: dict[Layout, list[str]] = {}
    for name, trunk in TRUNKS.items():
        for layout in trunk.layouts:
            known.setdefault(layout, []).append(name)
    return known


def layout_of(state: State, trunk: type[Trunk] | None = None) -> Layout | None:
    """The published layout of a state dict, None where it is none of them.

    Args:
        trunk: the class that it is meant for, whose layouts come before all others.
    """
    known = (*(trunk.layouts if trunk else ()), *layouts())
    return next((layout for layout in known if layout.is_of(state)), None)


@dataclass(frozen=True)
class Weights:
    """The weights in a checkpoint.

    Attributes:
        state: tensors by their names without containers, prefixes and wrappers. place: what these were, joined by dots.
        arch: the network that the checkpoint names. others: first parts of the names of tensors that are left out.
    """

    state: dict[str, Tensor]
    place: str = ""
    arch: str | None = None
    others: tuple[str, ...] = ()


def is_own(content: object) -> bool:
    """Whether a checkpoint is one of this program."""
    return (isinstance(content, dict) and str(content.get("format", "")).startswith("hipe-")
            and isinstance(content.get("model"), dict) and isinstance(content.get("args"), dict))


def own_weights(content: dict) -> Weights:
    """The trunk of a checkpoint of this program, and its pooled head as `fc`."""
    return Weights({key.removeprefix("trunk.").replace("pooled_head.", "fc."): value for key, value in
                    content["model"].items() if key.startswith(("trunk.", "pooled_head."))}, arch="HIPE")


def unwrap(content: object, trunk: Trunk) -> Weights:
    """The weights in a checkpoint that fit a trunk best.

    Containers and prefixes are one thing: the joined names of all tensors, "state_dict.module.backbone.conv1.weight",
    begin with what is to be taken off, and this is what leaves most names that the trunk has in one of its layouts.

    Raises:
        ValueError: where there are no tensors.
    """
    if is_own(content):
        return own_weights(content)
    tensors: dict[str, tuple[Tensor, str]] = {}  # by joined name, with the name of the mapping that holds it
    for mapping, name, value in _tensors(content):
        tensors.setdefault(_joined(mapping, name), (value, _joined(mapping)))
    if not tensors:
        raise ValueError("holds no weights; give the checkpoint of a trunk, with a state_dict")
    keys = list(tensors)
    place, names = _fitting(keys, trunk)
    if place is None:
        place = _recognised(tensors)
    inside = {key: key[len(place) + bool(place):] for key in keys if _is_below(key, place)}
    # beside weights lie means, optimisers and other networks, in mappings of their own
    mappings = {tensors[key][1] for key, name in inside.items() if name in names or not names or _is_head(name)}
    inside = {key: name for key, name in inside.items() if tensors[key][1] in mappings}
    if place and not any(_is_head(name) for name in inside.values()):
        inside |= _heads_beside(keys, place)
    left = [_branch(key, place) for key in keys if key not in inside]
    arch = content.get("arch") if isinstance(content, dict) else None
    return Weights({name: tensors[key][0] for key, name in inside.items()}, place,
                   arch if isinstance(arch, str) else None, tuple(dict.fromkeys(left)))


def _tensors(content: object, mapping: tuple[str, ...] = (), seen: set[int] | None = None
             ) -> Iterator[tuple[tuple[str, ...], str, Tensor]]:
    """All named tensors in nested mappings and lists: the names of the mappings around each, its own, and it."""
    seen = set() if seen is None else seen
    if not isinstance(content, dict | list | tuple) or len(mapping) > DEEPEST or id(content) in seen:
        return
    seen.add(id(content))  # a pickle may hold a mapping twice, and in itself
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for name, value in pairs:
        if not isinstance(name, str) and isinstance(content, dict):  # of an optimiser's state
            continue
        if isinstance(value, Tensor):
            if isinstance(content, dict):
                yield mapping, name, value
        else:
            yield from _tensors(value, (*mapping, str(name)), seen)


def _joined(mapping: Sequence[str], name: str = "") -> str:
    """Names joined by dots, without wrappers."""
    parts = ".".join((*mapping, name)).split(".")
    return ".".join(part for part in parts if part and part not in WRAPPERS)


def _is_below(key: str, place: str) -> bool:
    return not place or key.startswith(f"{place}.")


def _branch(key: str, place: str) -> str:
    """The beginning of a name up to where it leaves a place."""
    parts, way = key.split("."), place.split(".")
    n = next((i for i, (part, other) in enumerate(zip(parts, way, strict=False)) if part != other), len(way))
    return ".".join(parts[:n + 1])


def _fitting(keys: Sequence[str], trunk: Trunk) -> tuple[str | None, set[str]]:
    """What stands before most of a trunk's names in one of its layouts, and these names; None where it is too few.

    Where two leave as many names, the usual containers come first, then the order of the file, then the shorter one.
    """
    own = list(trunk.state_dict())
    spellings = [set(own), *({layout.naming(key) for key in own} for layout in trunk.layouts)]
    counts: Counter[tuple[str, int]] = Counter()
    for key in keys:
        parts = key.split(".")
        for i in range(len(parts)):
            name = ".".join(parts[i:])
            counts.update((".".join(parts[:i]), j) for j, names in enumerate(spellings) if name in names)
    usual = {container for layout in (*trunk.layouts, *layouts()) for container in layout.containers}
    best = max(counts, key=lambda pair: (counts[pair], pair[0].split(".")[0] in usual), default=None)
    if best is None or counts[best] < USUAL * len(own):
        return None, set()
    return best[0], spellings[best[1]]


def _recognised(tensors: dict[str, tuple[Tensor, str]]) -> str:
    """What stands before the names of another network: one that is known, or the largest mapping."""
    sizes: Counter[str] = Counter()
    for key in tensors:
        parts = key.split(".")
        sizes.update(".".join(parts[:i]) for i in range(len(parts)))
    for place, _ in sizes.most_common(LIKELY):
        state = {key[len(place) + bool(place):]: value for key, (value, _) in tensors.items() if _is_below(key, place)}
        if layout_of(state) is not None:
            return place
    return Counter(mapping for _, mapping in tensors.values()).most_common(1)[0][0]


def _heads() -> set[str]:
    return {head for layout in layouts() for head in layout.heads}


def _is_head(name: str) -> bool:
    """Whether a tensor is of a classifier, or of what stands before it in the head."""
    parts = tuple(f"{part}." for layout in layouts() for part in layout.between)
    return name.rpartition(".")[0] in _heads() or name.startswith(parts)


def _heads_beside(keys: Sequence[str], place: str) -> dict[str, str]:
    """The classifier beside the weights, where these are a part of a network: `fc` beside `backbone`."""
    parts = place.split(".")
    for i in range(len(parts) - 1, -1, -1):
        above = ".".join(parts[:i])
        found = {key: name for key in keys if _is_below(key, above)
                 and _is_head(name := key[len(above) + bool(above):])}
        if found:
            return found
    return {}

"""What flags come to together: defaults that depend on others, strides, and what contradicts what."""

import argparse
import math
import sys
from typing import NoReturn

from models import TRUNKS
from models.hub_files import config_text
from models.scores import SCORES, TreeScore
from models.stages import CLASSIFIERS
from options.recipes import PAPER, RECIPES
from options.trunks import TRUNK_FLAGS


class Flags(argparse.Namespace):
    """Flags that nothing changes any more; `replaced` gives others."""

    def __init__(self, **values: object) -> None:
        vars(self).update(values)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: flags do not change once they are resolved")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: flags do not change once they are resolved")

    def replaced(self, **values: object) -> "Flags":
        """The same flags with other values of some."""
        return Flags(**{**vars(self), **values})


def resolve(args: argparse.Namespace) -> Flags:
    """The flags with all that depends on other flags: the recipes, the trunk's depth and strides.

    Raises:
        ValueError: where two flags contradict each other, or mean nothing together.
    """
    flags = argparse.Namespace(**vars(filled(args)))
    for name, value in PAPER.items() if flags.paper else ():
        if getattr(flags, name) != value:
            raise ValueError(f"--{name} {getattr(flags, name)} contradicts --paper, which is {value}; leave one of "
                             "them out")
    _check_score(flags)
    _resolve_trunk(flags)
    if not flags.pretrain_path:
        flags.normalisation = flags.normalisation or "kinetics"
    return Flags(**vars(flags))


def filled(args: argparse.Namespace) -> Flags:
    """The flags with the defaults of the recipe and of the score where nobody gave another value."""
    flags, by_tree = argparse.Namespace(**vars(args)), decides_by_tree(args)
    defaults = RECIPES["pretrained" if flags.pretrain_path or flags.paper else "scratch"]
    _fill(flags, defaults)
    _fill(flags, RECIPES["frozen"] if by_tree and flags.pretrain_path and trunk_stays(flags) else {})
    if flags.no_start or flags.starts == "sampled":  # nothing is fitted to standardise by
        _fill(flags, {"standardise": False})
    _fill(flags, RECIPES["tree" if by_tree else "embedded"])
    return Flags(**vars(flags))


def _fill(flags: argparse.Namespace, defaults: dict) -> None:
    for name, value in defaults.items():
        if getattr(flags, name) is None:
            setattr(flags, name, value)


def trunk_stays(flags: argparse.Namespace) -> bool:
    """Whether no step of the whole schedule trains a part of the trunk, whose rates are all above 0."""
    trained = flags.trunk_epochs > 0 or flags.warm_epochs < flags.n_epochs
    return flags.ft_begin_module in CLASSIFIERS or not trained


def decides_by_tree(args: argparse.Namespace) -> bool:
    """Whether the score decides at every branching."""
    return issubclass(SCORES[args.score], TreeScore)


def _resolve_trunk(flags: argparse.Namespace) -> None:
    """The trunk's depth and strides, and that it has what its flags ask for."""
    trunk = TRUNKS[flags.model]
    if trunk.on_hub:
        flags.trunk_config = config_text(flags.trunk_config, flags.pretrain_path, family=trunk.family,
                                         known=trunk.known, tell=lambda line: print(line, file=sys.stderr))
    if flags.model_depth is None and trunk.depths and "num_hidden_layers" not in flags.trunk_config:
        flags.model_depth = trunk.default_depth
    elif flags.model_depth is not None and flags.model_depth not in trunk.depths:
        remedy = f"choose one of {', '.join(map(str, trunk.depths))}" if trunk.depths else "leave the flag out"
        raise ValueError(f"--model {flags.model} does not come in --model_depth {flags.model_depth}; {remedy}")
    own = {option.flag for option in trunk.options.values()}
    useless = [flag for flag, option in TRUNK_FLAGS.items()
               if flag not in own and getattr(flags, flag) != option.unset]
    useless += [flag for flag in ("temporal_strides", "spatial_strides")
                if trunk.strides is None and getattr(flags, flag)]
    if flags.conv1_t_stride is not None and "conv1_t_size" not in trunk.options:
        useless.append("conv1_t_stride")
    if useless:
        raise ValueError(f"--{useless[0]} means nothing to --model {flags.model}; leave it out")
    if flags.freeze_bn and not flags.ft_begin_module:
        raise ValueError("--freeze_bn freezes what stands before --ft_begin_module; give that too")
    if trunk.strides is not None:
        _resolve_strides(flags, trunk)
    elif flags.paper:
        raise ValueError(f"--paper has one cell in time, and --model {flags.model} has more that no flag changes; "
                         "choose another")


def _resolve_strides(flags: argparse.Namespace, trunk: type) -> None:
    """Strides in time and space, of which some have a flag of their own."""
    given = flags.temporal_strides
    strides, spatial = list(given or trunk.strides[0]), list(flags.spatial_strides or trunk.strides[1])
    if flags.paper and not given:
        strides[3:] = [2, 2]
    if flags.conv1_t_stride is not None:
        if given and given[0] != flags.conv1_t_stride:
            raise ValueError(f"--conv1_t_stride {flags.conv1_t_stride} contradicts --temporal_strides {given[0]} ...; "
                             "give one")
        strides[0] = flags.conv1_t_stride
    if flags.no_max_pool:
        for flag, value in (("temporal_strides", given), ("spatial_strides", flags.spatial_strides)):
            if value and value[1] != 1:
                raise ValueError(f"--no_max_pool contradicts --{flag}, whose second entry is {value[1]}; make it 1")
        strides[1] = spatial[1] = 1
    if flags.paper and math.prod(strides) < flags.sample_duration:
        raise ValueError(f"--paper has one cell in time, but --temporal_strides {' '.join(map(str, strides))} leave "
                         f"more of {flags.sample_duration} frames; give larger ones")
    flags.temporal_strides, flags.spatial_strides = strides, spatial
    if "conv1_t_size" in trunk.options:
        flags.conv1_t_stride = strides[0]


def _check_score(flags: argparse.Namespace) -> None:
    """That the score can use its flags.

    Raises:
        ValueError: naming a flag that means nothing to it, or contradicts it.
    """
    score, by_tree = SCORES[flags.score], decides_by_tree(flags)
    options = {"T": "temperature", "learn_T": "learn_temperature", "emb_file": "points", "random_last": "last_scale"}
    useless = [name for name, option in options.items() if getattr(flags, name) and option not in score.options]
    useless += [f"{name}_weight" for name in (("group", "batch_ce", "l1") if by_tree else ("level_ce",))
                if _positive(getattr(flags, f"{name}_weight"))]
    if not by_tree:
        useless += [name for name in ("merge_coverage", "ways_weight", "even_weight") if getattr(flags, name)]
        useless += ["neck levels"] if flags.neck == "levels" else []
    if useless:
        raise ValueError(f"--{useless[0]} means nothing to --score {flags.score}; leave it out")
    if flags.standardise and flags.neck != "levels":
        raise ValueError("--standardise is of --neck levels; give that too")
    if flags.standardise and (flags.no_start or flags.starts != "spread"):
        flag = "no_start" if flags.no_start else f"starts {flags.starts}"
        raise ValueError(f"--standardise is fitted when prototypes start at centres of clusters, and --{flag} does "
                         "without them; leave one of them out")
    if by_tree and flags.similarity == "log":
        raise ValueError("--similarity log has no highest value to weigh; leave it out, or choose another --score")
    if by_tree and flags.last_layer == "joint":
        raise ValueError(f"--last_layer joint trains a linear layer, and --score {flags.score} has none; leave it out")


def _positive(weight: float | list[float]) -> bool:
    return any(weight) if isinstance(weight, list) else weight > 0

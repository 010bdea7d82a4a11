"""What flags come to together: recipes, strides, and what contradicts what."""

import argparse
import math

from models import TRUNKS
from models.scores import SCORES
from options.recipes import PAPER, TRUNK_FLAGS, decides_by_tree, fill


def _resolve_trunk(args: argparse.Namespace) -> None:
    """The trunk's depth and strides, and that it has what its flags ask for."""
    trunk = TRUNKS[args.model]
    if args.model_depth is None and trunk.depths:
        args.model_depth = trunk.default_depth
    elif args.model_depth is not None and args.model_depth not in trunk.depths:
        remedy = f"choose one of {', '.join(map(str, trunk.depths))}" if trunk.depths else "leave the flag out"
        raise ValueError(f"--model {args.model} does not come in --model_depth {args.model_depth}; {remedy}")
    own = {option.flag for option in trunk.options.values()}
    useless = [flag for flag, option in TRUNK_FLAGS.items() if flag not in own and getattr(args, flag) != option.unset]
    useless += [flag for flag in ("temporal_strides", "spatial_strides") if trunk.strides is None and getattr(args, flag)]
    if args.conv1_t_stride is not None and "conv1_t_size" not in trunk.options:
        useless.append("conv1_t_stride")
    if useless:
        raise ValueError(f"--{useless[0]} means nothing to --model {args.model}; leave it out")
    if args.freeze_bn and not args.ft_begin_module:
        raise ValueError("--freeze_bn freezes what stands before --ft_begin_module; give that too")
    if trunk.strides is None:
        if args.paper:
            raise ValueError(f"--paper has one cell in time, and --model {args.model} has more that no flag changes; "
                             "choose another")
        return
    given = args.temporal_strides
    strides, spatial = list(given or trunk.strides[0]), list(args.spatial_strides or trunk.strides[1])
    if args.paper and not given:
        strides[3:] = [2, 2]
    if args.conv1_t_stride is not None:
        if given and given[0] != args.conv1_t_stride:
            raise ValueError(f"--conv1_t_stride {args.conv1_t_stride} contradicts --temporal_strides {given[0]} ...; give one")
        strides[0] = args.conv1_t_stride
    if args.no_max_pool:
        for flag, value in (("temporal_strides", given), ("spatial_strides", args.spatial_strides)):
            if value and value[1] != 1:
                raise ValueError(f"--no_max_pool contradicts --{flag}, whose second entry is {value[1]}; make it 1")
        strides[1] = spatial[1] = 1
    if args.paper and math.prod(strides) < args.sample_duration:
        raise ValueError(f"--paper has one cell in time, but --temporal_strides {' '.join(map(str, strides))} leave more "
                         f"of {args.sample_duration} frames; give larger ones")
    args.temporal_strides, args.spatial_strides = strides, spatial
    if "conv1_t_size" in trunk.options:
        args.conv1_t_stride = strides[0]


def _check_score(args: argparse.Namespace) -> None:
    """See that the score gets what it can use.

    Raises:
        ValueError: naming a flag that means nothing to it, or contradicts it.
    """
    score, by_tree = SCORES[args.score], decides_by_tree(args)
    useless = [name for name, option in (("T", "temperature"), ("learn_T", "learn_temperature"), ("emb_file", "points"),
                                         ("random_last", "last_scale")) if getattr(args, name) and option not in score.options]
    useless += [f"{name}_weight" for name in (("group", "batch_ce", "l1") if by_tree else ("level_ce",))
                if any(_as_list(getattr(args, f"{name}_weight")))]
    if not by_tree:
        useless += [name for name in ("merge_coverage", "ways_weight", "even_weight") if getattr(args, name)]
        if args.neck == "levels":
            useless.append("neck levels")
    if useless:
        raise ValueError(f"--{useless[0]} means nothing to --score {args.score}; leave it out")
    if args.standardise and args.neck != "levels":
        raise ValueError("--standardise is of --neck levels; give that too")
    if args.standardise and (args.no_start or args.starts != "spread"):
        flag = "no_start" if args.no_start else f"starts {args.starts}"
        raise ValueError(f"--standardise is fitted when prototypes start at centres of clusters, and --{flag} does "
                         "without them; leave one of them out")
    if by_tree and args.similarity == "log":
        raise ValueError("--similarity log has no highest value to weigh; leave it out, or choose another --score")
    if args.last_layer == "joint" and by_tree:
        raise ValueError(f"--last_layer joint is of a linear layer, which --score {args.score} has none of; leave it out")


def _as_list(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]


def resolve(args: argparse.Namespace) -> None:
    """Fill in what depends on other flags: the recipe, and strides from their separate flags.

    Raises:
        ValueError: where two flags contradict each other or a number is outside its range.
    """
    fill(args)
    for name, value in PAPER.items() if args.paper else ():
        if getattr(args, name) != value:
            raise ValueError(f"--{name} {getattr(args, name)} contradicts --paper, which is {value}; leave one of them out")
    _check_score(args)
    _resolve_trunk(args)
    if not args.pretrain_path:
        args.normalisation = args.normalisation or "kinetics"
    for name in ("batch_size", "sample_size", "sample_duration", "sample_t_stride", "prototypes_per_node", "checkpoint",
                 "push_every", "prototype_channels", "val_every", "n_val_samples", "push_clips", "middle_push_clips",
                 "inference_stride", "output_topk", "emb_dim", "neck_channels"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, not {getattr(args, name)}")
    for name in ("trunk_epochs", "warm_epochs", "n_epochs", "tune_iterations", "cache_features", "ways_clips", "n_threads", "inference_batch_size", "manual_seed"):
        if getattr(args, name) < 0:
            raise ValueError(f"--{name} must not be negative, as {getattr(args, name)} is")
    for name in ("learning_rate", "head_learning_rate", "trunk_learning_rate", "warm_learning_rate", "last_learning_rate",
                 "warm_score_learning_rate", "score_learning_rate", "similarity_scale", "separation_margin", "cluster_margin"):
        if getattr(args, name) is not None and not getattr(args, name) > 0:
            raise ValueError(f"--{name} must be above 0, not {getattr(args, name)}")
    for name in ("ce", "level_ce", "batch_ce", "cluster", "separation", "background", "coverage", "group", "l1",
                 "orthogonality", "sharing", "ways", "even", "pooled"):
        weight = getattr(args, f"{name}_weight")
        if not min(_as_list(weight)) >= 0:
            raise ValueError(f"--{name}_weight must not be negative, as {weight} is")
    if not 0 <= args.momentum < 1:
        raise ValueError(f"--momentum must be at least 0 and below 1, not {args.momentum}")
    if min(args.memory_gb, args.cache_gb) < 0 or not 0 <= args.sure <= 1:
        raise ValueError("--memory_gb and --cache_gb must not be negative, and --sure is a probability between 0 and 1")
    for name in ("focus", "background", "train_crop_min_scale", "train_crop_min_ratio", "target_accuracy"):
        if not 0 < getattr(args, name) <= 1:
            raise ValueError(f"--{name} is a share between 0 and 1, not {getattr(args, name)}")
    if args.merge_coverage and not all(0 < share <= 1 for share in args.merge_coverage):
        raise ValueError(f"--merge_coverage are shares between 0 and 1, not {args.merge_coverage}")
    if not 0 <= args.train_jitter <= 1:
        raise ValueError(f"--train_jitter is a strength between 0 and 1, not {args.train_jitter}")
    if args.temporal_strides and min(args.temporal_strides + args.spatial_strides) < 1:
        raise ValueError("--temporal_strides and --spatial_strides must be at least 1 each")
    for name in ("c", "edge", "T", "weight_start", "window_power", "resnet_widen_factor", "wide_resnet_k", "resnext_cardinality"):
        value = getattr(args, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"--{name} must be above 0 and finite, not {value}")
    if args.conv1_t_size < 1 or args.conv1_t_size % 2 == 0:
        raise ValueError(f"--conv1_t_size must be odd and at least 1, not {args.conv1_t_size}")

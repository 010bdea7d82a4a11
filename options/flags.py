"""Every flag of main.py, with its unit and default."""

import argparse
from collections.abc import Sequence

from options.parsing import Names, asks_for_help, parse_given, parser_of
from options.ranges import AMOUNT, COUNT, GIGABYTES, MOMENTUM, POSITIVE, PROBABILITY, SEED, SHARE, WEIGHT
from options.recipes import PAPER, RECIPES

DATASETS, READERS = Names("datasets", "DATASETS"), Names("datasets", "READERS")
NORMALISATIONS = Names("datasets.transforms", "NORMALISATIONS")
TRUNKS, NECKS, SCORES = Names("models", "TRUNKS"), Names("models.hipe", "NECKS"), Names("models.scores", "SCORES")
OPTIMIZERS, DTYPES = Names("training.engine", "OPTIMIZERS"), Names("training.precision", "DTYPES")
SCHEDULERS = Names("training.schedule", "SCHEDULERS")
# The flags of `main.py --help`; --help_all has all.
FIRST = {
    "root_path", "video_path", "annotation_path", "dataset", "file_type", "tree_file", "sample_size", "sample_duration",
    "n_threads", "memory_gb", "model", "model_depth", "pretrain_path", "prototypes_per_node", "score", "trunk_epochs",
    "warm_epochs", "n_epochs", "push_start", "push_every", "checkpoint", "batch_size", "manual_seed", "learning_rate",
    "paper", "result_path", "resume_path", "overwrite", "no_train", "inference", "inference_subset", "calibrate",
    "tensorboard", "no_img", "device", "no_cuda"}


def data_flags(parser: argparse.ArgumentParser) -> None:
    """Where the videos are and how clips are cut from them."""
    group = parser.add_argument_group("data")
    group.add_argument("--root_path", default=".", help="folder that relative paths hang off (default: .)")
    group.add_argument("--video_path", help="folder of frame folders, or of what --file_type says")
    group.add_argument("--annotation_path", help="annotation JSON, as util_scripts/*_json writes it")
    group.add_argument("--dataset", default="ucf101", choices=DATASETS, metavar="NAME",
                       help="layout of the data (default: %(default)s)")
    group.add_argument("--file_type", default="jpg", choices=READERS, metavar="NAME",
                       help="what is in --video_path: folders of frames, HDF5 files, packed frames, or video files "
                            "(default: jpg)")
    group.add_argument("--n_classes", type=COUNT, default=None,
                       help="number of classes, checked against the tree (UCF-101: 101; default: the tree's)")
    group.add_argument("--tree_file", default="UCF-101_hierarchy.csv",
                       help="hierarchy CSV, looked for in --root_path and beside main.py (default: %(default)s)")
    group.add_argument("--sample_size", type=COUNT, default=112,
                       help="height and width of a clip in pixels (default: 112)")
    group.add_argument("--sample_duration", type=COUNT, default=16, help="frames of a clip (default: 16)")
    group.add_argument("--sample_t_stride", type=COUNT, default=1,
                       help="frames from one frame of a clip to the next (default: 1)")
    group.add_argument("--antialias", action=argparse.BooleanOptionalAction, default=True,
                       help="smooth frames where they shrink to --sample_size (default: yes; of checkpoints that were "
                            "trained before: no)")
    group.add_argument("--train_crop", default="random", choices=("random", "center"),
                       help="crop of training clips (default: random)")
    group.add_argument("--train_crop_min_scale", type=SHARE,
                       help="smallest share of the area that a random crop keeps, 0..1 (default: .25 with "
                            "--pretrain_path, else .7)")
    group.add_argument("--train_crop_min_ratio", type=SHARE, default=0.75,
                       help="smallest aspect ratio of a random crop, 0..1 (default: .75)")
    group.add_argument("--train_jitter", type=PROBABILITY,
                       help="strength of random changes of contrast, brightness and tint in training clips, 0..1 "
                            "(default: 0 with --pretrain_path, else .3)")
    group.add_argument("--no_hflip", action="store_true", help="do not mirror training clips")
    group.add_argument("--n_val_samples", type=COUNT, default=3, help="clips a video in validation (default: 3)")
    group.add_argument("--push_clips", type=COUNT, default=3,
                       help="evenly spaced clips a training video in the last push, whose outcome is explained "
                            "(default: 3)")
    group.add_argument("--middle_push_clips", type=COUNT, default=1,
                       help="the same in the pushes before it, --push_clips at most (default: 1)")
    group.add_argument("--push_repeats", action="store_true",
                       help="let prototypes of a node become one and the same patch, as published (default: all but "
                            "one go to the next videos)")
    group.add_argument("--push_on", default="still", choices=("still", "training"),
                       help="clips that a push searches; training: augmented and normalised twice, as in the released "
                            "code (default: still)")
    group.add_argument("--n_threads", type=AMOUNT, default=4, help="loader processes, 0 for none (default: 4)")
    group.add_argument("--cache_features", type=AMOUNT, default=4,
                       help="views of each clip whose trunk features the warm epochs take turns with, and all epochs "
                            "of a trunk that learns nothing, which then runs once over every clip; 0 for a new view "
                            "every epoch (default: 4)")
    group.add_argument("--cache_gb", type=GIGABYTES, default=4.0,
                       help="GB of memory for these features; those of a trunk that learns nothing stay on disk where "
                            "they do not fit or several processes read them, else every warm epoch runs the trunk "
                            "(default: 4)")
    group.add_argument("--keep_features", action="store_true",
                       help="leave the features of a trunk that learns nothing in {result_path}/features when training "
                            "is done, for another run there")
    group.add_argument("--memory_gb", type=GIGABYTES, default=0.0,
                       help="GB of decoded frames to keep in memory (default: 0)")
    group.add_argument("--strict", action="store_true",
                       help="an unreadable file ends the run instead of being skipped with a warning")


def model_flags(parser: argparse.ArgumentParser) -> None:
    """Trunk, neck, prototypes and scores."""
    group = parser.add_argument_group("model", "defaults with a bar: of the tree scores | of the embedded ones")
    group.add_argument("--model", default="resnet", choices=TRUNKS, metavar="NAME", help="trunk (default: %(default)s)")
    group.add_argument("--model_depth", type=int, choices=Names("models", "DEPTHS"), metavar="N",
                       help="layers of the trunk, where it comes in several depths (default: 18, else the smallest)")
    group.add_argument("--conv1_t_stride", type=COUNT, help="stride of conv1 in time; the first of --temporal_strides")
    group.add_argument("--temporal_strides", type=COUNT, nargs=5,
                       help="strides in time of conv1, pool, layer2, layer3, layer4 or their like (default of resnet "
                            "and its kin: 1 2 2 1 1, published 1 2 2 2 2; of others: as published)")
    group.add_argument("--spatial_strides", type=COUNT, nargs=5,
                       help="the same in space (default: as published, mostly 2 2 2 2 2)")
    group.add_argument("--pretrain_path",
                       help="published weights of the trunk: a file, a name of torchvision's such as "
                            "KINETICS400_V1, or KINETICS400_I3D for i3d")
    group.add_argument("--n_pretrain_classes", type=COUNT,
                       help="classes that the head in --pretrain_path must tell apart (default: not checked)")
    group.add_argument("--normalisation", choices=NORMALISATIONS, metavar="NAME",
                       help="which pretrained weights' mean and deviation to use for clips (default: those of "
                            "--pretrain_path, else kinetics)")
    group.add_argument("--ft_begin_module",
                       help="first part of the trunk that is trained, such as layer4; those before it stay as they "
                            "are (fc: all of the trunk)")
    group.add_argument("--freeze_bn", action="store_true",
                       help="batch-norms before --ft_begin_module keep their statistics, too")
    group.add_argument("--neck", choices=NECKS, metavar="NAME",
                       help="levels: unit vectors in channels of each level's own; sigmoid, leaky (released code): "
                            "channels that all levels share (default: levels | sigmoid)")
    group.add_argument("--neck_channels", type=COUNT, default=128,
                       help="hidden channels of --neck levels (default: 128)")
    group.add_argument("--standardise", action=argparse.BooleanOptionalAction,
                       help="with --neck levels: features minus mean, over deviation, of the clips' mean features "
                            "(default: where published weights stay as they are)")
    group.add_argument("--similarity", choices=("exp", "log"),
                       help="of squared distances d: exp(-d / --similarity_scale), or log((d + 1) / (d + .0001)) "
                            "(default: exp | log)")
    group.add_argument("--similarity_scale", type=POSITIVE,
                       help="of --similarity exp (default: .5; 1 where published weights stay as they are)")
    group.add_argument("--prototype_channels", type=COUNT, help="channels of a prototype (default: 64 | 128)")
    group.add_argument("--prototypes_per_node", type=COUNT,
                       help="prototypes of each node of the tree, before those that see the same are merged (default: "
                            "6, 4 where published weights stay as they are | 10)")
    group.add_argument("--last_scale", type=POSITIVE, default=0.1,
                       help="the last layer of an embedded score starts at this multiple of the nodes' tangent "
                            "vectors (default: .1)")
    group.add_argument("--random_last", action="store_true",
                       help="random weights in the last layer to start with, as in the released code")
    group.add_argument("--emb_file",
                       help="class embeddings; looked for in --root_path and beside main.py (default: shipped or "
                            "fitted)")
    group.add_argument("--emb_dim", type=COUNT, default=300, help="dimensions of fitted embeddings (default: 300)")
    group.add_argument("--edge", type=POSITIVE, default=3.0,
                       help="hyperbolic length of an edge of fitted embeddings (default: 3)")
    group.add_argument("--score", default="tree", choices=SCORES, metavar="NAME",
                       help="how prototypes decide: at every branching of the tree by themselves (tree, "
                            "tree_hyperbolic), or through a linear layer by the distance to the classes in embedding "
                            "space (default: %(default)s)")
    group.add_argument("--weight_start", type=POSITIVE, default=1.5,
                       help="nats that a prototype of similarity 1 speaks for to start with (tree scores; default: "
                            "1.5)")
    group.add_argument("--c", type=POSITIVE, default=1.0, help="curvature of the ball is -c (default: 1)")
    group.add_argument("--T", type=POSITIVE,
                       help="temperature of the scores (default: so that a clip on its leaf gets .99)")
    group.add_argument("--learn_T", action="store_true", help="learn the temperature in the warm and joint epochs")


def schedule_flags(parser: argparse.ArgumentParser) -> None:
    """Epochs, pushes, rates and losses."""
    group = parser.add_argument_group("schedule")
    group.add_argument("--trunk_epochs", type=AMOUNT,
                       help="epochs of the trunk under a softmax head, not counted in --n_epochs (default: 5 with "
                            "--pretrain_path, else 60)")
    group.add_argument("--warm_epochs", type=AMOUNT, default=10, help="epochs with the trunk frozen (default: 10)")
    group.add_argument("--n_epochs", type=AMOUNT, default=200, help="warm and joint epochs together (default: 200)")
    group.add_argument("--push_start", type=AMOUNT, default=10,
                       help="first epoch that may end with a push (default: 10)")
    group.add_argument("--push_every", type=COUNT, default=10, help="epochs from one push to the next (default: 10)")
    group.add_argument("--no_last_push", action="store_true",
                       help="no push after the last epoch, as in the released code")
    group.add_argument("--last_layer", default="always", choices=("always", "joint"),
                       help="when the last layer learns; joint: in joint epochs alone, so that the tuning after a "
                            "push moves neck and prototypes instead, as in the released code (default: always)")
    group.add_argument("--tune_iterations", type=AMOUNT,
                       help="full passes of the last layer, or of the prototypes' weights, after a push (default: 300, "
                            "50 where published weights stay as they are | 20)")
    group.add_argument("--merge_coverage", type=SHARE, nargs="+",
                       help="after the last push a node keeps the fewest prototypes that see this share of what all "
                            "of them see in its clips, one share a level from the leaf up, the last serves all above; "
                            "1 keeps all that add anything (tree scores; default: .9 .8)")
    group.add_argument("--no_merge", action="store_true", help="keep all prototypes")
    group.add_argument("--checkpoint", type=COUNT, default=10,
                       help="epochs from one checkpoint to the next (default: 10)")
    group.add_argument("--val_every", type=COUNT, default=1, help="epochs from one validation to the next (default: 1)")
    group.add_argument("--batch_size", type=COUNT, default=128,
                       help="training clips a step, over all processes (default: 128)")
    group.add_argument("--batchnorm_sync", action="store_true",
                       help="under torchrun: batch-norm over the clips of all processes")
    group.add_argument("--manual_seed", type=SEED, default=1, help="seed of every random choice (default: 1)")
    group = parser.add_argument_group("optimisation", "defaults: with --pretrain_path | from scratch")
    for prefix, what in (("trunk_", "trunk epochs"), ("", "joint epochs")):
        group.add_argument(f"--{prefix}optimizer", choices=OPTIMIZERS, metavar="NAME",
                           help=f"of the {what} (default: sgd | adamw)")
    group.add_argument("--trunk_learning_rate", type=POSITIVE, help="of the trunk epochs (default: .01 | .004)")
    group.add_argument("--warm_learning_rate", type=POSITIVE, help="of the warm epochs, by Adam (default: .003 | .006)")
    group.add_argument("--learning_rate", type=POSITIVE, help="of the trunk in joint epochs (default: .001 | .0003)")
    group.add_argument("--head_learning_rate", type=POSITIVE,
                       help="of neck, prototypes and last layer in joint epochs (default: .001 | .0009)")
    group.add_argument("--last_learning_rate", type=POSITIVE,
                       help="of the last layer, or of the prototypes' weights, after a push, by Adam (default: .05 | "
                            ".001)")
    group.add_argument("--warm_score_learning_rate", type=POSITIVE,
                       help="of the prototypes' weights in warm epochs (default: .03 | as the rest of the head)")
    group.add_argument("--score_learning_rate", type=POSITIVE,
                       help="the same in joint epochs (default: .003 | as the rest of the head)")
    group.add_argument("--momentum", type=MOMENTUM, default=0.9, help="of SGD; first beta of Adam (default: .9)")
    group.add_argument("--trunk_weight_decay", type=WEIGHT, help="of the trunk epochs (default: .001 | .01)")
    group.add_argument("--weight_decay", type=WEIGHT, help="of the joint epochs (default: 1e-5 | 1e-3)")
    for prefix, what, default in (("trunk_", "trunk", "onecycle"), ("warm_", "warm", "constant | onecycle"),
                                  ("", "joint", "multistep | onecycle")):
        group.add_argument(f"--{prefix}lr_scheduler", choices=SCHEDULERS, metavar="NAME",
                           help=f"of the {what} epochs (default: {default})")
    group.add_argument("--multistep_milestones", type=COUNT, nargs="+", default=[50, 100, 150],
                       help="epochs after which multistep divides by 10 (default: 50 100 150)")
    group.add_argument("--paper", action="store_true",
                       help="the method as the released code trains it: sets the flags of docs/PAPER.md, refuses "
                            "others")
    group = parser.add_argument_group("losses", "lists: one weight a level from the leaf up, the last serves all "
                                                "above; defaults with a bar: of the tree scores | of the embedded ones")
    group.add_argument("--ce_weight", type=WEIGHT, nargs="+", default=[1, 0.5, 0.25],
                       help="cross-entropy (default: 1 .5 .25)")
    group.add_argument("--level_ce_weight", type=WEIGHT, nargs="+",
                       help="cross-entropy of each level's own evidence over all its nodes (default: 1 | 0)")
    group.add_argument("--cluster_weight", type=WEIGHT, nargs="+",
                       help="to the nearest own prototype (default: .5 | .8 .5 .3)")
    group.add_argument("--separation_weight", type=WEIGHT, nargs="+",
                       help="off the nearest other prototype of the level (default: 1 | .08 .11 .13)")
    group.add_argument("--background_weight", type=WEIGHT,
                       help="off patches far down the class map, 0 for none (default: .3 | .5)")
    group.add_argument("--coverage_weight", type=WEIGHT,
                       help="of every prototype to a patch of its node (default: .5, 0 where published weights stay as "
                            "they are | 1)")
    group.add_argument("--group_weight", type=WEIGHT,
                       help="sparsity of the last layer of an embedded score (default: 0 | 1e-4)")
    group.add_argument("--batch_ce_weight", type=WEIGHT, default=0.0,
                       help="cross-entropy of the released code, among the classes of the batch's clips (default: 0)")
    group.add_argument("--l1_weight", type=WEIGHT, default=0.0,
                       help="of the last layer's absolute weights, as in the released code (default: 0)")
    group.add_argument("--orthogonality_weight", type=WEIGHT, help="between a node's prototypes (default: .5 | 0)")
    group.add_argument("--sharing_weight", type=WEIGHT,
                       help="of ancestors' prototypes over their children (default: .3 | 0)")
    group.add_argument("--ways_weight", type=WEIGHT,
                       help="a class's prototypes tell apart the ways in which it is done, clusters of its clips "
                            "(default: 4, 0 where published weights stay as they are | 0)")
    group.add_argument("--ways_clips", type=AMOUNT, default=25,
                       help="a class has as many ways as it has so many clips that the softmax head is sure of, at "
                            "most one a prototype; one is none (default: 25)")
    group.add_argument("--even_weight", type=WEIGHT,
                       help="of the differences between the weights of a class's prototypes, of which the loudest "
                            "speaks: without them it is the nearest (default: 1 | 0)")
    group.add_argument("--pooled_weight", type=WEIGHT,
                       help="cross-entropy of the softmax head of the trunk epochs, in joint epochs (default: 1 | 0)")
    group.add_argument("--separation_margin", type=POSITIVE,
                       help="squared distance beyond which nothing is pushed off (default: 2 | 10)")
    group.add_argument("--separation_rivals", default="level", choices=("level", "all"),
                       help="whose prototypes a clip is pushed off: of the other nodes of each level, or of all nodes "
                            "but its own one of the level, as in the released code (default: level)")
    group.add_argument("--cluster_margin", type=POSITIVE,
                       help="squared distance beyond which nothing is pulled near, as in the released code (default: "
                            "none)")
    group.add_argument("--focus", type=SHARE, default=0.04,
                       help="share of a clip's cells that cluster and coverage see, 1 for all (default: .04)")
    group.add_argument("--background", type=SHARE, default=0.8,
                       help="share of a clip's cells that count as background (default: .8)")
    group.add_argument("--sure", type=PROBABILITY, default=0.5,
                       help="a clip places prototypes when the softmax head gives its class more than this, 0..1 "
                            "(default: .5)")
    group.add_argument("--starts", choices=("spread", "sampled"),
                       help="prototypes start at the centres of their class's clusters, ancestors' child by child; or "
                            "at patches drawn from the peaks of the class maps (default: spread | sampled)")
    group.add_argument("--no_start", action="store_true",
                       help="random prototypes instead of patches at the peaks of the class maps")


def device_flags(parser: argparse.ArgumentParser) -> None:
    """Where to compute."""
    group = parser.add_argument_group("device")
    group.add_argument("--device", default=None,
                       help="cpu, cuda or cuda:N, insisted on (default: cuda where there is one)")
    group.add_argument("--no_cuda", action="store_true", help="use the CPU even where there is a GPU")


def run_flags(parser: argparse.ArgumentParser) -> None:
    """What to do, and where to write."""
    group = parser.add_argument_group("run")
    group.add_argument("--result_path", default=None,
                       help="folder of all output (default: results, or the folder of --resume_path)")
    group.add_argument("--resume_path",
                       help="checkpoint to go on from, or auto for the newest whole one in --result_path")
    group.add_argument("--overwrite", action="store_true", help="begin afresh in a folder that already holds a run")
    group.add_argument("--no_train", action="store_true", help="do not train")
    group.add_argument("--no_val", action="store_true", help="do not validate while training")
    group.add_argument("--inference", action="store_true", help="write {subset}.json over sliding windows at the end")
    group.add_argument("--inference_subset", default="val", choices=("train", "val", "test"), help="(default: val)")
    group.add_argument("--inference_stride", type=COUNT, default=16,
                       help="frames from one window to the next (default: 16)")
    group.add_argument("--window_pool", default="power", choices=("power", "mean"),
                       help="a video's probabilities from those of its windows or clips; power: in proportion to the "
                            "sum of the --window_power-th powers, so that unsure ones count less; mean: as published "
                            "(default: power)")
    group.add_argument("--window_power", type=POSITIVE, default=4.0,
                       help="the exponent of --window_pool power, above 0 (default: 4)")
    group.add_argument("--inference_batch_size", type=AMOUNT, default=1,
                       help="windows at a time; 0 for --batch_size (default: 1)")
    group.add_argument("--calibrate", action="store_true",
                       help="hold a fifth of the training groups out of training, to fit the temperature and the "
                            "threshold of back-off on")
    group.add_argument("--target_accuracy", type=SHARE, default=0.9,
                       help="how often back-off is to be right, 0..1 (default: .9)")
    group.add_argument("--output_topk", type=COUNT, default=5, help="classes written for each video (default: 5)")
    group.add_argument("--tensorboard", action="store_true", help="also log to {result_path}/tensorboard")
    group.add_argument("--no_img", action="store_true", help="do not render the prototypes after a push")
    group.add_argument("--amp", choices=DTYPES, metavar="NAME",
                       help="type that trunk and neck compute in, in training and evaluation (default: bf16 on a GPU "
                            "that has it, else none: float32)")
    group.add_argument("--compile", action="store_true", help="compile the trunk (torch.compile)")
    group.add_argument("--deterministic", action="store_true",
                       help="compute in the same way every time, slower on a GPU")
    device_flags(parser)


def main_parser(*, all_flags: bool = True) -> argparse.ArgumentParser:
    """The parser of main.py's command line; without `all_flags` it lacks those that take PyTorch to list."""
    parser = parser_of("main.py", "Train, push, evaluate and run HIPE.", FIRST)
    for add in (data_flags, model_flags, schedule_flags, run_flags):
        add(parser)
    if all_flags:
        from options.trunks import trunk_flags
        trunk_flags(parser)
    return parser


def parse_main(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, set[str]]:
    """The command line of main.py: the namespace before recipes, and the names of the given flags."""
    parser = main_parser(all_flags=not asks_for_help(argv))
    args, given = parse_given(parser, argv)
    if args.paper:
        margin = float(args.prototype_channels or RECIPES["embedded"]["prototype_channels"])
        for name, value in {**PAPER, **RECIPES["paper"], "separation_margin": margin, "cluster_margin": margin}.items():
            if name not in given:
                setattr(args, name, value)
    return args, given

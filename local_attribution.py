"""Explain videos by attribution methods: what I3D sees in them, another trunk, or a HIPE checkpoint.

python local_attribution.py --video my.mp4
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # before another package called datasets

from options.errors import user_errors
from options.flags import READERS, device_flags, model_flags
from options.parsing import Names, asks_for_help, parse_given, parser_of
from options.ranges import AMOUNT, COUNT

PUBLISHED_NAMES = {"r2plus1d": "r2plus1d_18", "r3d": "r3d_18", "mc3": "mc3_18", "tsm": "tsm_resnet50"}  # of trunks
PUBLISHED_METHODS = {"perturb": "3d_ep"}
MODEL, WEIGHTS, NAMES = "i3d", "KINETICS400_I3D", "kinetics"  # what explains videos where no flag says otherwise


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, set[str]]:
    """The command line, and which flags were given."""
    parser = parser_of("local_attribution.py", __doc__)
    add = parser.add_argument_group("what to explain: a HIPE checkpoint, or a trunk with a head (default: I3D with its "
                                    "Kinetics weights)").add_argument
    add("--resume_path", help="HIPE checkpoint; it carries all other flags")
    add("--level", type=int, help="explain the predicted class's ancestor so many levels up (default: 0, the class)")
    add("--prototype", type=int, help="explain the activation of this prototype")
    add("--classes", help="JSON list of the trunk's class names in the order of its outputs, or {name: index}")
    add("--pretrain_dataset", default="",
        help="what the trunk was trained on; ucf101 and kinetics400 give the class names without --classes")
    add("--target", default="predicted",
        help="predicted, true (what the published toolkit explains), or the name of a class (default: predicted)")
    add("--against", default="", metavar="CLASS",
        help="explain the target rather than this class: the difference of their scores; second: the runner-up "
             "(default: the target alone)")
    group = parser.add_argument_group("videos: of the checkpoint's data, unless --videos_dir or --video is given")
    add = group.add_argument
    add("--root_path", default=".", help="folder that relative paths hang off (default: .)")
    add("--videos_dir", help="folder of video files and folders of frames, at any depth; the name of a video's folder, "
                             "or its own, is the label where it, or what stands before one of its -, is a class")
    add("--video", type=Path, nargs="+", metavar="FILE", help="video files or frame folders whose class is not known")
    add("--video_path", help="folder of the checkpoint's videos, when it has moved")
    add("--annotation_path", help="annotation JSON, when it has moved")
    add("--file_type", choices=READERS, metavar="NAME", help="what is in --video_path (default: the checkpoint's)")
    add("--videos", nargs="+", metavar="NAME", help="videos by their names in the annotation or in --videos_dir, "
                                                       "which may begin with a hyphen")
    add("--n_videos", type=AMOUNT, default=4,
        help="how many, spread over the classes; 0 for all (default: 4, of --videos_dir all)")
    add("--subset", choices=("train", "val", "test"), help="where to take them from (default: val, else train)")
    add("--sample_size", type=COUNT,
        help="height and width of a clip in pixels (default: the checkpoint's, else the trunk's usual, I3D 224)")
    add("--sample_duration", type=COUNT,
        help="frames of a clip (default: the checkpoint's, else the trunk's usual, I3D 64)")
    add("--sample_t_stride", type=COUNT,
        help="frames from one frame of a clip to the next (default: the checkpoint's, else the trunk's "
             "usual, I3D 1)")
    add("--windows", type=AMOUNT,
        help="windows of a video at most, evenly spread, without overlap or of those --inference_stride apart; 0 for "
             "all. They make the prediction, and the surest is explained (default: as many as show a quarter of the "
             "video, 8 at most; of a HIPE checkpoint all)")
    add("--inference_stride", type=COUNT,
        help="frames from one window to the next, over the whole video; with --windows, so many of them at most, "
             "evenly spread (default: none; of a HIPE checkpoint its own; published: 16)")
    group = parser.add_argument_group("methods")
    add = group.add_argument
    add("--vis_method", nargs="+", default=["grad_cam"], metavar="METHOD",
        choices=Names("attribution", "METHODS", "all"), type=lambda name: PUBLISHED_METHODS.get(name, name),
        help="attribution methods, side by side on one page; perturb means 3d_ep (default: grad_cam)")
    if not asks_for_help(argv):
        from options.methods import options_flag, published_flags
        published_flags(group)
        options_flag(group)
    add("--tubes", default="layers", choices=("none", "layers", "kernels"),
        help="write a pyramid's heat of every layer, or of every channel too (default: layers)")
    add("--batch_size", type=COUNT,
        help="windows at a time, and clips that perturbations optimise together (default: 4, fewer of long clips)")
    add("--out", default="visual_res", help="folder to write (default: visual_res)")
    add("--save_label", default="",
        help="name of this run below the method and the model (default: none; level1, prototype17, ...)")
    model_flags(parser)
    for action in parser._actions:
        if action.dest == "model":
            action.help = f"trunk (default: {MODEL}; %(default)s with --pretrain_path other than {WEIGHTS})"
    if not asks_for_help(argv):
        from options.trunks import trunk_flags
        trunk_flags(parser)
    device_flags(parser)
    parser.add_argument("--no_gpu", dest="no_cuda", action="store_true", help="the same as --no_cuda")
    words = list(sys.argv[1:] if argv is None else argv)
    words = [PUBLISHED_NAMES.get(word, word) if before == "--model" else word
             for before, word in zip(["", *words], words, strict=False)]
    args, given = parse_given(parser, words)
    by_default = args.resume_path is None and (args.pretrain_path or WEIGHTS) == WEIGHTS
    if by_default and ("model" not in given or args.model == MODEL):
        args.model, args.pretrain_path = MODEL, WEIGHTS
        args.pretrain_dataset = args.pretrain_dataset or NAMES
    return args, given


def main(argv: Sequence[str] | None = None) -> None:
    args, given = parse(argv)
    from run.attributing import check_flags, clips_in_words, explain  # after parsing: --help needs no PyTorch

    check_flags(args, given)
    try:
        n_clips, page = explain(args, given)
    except KeyboardInterrupt:
        print(f"interrupted; what was finished lies in {Path(args.out).expanduser().resolve()}", file=sys.stderr)
        sys.exit(130)
    print(f"{clips_in_words(n_clips)} explained: {page}")


if __name__ == "__main__":
    with user_errors():
        main()

"""The flags of local_analysis.py and local_analysis_parents.py."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from options.flags import READERS, device_flags
from options.parsing import Names, asks_for_help, parse_given, parser_of
from options.ranges import AMOUNT, COUNT


def parse_analysis(prog: str, description: str,
                   argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, set[str]]:
    """The command line of both analysis scripts, and which flags were given."""
    parser = parser_of(prog, description)
    add = parser.add_argument
    add("--resume_path", required=True, help="checkpoint to explain with; it carries all other flags")
    add("--root_path", default=".",
        help="folder that relative paths hang off, when the data has moved (default: .)")
    add("--video_path", help="folder of the videos, when it has moved (default: the checkpoint's)")
    add("--annotation_path", help="annotation JSON, when it has moved (default: the checkpoint's)")
    add("--file_type", choices=READERS, metavar="NAME", help="what is in --video_path (default: the checkpoint's)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--videos", nargs="+", metavar="NAME",
                       help="videos to explain, by their names in the annotation, which may begin with a hyphen")
    which.add_argument("--video", type=Path, metavar="FILE",
                       help="a video file of your own to explain, or a folder of frames")
    which.add_argument("--n_videos", type=AMOUNT, default=8,
                       help="how many to explain, spread over the classes; 0 for all (default: 8)")
    which.add_argument("--mistakes", type=COUNT, metavar="N",
                       help="explain the N worst mistakes of metrics.json, which inference wrote beside the checkpoint")
    add("--subset", choices=("train", "val", "test"), help="where to take them from (default: val, else train)")
    add("--out", help=f"folder to write (default: {prog.removesuffix('.py')} beside the checkpoint)")
    add("--k", type=COUNT, default=3, help="prototypes of each predicted node (default: 3)")
    add("--against", nargs="+", default=[], metavar="CLASS",
        help="also tell why the prediction and not these classes, above the classes not their ancestors; the most "
             "probable others and the true class are compared anyway")
    add("--heat", default="grad", choices=Names("attribution", "METHODS", "upsample"), metavar="METHOD",
        help="heat, box and peak of a prototype: an attribution method on its activation, smoothed where it is of "
             "single voxels; use upsample, its similarity over the clip, for a coarser and more stable map (default: "
             "grad)")
    if not asks_for_help(argv):
        from options.methods import options_flag
        options_flag(parser)
    add("--inference_stride", type=COUNT, help="frames from one window to the next (default: the checkpoint's)")
    add("--inference_batch_size", type=COUNT, default=8, help="windows at a time (default: 8)")
    add("--n_threads", type=AMOUNT, default=0, help="loader processes (default: 0)")
    add("--no_img", action="store_true", help="write explanation.json alone, without pictures and pages")
    device_flags(parser)
    return parse_given(parser, argv)

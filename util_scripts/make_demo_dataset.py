"""Write the embedded demo data set: small synthetic action videos in UCF-101's layout, with their truth."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from datasets.synthetic import SETS, WAY_SHARE, make_demo_dataset
from options.errors import CommandLine, user_errors


def main() -> None:
    """Parse the command line and write the data set."""
    parser = CommandLine(
        prog="python -m util_scripts.make_demo_dataset",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out_dir", help="folder to write videos/, ucfTrainTestlist/, hierarchy.csv and truth.json to")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other videos")
    parser.add_argument("--n_train_groups", type=int, default=24,
                        help="groups of training videos: each holds --ways videos of every class")
    parser.add_argument("--n_test_groups", type=int, default=12, help="groups of test videos, likewise")
    parser.add_argument("--frames", type=int, default=40, help="frames of every video")
    parser.add_argument("--size", type=int, default=72, help="height and width of the videos, in pixels")
    parser.add_argument("--ways", type=int, default=1, metavar="{1,2}",
                        help="2: every object comes in two kinds of different outline and hue, either of which "
                             "performs the events of its classes; truth.json says which one a video shows")
    parser.add_argument("--way_share", type=float, default=argparse.SUPPRESS, metavar="S",
                        help="with --ways 2: the share of the second kinds in the training videos of every class, "
                             f"0 < S < 1; test videos show both kinds evenly (default: {WAY_SHARE:g})")
    parser.add_argument("--differ", default="both", metavar="{both,motion,object,others}",
                        help="what differs from class to class: object and motion, or one of them alone, the other "
                             "being the same in all videos of a group; others: the pairs that are no class otherwise")
    parser.add_argument("--n_jobs", type=int, default=2, help="processes; the files do not depend on it")
    args = parser.parse_args()
    with user_errors():
        make_demo_dataset(**vars(args))
    n_classes = len(SETS[args.differ])
    n_videos = n_classes * (args.n_train_groups + args.n_test_groups) * args.ways
    print(f"{args.out_dir}: {n_videos} videos of {n_classes} classes")


if __name__ == "__main__":
    main()

"""Write HMDB51's official lists as annotation files: OUT_DIR/hmdb51_1.json and so on, one a split.

Lists are called <class>_test_splitN.txt, with lines `video.avi 1`: 1 to train on, 2 to test on, 0 for neither.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from options.errors import CommandLine, user_errors
from util_scripts.annotating import Listed, read_lines, write_annotation

SUBSETS = {"1": "training", "2": "validation", "0": None}


def read_splits(folder: Path) -> dict[int, list[Listed]]:
    """The listed videos of every split, class by class.

    Raises:
        FileNotFoundError: no list. ValueError: naming the file and the line.
    """
    splits: dict[int, list[Listed]] = {}
    for path in sorted(folder.glob("*_test_split*.txt")):
        match = re.fullmatch(r"(.+)_test_split(\d+)\.txt", path.name)
        if not match:
            continue
        listed = splits.setdefault(int(match[2]), [])
        for line, text in read_lines(path):
            name, mark = re.fullmatch(r"(.*?)\s*(\S)", text).groups()
            stem = name.rpartition(".")[0]
            if mark not in SUBSETS or not stem:
                raise ValueError(f"{path}:{line}: expected `video.avi 1`, 1, 2 or 0, got {text!r}")
            if SUBSETS[mark]:
                listed.append(Listed(stem, SUBSETS[mark], match[1], f"{match[1]}/{stem}"))
    if not splits:
        raise FileNotFoundError(f"{folder}: no <class>_test_split1.txt; give the folder of HMDB51's official lists")
    return splits


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation_dir", type=Path, help="folder of the lists")
    parser.add_argument("video_dir", type=Path, help="folder of class folders of frames or of video files")
    parser.add_argument("out_dir", type=Path, help="folder to write hmdb51_1.json, ... to")
    args = parser.parse_args(argv)
    with user_errors():
        for split, listed in read_splits(args.annotation_dir).items():
            labels = sorted({one.label for one in listed})
            write_annotation(args.out_dir / f"hmdb51_{split}.json", labels, listed, args.video_dir)


if __name__ == "__main__":
    main()

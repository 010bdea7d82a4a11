"""Write EGTEA Gaze+'s action clips as annotation files: OUT_DIR/egtea_1.json and so on, one a split.

ANNOTATION_DIR holds action_idx.txt, with a line `name number` a class, and train_splitN.txt and test_splitN.txt, with
lines `clip action verb noun`, numbers from 1. A clip lies in the folder of its session:
`OP01-R01-PastaSalad/OP01-R01-PastaSalad-1002316-1004005-F024051-F024101.mp4`.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from options.errors import CommandLine, user_errors
from util_scripts.annotating import Listed, read_lines, write_annotation


def read_list(path: Path, subset: str, actions: dict[str, str]) -> list[Listed]:
    """The clips of one list; ValueError, naming it, for a line that is not of its form."""
    listed = []
    for line, text in read_lines(path):
        words = text.split()
        if len(words) < 2 or words[1] not in actions:
            raise ValueError(f"{path}:{line}: expected `clip action verb noun` with a class of action_idx.txt, got "
                             f"{text!r}")
        listed.append(Listed(words[0], subset, actions[words[1]], f"{'-'.join(words[0].split('-')[:3])}/{words[0]}"))
    return listed


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation_dir", type=Path, help="folder of action_idx.txt and the split files")
    parser.add_argument("video_dir", type=Path, help="folder of a folder a session (cropped_clips)")
    parser.add_argument("out_dir", type=Path, help="folder to write egtea_1.json, ... to")
    args = parser.parse_args(argv)
    with user_errors():
        index = args.annotation_dir / "action_idx.txt"
        actions = {}
        for line, text in read_lines(index):
            *name, number = text.split()
            if not name or not number.isdecimal():
                raise ValueError(f"{index}:{line}: expected `name number`, got {text!r}; fetch it again")
            actions[number] = " ".join(name)
        splits = [n for n in range(1, 10) if (args.annotation_dir / f"train_split{n}.txt").is_file()]
        if not splits:
            raise FileNotFoundError(f"{args.annotation_dir}: no train_split1.txt; fetch the official lists")
        for n in splits:
            listed = [one for kind, subset in (("train", "training"), ("test", "validation"))
                      for one in read_list(args.annotation_dir / f"{kind}_split{n}.txt", subset, actions)]
            write_annotation(args.out_dir / f"egtea_{n}.json", actions.values(), listed, args.video_dir)


if __name__ == "__main__":
    main()

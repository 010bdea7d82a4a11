"""Write the lists of Moments in Time as one annotation file.

ANNOTATION_DIR holds trainingSet.csv and validationSet.csv, without a header: `class/video.mp4,class,votes,votes`.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from options.errors import user_errors
from util_scripts.annotating import Listed, parser_of, read_csv, write_annotation

FILES = {"trainingSet.csv": "training", "validationSet.csv": "validation"}


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "folder of trainingSet.csv and validationSet.csv", "folder of class folders")
    args = parser.parse_args(argv)
    with user_errors():
        listed = []
        for name, subset in FILES.items():
            for row in read_csv(args.annotation_dir / name, ("video", "label", "yes", "no")):
                place = os.path.splitext(row["video"].strip())[0]
                listed.append(Listed(place, subset, row["label"].strip(), place))
        write_annotation(args.out, sorted({one.label for one in listed}), listed, args.video_dir)


if __name__ == "__main__":
    main()

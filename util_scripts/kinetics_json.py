"""Write Kinetics' official CSV files as one annotation file.

ANNOTATION_DIR holds train.csv, val.csv (or validate.csv) and test.csv, as many as there are, with the columns label,
youtube_id, time_start and time_end. A video is called `Class/ID_000010_000020`, its start and end in seconds; those of
a test list without labels lie in the folder `test`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from options.errors import user_errors
from util_scripts.annotating import Listed, column, number, parser_of, read_csv, write_annotation

FILES = {"train.csv": "training", "val.csv": "validation", "validate.csv": "validation", "test.csv": "testing"}


def read_list(path: Path, subset: str) -> list[Listed]:
    """The videos of one CSV file; ValueError, naming it, where it is not one of Kinetics'."""
    listed = []
    for row in read_csv(path):
        name = "_".join((column(row, "youtube_id", path), *(f"{number(row, f'time_{end}', path):06d}"
                                                            for end in ("start", "end"))))
        label = row.get("label", "").strip() or None
        if label is None and subset != "testing":
            raise ValueError(f"{path}: {name} has no label; fetch the official list again")
        listed.append(Listed(name, subset, label, f"{label or 'test'}/{name}"))
    return listed


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "folder of train.csv, val.csv and test.csv", "folder of class folders")
    args = parser.parse_args(argv)
    with user_errors():
        files = {args.annotation_dir / name: subset for name, subset in FILES.items()}
        listed = [one for path, subset in files.items() if path.is_file() for one in read_list(path, subset)]
        if not listed:
            raise FileNotFoundError(f"{args.annotation_dir}: no train.csv, val.csv or test.csv with videos in it")
        write_annotation(args.out, sorted({one.label for one in listed if one.label}), listed, args.video_dir)


if __name__ == "__main__":
    main()

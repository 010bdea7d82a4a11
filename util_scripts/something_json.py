"""Write Something-Something's JSON lists as one annotation file.

ANNOTATION_DIR holds labels.json, train.json, validation.json and, if there, test.json, with or without
`something-something-v2-` in front. A class is a template without its brackets; a video is called by its id.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from options.errors import user_errors
from util_scripts.annotating import Listed, parser_of, read_json, write_annotation

PREFIX = "something-something-v2-"
SUBSETS = {"train": "training", "validation": "validation", "test": "testing"}


def find(folder: Path, name: str) -> Path:
    """An official file by either of its names."""
    return next((path for path in (folder / f"{PREFIX}{name}.json", folder / f"{name}.json") if path.is_file()),
                folder / f"{name}.json")


def read_list(path: Path, subset: str, labels: set[str]) -> list[Listed]:
    """The videos of one list; ValueError, naming it, for an entry that is not of its form."""
    listed = []
    try:
        for entry in read_json(path):
            label = None if subset == "testing" else entry["template"].replace("[", "").replace("]", "")
            if label is not None and label not in labels:
                raise ValueError(f"{path}: the template {entry['template']!r} is not in labels.json; fetch both again")
            listed.append(Listed(str(entry["id"]), subset, label, str(entry["id"])))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: an entry is not of the official form ({error}); fetch it again") from error
    return listed


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "folder of the JSON files", "folder of the videos or of frame folders")
    args = parser.parse_args(argv)
    with user_errors():
        names = read_json(path := find(args.annotation_dir, "labels"))
        if not isinstance(names, dict | list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: expected the templates' names; fetch it again")
        listed = []
        for name, subset in SUBSETS.items():
            path = find(args.annotation_dir, name)
            if subset != "testing" or path.is_file():
                listed += read_list(path, subset, set(names))
        write_annotation(args.out, names, listed, args.video_dir)


if __name__ == "__main__":
    main()

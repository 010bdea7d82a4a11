"""Write EPIC-KITCHENS-100's action segments as one annotation file.

ANNOTATION_DIR holds EPIC_100_train.csv, EPIC_100_validation.csv, EPIC_100_verb_classes.csv, EPIC_100_noun_classes.csv,
and EPIC_100_test_timestamps.csv if there. A class is a verb, a noun, or both. Frame numbers are those of the official
frames, which were taken at 59.94 or 50 a second; in videos of another rate, actions are found by their timestamps. A
video is called `P01/P01_01`, or `P01/videos/P01_01` as downloaded.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from datasets.on_disk import VideoFolder
from options.errors import user_errors
from util_scripts.annotating import Listed, column, number, parser_of, read_csv, write_annotation

FILES = {"EPIC_100_train.csv": "training", "EPIC_100_validation.csv": "validation",
         "EPIC_100_test_timestamps.csv": "testing"}

RATES = (60000 / 1001, 50.0)  # of the official frames
ROUNDED = 0.1  # of a rate, by whole frames and hundredths of seconds near the start of a video


def seconds_of(text: str) -> float | None:
    """A timestamp `HH:MM:SS.ss` in seconds; None where it is none."""
    try:
        hours, minutes, seconds = map(float, text.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def official_rate(listed: Iterable[Listed]) -> float | None:
    """The rate of the official frames of a video by its actions' last frames and timestamps; None without any."""
    known = [one for one in listed if one.seconds is not None]
    seconds = sum(one.seconds[1] for one in known)
    if not seconds > 0:
        return None
    rate = sum(one.segment[1] - 0.5 for one in known) / seconds  # frames are rounded down
    usual = min(RATES, key=lambda usual: abs(rate / usual - 1))
    return usual if abs(rate / usual - 1) < ROUNDED else rate


def read_keys(path: Path) -> dict[int, str]:
    """The names of verb or noun classes by their numbers."""
    return {number(row, "id", path): column(row, "key", path) for row in read_csv(path)}


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "folder of the CSV files", "folder of a folder a participant")
    parser.add_argument("--label", default="verb", choices=("verb", "noun", "action"),
                        help="what a class is; action: `verb noun` (default: verb)")
    args = parser.parse_args(argv)
    with user_errors():
        kinds = ("verb", "noun") if args.label == "action" else (args.label,)
        keys = {kind: read_keys(args.annotation_dir / f"EPIC_100_{kind}_classes.csv") for kind in kinds}
        nested = {folder for folder, videos in VideoFolder(args.video_dir).class_folders() if "videos" in videos}
        listed = []
        for name, subset in FILES.items():
            path = args.annotation_dir / name
            for row in [] if subset == "testing" and not path.is_file() else read_csv(path):
                label = None
                if subset != "testing":
                    numbers = [number(row, f"{kind}_class", path) for kind in kinds]
                    if not all(n in keys[kind] for kind, n in zip(kinds, numbers, strict=True)):
                        raise ValueError(f"{path}: class {numbers} is not among the {args.label} classes")
                    label = " ".join(keys[kind][n] for kind, n in zip(kinds, numbers, strict=True))
                segment = max(number(row, "start_frame", path), 1), number(row, "stop_frame", path) + 1
                participant, video = column(row, "participant_id", path), column(row, "video_id", path)
                folder = f"{participant}/videos" if participant in nested else participant
                times = [seconds_of(row.get(f"{end}_timestamp", "")) for end in ("start", "stop")]
                seconds = None if None in times else tuple(times)
                listed.append(Listed(column(row, "narration_id", path), subset, label, f"{folder}/{video}", segment,
                                     seconds))
        of_video = defaultdict(list)
        for one in listed:
            of_video[one.place].append(one)
        rates = {place: official_rate(of) for place, of in of_video.items()}
        listed = [one._replace(fps=rates[one.place]) for one in listed]
        write_annotation(args.out, sorted({one.label for one in listed if one.label}), listed, args.video_dir)


if __name__ == "__main__":
    main()

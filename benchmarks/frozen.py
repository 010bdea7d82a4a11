"""The whole schedule on published features: the trunk run in every epoch, and run once over every clip.

    python -m benchmarks.frozen [--data DIR --pretrain_path W] [--videos N] [--repeats 1] [--sample_size 160 ...]

DIR holds videos/ and ucfTrainTestlist/ in UCF-101's layout, and hierarchy.csv; without it, some videos of the demo are
made. Both runs are main.py with the defaults of a frozen trunk and the flags given here, from the same weights and from
start to end, in turns: `--cache_features 0` runs the trunk in every epoch. Prints the seconds and the accuracy of
each, and the ratio of the seconds.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.runs import figures, python
from benchmarks.tables import saved_tables
from datasets.synthetic import make_demo_dataset
from machine.writing import write_text, write_whole
from models import TRUNKS
from options.errors import CommandLine, user_errors
from options.flags import parse_main

# A trunk of Kinetics on clips as small as it takes them.
SMALL = "--model i3d --sample_size 48 --sample_duration 16 --batch_size 16"
WAYS = {"every epoch": "--cache_features 0", "once": ""}


def prepare(data: Path, work: Path, videos: int, split: int) -> str:
    """Write the annotation of DIR's videos, of at most so many of each class in each subset; returns its name."""
    python("-m", "util_scripts.ucf101_json", data / "ucfTrainTestlist", data / "videos", work)
    name = f"ucf101_{split:02d}.json"
    if videos:
        content, count = json.loads((work / name).read_text()), {}
        for video, entry in list(content["database"].items()):
            of = entry["subset"], entry["annotations"]["label"]
            count[of] = count.get(of, 0) + 1
            if count[of] > videos:
                del content["database"][video]
        write_text(work / name, json.dumps(content))
    return name


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print the table; returns the ratio."""
    parser = CommandLine(prog="python -m benchmarks.frozen", description=__doc__.splitlines()[0], allow_abbrev=False,
                         epilog="The other flags are main.py's.")
    parser.add_argument("--data", type=Path, help="folder of videos/, ucfTrainTestlist/, hierarchy.csv (default: made)")
    parser.add_argument("--split", type=int, default=1, help="number of its lists (default: 1)")
    parser.add_argument("--videos", type=int, default=0,
                        help="videos of each class in each subset, 0 for all (default: 0)")
    parser.add_argument("--work", type=Path, default=Path("results/frozen"),
                        help="folder to fill (default: results/frozen)")
    parser.add_argument("--repeats", type=int, default=1, help="turns (default: 1)")
    parser.add_argument("--pretrain_path", help="weights of the trunk (default: random ones of I3D)")
    own, others = parser.parse_known_args(argv)
    parse_main(others)  # a wrong flag is told at once
    if own.repeats < 1 or own.videos < 0:
        raise ValueError("--repeats must be at least 1, and --videos at least 0")
    work = own.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if own.data is None:
        data = work / "made"
        make_demo_dataset(data, n_train_groups=1, n_test_groups=1)
    else:
        data = own.data.resolve()
    for path in (data / "videos", data / "hierarchy.csv"):
        if not path.exists():
            raise ValueError(f"{path}: is missing; give --data a folder of videos/, ucfTrainTestlist/, hierarchy.csv")
    weights = own.pretrain_path
    if weights is None:
        torch.manual_seed(1)
        weights = work / "random_i3d.pth"
        write_whole(weights, lambda file: torch.save(TRUNKS["i3d"]().state_dict(), file))
    elif os.path.exists(weights):
        weights = Path(weights).resolve()
    annotation = prepare(data, work, own.videos, own.split)
    line = ["main.py", "--root_path", work, "--video_path", data / "videos", "--annotation_path", annotation,
            "--tree_file", data / "hierarchy.csv", "--file_type", "video", *SMALL.split(), "--pretrain_path", weights,
            "--ft_begin_module", "fc", "--freeze_bn", "--checkpoint", 100, "--overwrite", *others]
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(own.repeats):
        for name, flags in WAYS.items():
            began = time.perf_counter()
            python(*line, "--result_path", work / name.replace(" ", "_"), *flags.split())
            seconds[name].append(time.perf_counter() - began)
    print("| the trunk runs | seconds, whole run | class accuracy at its end |\n| --- | --- | --- |")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times):.1f} | {figures(work / name.replace(' ', '_'))['class']:.3f} |")
    ratio = statistics.median(a / b for a, b in zip(seconds["every epoch"], seconds["once"], strict=True))
    print(f"\nevery epoch / once: {ratio:.2f}")
    return {"trunk in every epoch / once": ratio}


if __name__ == "__main__":
    with user_errors(), saved_tables("frozen"):
        main()

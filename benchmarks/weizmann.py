"""Real people, judged on actors never seen in training.

HIPE's mean video accuracy before push, after push and after tuning, beside the same trunk with a pooled softmax head
trained for the same number of epochs. A video's probabilities are pooled over eight clips.

    python -m benchmarks.weizmann --data DIR [--seeds 1 2 3] [--test_actors 6 7]

DIR holds videos/ and ucfTrainTestlist/ in UCF-101's layout, and hierarchy.csv. Prints a row a seed and the means.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from options.errors import CommandLine, user_errors
from run.paths import HERE

LINE = """--video_path jpg --annotation_path {annotation} --dataset ucf101 --tree_file hierarchy.csv --n_classes 4
 --model_depth 10 --resnet_widen_factor 0.5 --sample_size 64 --batch_size 10 --checkpoint 35 --no_cuda --no_img
 --val_every 75 --n_val_samples 8"""
HIPE = "--trunk_epochs 40 --warm_epochs 15 --n_epochs 35 --push_start 25"  # two pushes
SOFTMAX = "--trunk_epochs 75 --n_epochs 0"


def python(*words: str | Path) -> None:
    """Run one of the project's scripts quietly.

    Raises:
        ValueError: with the end of what it said, where it fails.
    """
    done = subprocess.run([sys.executable, *map(str, words)], cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(map(str, words))} failed: {done.stderr.strip().splitlines()[-1]}")


def prepare(data: Path, work: Path, test_actors: list[int] | None) -> str:
    """Frames and annotation; returns the annotation's name. The split is the lists' own, or by the given actors."""
    python("-m", "util_scripts.generate_video_jpgs", data / "videos", work / "jpg", "ucf101")
    python("-m", "util_scripts.ucf101_json", data / "ucfTrainTestlist", work / "jpg", work)
    (work / "hierarchy.csv").write_bytes((data / "hierarchy.csv").read_bytes())
    if not test_actors:
        return "ucf101_01.json"
    annotation = json.loads((work / "ucf101_01.json").read_text())
    for name, entry in annotation["database"].items():
        actor = int(re.search(r"_g(\d+)_c\d+$", name).group(1))
        entry["subset"] = "validation" if actor in test_actors else "training"
    name = f"split_{'_'.join(map(str, test_actors))}.json"
    (work / name).write_text(json.dumps(annotation))
    return name


def accuracies(work: Path, annotation: str, seed: int) -> dict[str, float]:
    """Video accuracy on the test actors at every stage of one seed."""
    line = [*LINE.format(annotation=annotation).split(), "--root_path", work, "--manual_seed", seed, "--overwrite"]
    for name, flags in (("hipe", HIPE), ("softmax", SOFTMAX)):
        python("main.py", *line, *flags.split(), "--result_path", f"{name}_{annotation[:-5]}_{seed}")
    found = {}
    for name in ("hipe", "softmax"):
        log = work / f"{name}_{annotation[:-5]}_{seed}" / "metrics.jsonl"
        for entry in map(json.loads, log.read_text().splitlines()):
            if entry["event"] == "val":
                found[f"{name} {entry['done'][0]}"] = entry["top1"]
    return {"softmax head": found["softmax trunk"], "before push": found["hipe joint"],
            "after push": found["hipe push"], "after tuning": found["hipe last"]}


def main() -> None:
    parser = CommandLine(prog="python -m benchmarks.weizmann", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of videos/, ucfTrainTestlist/, hierarchy.csv")
    parser.add_argument("--work", type=Path, default=Path("results/weizmann"),
                        help="folder to fill (default: results/weizmann)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(default: 1 2 3)")
    parser.add_argument("--test_actors", type=int, nargs="+", help="actors to test on (default: the test list's)")
    args = parser.parse_args()
    if not (args.data / "videos").is_dir():
        raise ValueError(f"{args.data}: has no folder videos/; give the folder of the Weizmann clips")
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    annotation = prepare(args.data.resolve(), work, args.test_actors)
    rows = []
    for seed in args.seeds:
        rows.append(accuracies(work, annotation, seed))
        if seed == args.seeds[0]:
            print("| seed | " + " | ".join(rows[0]) + " |\n|" + " --- |" * (len(rows[0]) + 1), flush=True)
        print(f"| {seed} | " + " | ".join(f"{value:.3f}" for value in rows[-1].values()) + " |", flush=True)
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    print("| mean | " + " | ".join(f"{value:.3f}" for value in means.values()) + " |")


if __name__ == "__main__":
    with user_errors():
        main()

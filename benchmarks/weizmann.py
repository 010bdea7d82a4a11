"""Real people, judged on actors never seen in training.

HIPE's mean video accuracy before push, after push and after tuning, beside the same trunk with a pooled softmax head
trained for the same number of epochs. A video's probabilities are pooled over eight clips.

    python -m benchmarks.weizmann --data DIR [--seeds 1 2 3] [--test_actors 6 7]

DIR holds videos/ and ucfTrainTestlist/ in UCF-101's layout, and hierarchy.csv. Prints a row a seed and the means.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.runs import WEIZMANN, WEIZMANN_SCHEDULE, prepare_weizmann, python
from benchmarks.tables import saved_tables
from options.errors import CommandLine, user_errors

SOFTMAX = "--trunk_epochs 75 --n_epochs 0"


def accuracies(work: Path, annotation: str, seed: int) -> dict[str, float]:
    """Video accuracy on the test actors at every stage of one seed."""
    line = [*WEIZMANN.format(annotation=annotation).split(), "--root_path", work, "--manual_seed", seed, "--overwrite"]
    for name, flags in (("hipe", WEIZMANN_SCHEDULE), ("softmax", SOFTMAX)):
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
    annotation = prepare_weizmann(args.data.resolve(), work, args.test_actors)
    rows = []
    for seed in args.seeds:
        rows.append(accuracies(work, annotation, seed))
        if seed == args.seeds[0]:
            print("| seed | " + " | ".join(rows[0]) + " |\n|" + " --- |" * (len(rows[0]) + 1), flush=True)
        print(f"| {seed} | " + " | ".join(f"{value:.3f}" for value in rows[-1].values()) + " |", flush=True)
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    print("| mean | " + " | ".join(f"{value:.3f}" for value in means.values()) + " |")


if __name__ == "__main__":
    with user_errors(), saved_tables("weizmann"):
        main()

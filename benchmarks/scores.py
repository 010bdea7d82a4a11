"""Recognition by scores in embedding space: the tree in hyperbolic or Euclidean space against one-hot classes.

    python -m benchmarks.scores [--demo demo] [--weizmann DIR [--test_actors 1 2]] [--seeds 1 2 3]

--demo is a folder that `make demo` filled, --weizmann one as benchmarks.weizmann takes. Of every seed main.py trains a
trunk, and on it a model with every head, by the settings of the demo and of benchmarks.weizmann. Heads differ in
nothing but their scores: hyperbolic or Euclidean distance to the same class embeddings, or a plain linear head, which
is the inner product with one-hot classes that are as long as those embeddings. Prints accuracy of the class and of its
ancestors on the validation videos, mean height of the lowest common ancestor over the mistakes, and -log p of the true
class. A call that was interrupted goes on where it was; --work holds its runs.
"""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.runs import demo_line, figures, on_trunk, python, trained_trunk, weizmann_line
from benchmarks.tables import saved_tables
from hierarchy import Hierarchy, one_hot, save_embeddings
from options.errors import CommandLine, user_errors

HEADS = {
    "hyperbolic": "--score hyperbolic",
    "euclidean": "--score euclidean",
    "cosine": "--score cosine",
    "one-hot": "--score linear --emb_file {one_hot}",
}


def joined(values: Iterable[float]) -> str:
    """Cells of a table."""
    return " | ".join(f"{value:.3f}" for value in values)


def compare(name: str, line: list[str], tree: Path, work: Path, *, heads: list[str], seeds: list[int]) -> None:
    """Train every head with every seed on one data set, and print a row each, then the means."""
    hierarchy, one_hot_file = Hierarchy.from_csv(tree), work / "one_hot.pth"
    save_embeddings(one_hot_file, one_hot(hierarchy), hierarchy, c=1.0)
    first = True
    for head in heads:
        rows = []
        for seed in seeds:
            results = work / f"{name}_{head}_{seed}"
            trunk = trained_trunk(line, seed, work / f"{name}_trunk_{seed}")
            own = shlex.split(HEADS[head].format(one_hot=shlex.quote(str(one_hot_file))))
            python("main.py", *on_trunk(trunk, line), *own, "--manual_seed", seed, "--result_path", results,
                   "--resume_path", "auto")
            rows.append(figures(results))
            if first:
                print(f"\n{name}\n\n| head | seed | " + " | ".join(rows[0]) + " |\n|" + " --- |" * (len(rows[0]) + 2))
                first = False
            print(f"| {head} | {seed} | {joined(rows[-1].values())} |", flush=True)
        means = (sum(row[key] for row in rows) / len(rows) for key in rows[0])
        print(f"| {head} | mean | {joined(means)} |", flush=True)


def main() -> None:
    parser = CommandLine(prog="python -m benchmarks.scores", description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, help="folder of a finished demo")
    parser.add_argument("--weizmann", type=Path, help="folder of videos/, ucfTrainTestlist/, hierarchy.csv")
    parser.add_argument("--test_actors", type=int, nargs="+", help="Weizmann's actors to test on (default: the list's)")
    parser.add_argument("--work", type=Path, default=Path("results/scores"), help="(default: results/scores)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(default: 1 2 3)")
    parser.add_argument("--heads", choices=HEADS, nargs="+", default=["hyperbolic", "euclidean", "one-hot"],
                        help="(default: all but cosine)")
    parser.add_argument("--flags", default="", metavar='"--FLAG ..."', help="more flags of main.py, for all runs")
    args = parser.parse_args()
    if args.demo is None and args.weizmann is None:
        raise ValueError("nothing to train on: give --demo, --weizmann or both")
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    sets = {}
    if args.demo is not None:
        sets["demo"] = (demo_line(args.demo.resolve()), args.demo / "hierarchy.csv")
    if args.weizmann is not None:
        name = "_".join(["weizmann", *map(str, args.test_actors or ())])
        sets[name] = weizmann_line(args.weizmann.resolve(), work, args.test_actors), args.weizmann / "hierarchy.csv"
    for name, (line, tree) in sets.items():
        compare(name, [*line, *shlex.split(args.flags)], tree, work, heads=args.heads, seeds=args.seeds)


if __name__ == "__main__":
    with user_errors(), saved_tables("scores"):
        main()

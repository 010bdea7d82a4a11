"""What the score in embedding space does to recognition: the tree in hyperbolic or Euclidean space against one-hot
classes.

    python -m benchmarks.scores [--demo demo] [--weizmann DIR [--test_actors 1 2]] [--seeds 1 2 3]

--demo is a folder that `make demo` filled, --weizmann one as benchmarks.weizmann takes. Of every seed main.py trains a
trunk, and on it a model with every head, by the settings of the demo and of benchmarks.weizmann. Heads differ in
nothing but their scores: hyperbolic or Euclidean distance to the same class embeddings, or a plain linear head, which
is the inner product with one-hot classes that are as long as those embeddings. Prints accuracy of the class and of its
ancestors on the validation videos, mean height of the lowest common ancestor over the mistakes, and -log p of the true
class. A call that was interrupted goes on where it was; --work holds its runs.
"""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

from benchmarks.weizmann import HIPE, LINE, prepare, python
from hierarchy import Hierarchy, one_hot, save_embeddings
from options.errors import CommandLine, user_errors
from options.recipes import RECIPES
from util_scripts.demo import TRAINING

HEADS = {
    "hyperbolic": "--score hyperbolic",
    "euclidean": "--score euclidean",
    "cosine": "--score cosine",
    "one-hot": "--score linear --emb_file {one_hot}",
}


def demo_line(folder: Path) -> list[str]:
    """The demo's own flags.

    Raises:
        ValueError: where the folder is not a demo's.
    """
    if not (folder / "truth.json").is_file() or not (folder / "jpg").is_dir():
        raise ValueError(f"{folder}: holds no demo; make one with python -m util_scripts.demo {folder}")
    data = "--video_path jpg --annotation_path ucf101_01.json --dataset ucf101 --tree_file hierarchy.csv"
    return ["--root_path", str(folder), *data.split(), *TRAINING.split(), "--n_val_samples", "4", "--no_img"]


def weizmann_line(data: Path, work: Path, test_actors: list[int] | None = None) -> list[str]:
    """The flags of benchmarks.weizmann, over frames that are made in the folder `work`, with its own split or another.

    Raises:
        ValueError: where `data` has no videos.
    """
    if not (data / "videos").is_dir():
        raise ValueError(f"{data}: has no folder videos/; give the folder of the Weizmann clips")
    annotation = prepare(data, work, test_actors)
    return ["--root_path", str(work), *LINE.format(annotation=annotation).split(), *HIPE.split()]


def figures(results: Path) -> dict[str, float]:
    """Of a finished run: its last validation."""
    events = map(json.loads, (results / "metrics.jsonl").read_text().splitlines())
    last = [event for event in events if event["event"] == "val"][-1]
    levels = {name.replace("_", " "): value for name, value in last.items() if name.startswith("level_")}
    return {"class": last["top1"], **levels, "severity": last["severity"], "-log p": last["loss"]}


def joined(values: Iterable[float]) -> str:
    """Cells of a table."""
    return " | ".join(f"{value:.3f}" for value in values)


def trained_trunk(line: list[str], seed: int, results: Path) -> Path:
    """The trunk of a seed, under its softmax head: its checkpoint in the folder `results`."""
    python("main.py", *line, "--manual_seed", seed, "--n_epochs", "0", "--result_path", results,
           "--resume_path", "auto")
    return results / "trunk.pth"


def on_trunk(trunk: Path, line: list[str]) -> list[str]:
    """The flags that leave out the trunk epochs of a run from scratch, and start it from their outcome."""
    recipe = [word for name, value in RECIPES["scratch"].items() for word in (f"--{name}", str(value))]
    own = RECIPES["tree"]  # and not what a tree score takes on published weights that stay as they are
    tree = ["--similarity_scale", str(own["similarity_scale"]), "--no-standardise"]
    return [*recipe, *tree, *line, "--trunk_epochs", "0", "--pretrain_path", str(trunk)]


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
    with user_errors():
        main()

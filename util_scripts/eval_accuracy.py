"""Accuracy of a result file by level: class, sibling (the parent is right), cousin (the grandparent is right)."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from datasets.annotation import read_annotation, subset_of
from evaluation.recognition import accuracy_per_level
from hierarchy.names import Names
from hierarchy.texts import read_json
from hierarchy.tree import Hierarchy
from options.errors import CommandLine, user_errors

NAMES = ("class", "sibling", "cousin")


def read_results(path: Path) -> dict:
    """Read a result file, `{"results": {video: [{"label", "score"}, ...]}, "tree": {leaf: [leaf, ..., top]}}`."""
    results = read_json(path, missing="no such result file; write it with main.py --inference",
                        remedy="write it again with main.py --inference")
    if not isinstance(results, dict) or not isinstance(results.get("results"), dict):
        raise ValueError(f"{path}: has no \"results\"; write it with main.py --inference")
    return results


def find_tree(results: dict, tree_file: Path | None, *, path: Path) -> Hierarchy:
    """The class tree: of `tree_file` where given, else of the result file."""
    if tree_file is not None:
        return Hierarchy.from_csv(tree_file)
    if not isinstance(results.get("tree"), dict):
        raise ValueError(f"{path}: holds no class tree; give one with --tree_file")
    return Hierarchy(list(results["tree"].values()), where=f"{path}: row {{}} of its tree".format)


def best_labels(guesses: list[dict], k: int, hierarchy: Hierarchy) -> list[int]:
    """The k leaves of highest score, best first, filled up with -1."""
    try:
        ranked = sorted(guesses, key=lambda guess: -guess["score"])[:k]
        labels = [hierarchy.label(guess["label"]) for guess in ranked]
    except (KeyError, TypeError) as error:
        raise ValueError(f"a result without label or score: {guesses}; write it with main.py --inference") from error
    return labels + [-1] * (k - len(labels))


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__)
    parser.add_argument("annotation", type=Path, help="annotation file, as ucf101_json writes it")
    parser.add_argument("result", type=Path, help="result file of main.py --inference")
    parser.add_argument("--subset", default="validation", help="train, val or test, or their long names (default: val)")
    parser.add_argument("-k", type=int, default=1, help="a video is right if any of its k best is (default: 1)")
    parser.add_argument("--ignore", action="store_true",
                        help="leave out videos that are missing from the results (default: they count as wrong)")
    parser.add_argument("--tree_file", type=Path, help="CSV of the class tree (default: the one in the result file)")
    args = parser.parse_args(argv)
    with user_errors():
        if args.k < 1:
            raise ValueError(f"-k must be at least 1, got {args.k}")
        subset, entries = subset_of(args.subset), read_annotation(args.annotation)
        results = read_results(args.result)
        hierarchy = find_tree(results, args.tree_file, path=args.result)
        truth = {name: hierarchy.label(entry.label) for name, entry in entries.items()
                 if entry.subset == subset and entry.label is not None}
        if not truth:
            raise ValueError(f"{args.annotation}: no labels in this subset, {subset}; give one that has with --subset")
        guesses = Names(results["results"])
        guessed = {name: guesses.find(name) or [] for name in truth}
        missing = {name for name in truth if not guessed[name]}
        judged = [name for name in truth if not (args.ignore and name in missing)]
        if not judged:
            raise ValueError(f"{args.result}: has none of the {len(truth)} {subset} videos of {args.annotation}; "
                             "check --subset and the two files")
        predicted = torch.tensor([best_labels(guessed[name], args.k, hierarchy) for name in judged])
        labels = torch.tensor([truth[name] for name in judged])
        accuracy = accuracy_per_level(predicted, labels, hierarchy.ancestors).tolist()
    print(f"{len(judged)} {subset} videos, top-{args.k}")
    if missing:
        print(f"{len(missing)} videos are missing from the results and "
              f"{'left out' if args.ignore else 'count as wrong'}")
    for level, value in enumerate(accuracy):
        name = NAMES[level] if level < len(NAMES) else f"level {level}"
        print(f"{name} accuracy: {value:.4f}")
    print(f"error rate: {1 - accuracy[0]:.4f}")


if __name__ == "__main__":
    main()

"""Does heat depend on what the model learned? Rank correlations with heat of models that learned less.

    python -m benchmarks.randomised --checkpoint save_14.pth [--demo DIR | --shuffled other.pth] [--head softmax]

The weights are randomised from the head down, each part with all before it, to the last; and the model is another one,
trained on shuffled labels: --shuffled names its checkpoint, or --demo the folder of the synthetic set that --checkpoint
was trained on, on which main.py trains one with the demo's flags. Beside that stands what noise gives: the correlation
with heat of the same clips that is drawn at random. Explains --videos validation videos by all methods and, unless
--head softmax, by prototypes at every level. Writes randomised_HEAD.csv, .md and .tex to --save, and prints the table.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from attribution import METHODS
from benchmarks.formats import Table
from benchmarks.runs import demo_line, python
from benchmarks.tables import command_of
from evaluation.summary import ALIKE
from hierarchy.tree import level_name
from judging.heats import HEADS
from judging.judge import Judge, Settings, is_optimised
from judging.sanity import NOISE, sanity_rows
from judging.scenes import Truth
from judging.table import Wanted, served
from machine.writing import write_text
from options.errors import CommandLine, user_errors
from options.ranges import COUNT
from run.choosing import choose
from run.data import make_reader, read_videos, window_clips, window_power
from run.judging import digest_of, load_model
from run.model import choose_device
from run.resume import stored_args
from training.checkpoint import load_checkpoint, newest_whole

SHUFFLED = "labels shuffled"
SAME = 0.95  # mean rank correlation after the head is randomised, above which heat does not depend on it


def shuffle_labels(annotation: Path, out: Path, seed: int, per_class: int) -> None:
    """Write an annotation in which the first training videos of every class have each other's labels; the other
    training videos are left out, for what is learned by heart takes the longer the more there is of it."""
    content = json.loads(annotation.read_text(encoding="utf-8"))
    of_class: dict[str, list[str]] = {}
    for name, entry in content["database"].items():
        if entry["subset"] == "training":
            of_class.setdefault(entry["annotations"]["label"], []).append(name)
    chosen = [name for names in of_class.values() for name in names[:per_class]]
    labels = [content["database"][name]["annotations"]["label"] for name in chosen]
    random.Random(seed).shuffle(labels)
    database = {}
    for name, label in zip(chosen, labels, strict=True):
        entry = content["database"][name]
        # the video stays in the folder of its true class
        database[name] = entry | {"annotations": entry["annotations"] | {"label": label},
                                  "video": f"{entry['annotations']['label']}/{name}"}
    write_text(out, json.dumps(content | {"database": database}))


def trained_on_shuffled(demo: Path, work: Path, seed: int, per_class: int) -> Path:
    """Train on shuffled labels of the synthetic set, or go on with it; the finished checkpoint."""
    work.mkdir(parents=True, exist_ok=True)
    shuffle_labels(demo / "ucf101_01.json", work / "shuffled.json", seed, per_class)
    python("main.py", *demo_line(demo), "--annotation_path", work / "shuffled.json", "--manual_seed", seed, "--no_val",
           "--result_path", work / "results", "--resume_path", "auto")
    return newest_whole(work / "results")


def judge_of(path: Path, args: argparse.Namespace, clips: list) -> Judge:
    """The judge of a checkpoint, on the clips of the first one that was asked for.

    Args:
        clips: empty, or the clips of an earlier judge.
    """
    checkpoint = load_checkpoint(path)
    model, tree, record = load_model(path)
    stored = stored_args(checkpoint)
    if not clips:
        if args.root_path is not None:
            stored = stored.replaced(root_path=args.root_path)
        videos = choose(read_videos(stored, tree), names=None, subset="val", n=args.videos)
        clips.append(window_clips(stored, videos, make_reader(stored), stored.inference_stride,
                                  normalisation=model.normalisation))
    settings = Settings(digest_of(checkpoint["model"]), args.head, 8, 100, stored.inference_stride, args.seed, "none",
                        window_power(stored))
    return Judge(settings, lambda: (model, tree, record), clips[0], Truth({}, {}), choose_device(None, args.no_cuda))


def tabled(rows: Sequence[dict], args: argparse.Namespace, title: str) -> Table:
    """A row each explanation and level, a column each step."""
    cells: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        name = f"{row['explanation'].replace('_', ' ')}, {level_name(row['level'])}"
        cells.setdefault(name, {}).setdefault(row["step"], []).append(row["correlation"])
    last = [step for step in dict.fromkeys(row["step"] for row in rows) if step not in (NOISE, SHUFFLED)][-1]
    head = next(iter(row["step"] for row in rows if row["step"] != NOISE))
    blind = [name for name, row in cells.items() if row.get(head) and sum(row[head]) / len(row[head]) > SAME]
    marked = {name for name, row in cells.items() if row.get(last) and sum(row[last]) / len(row[last]) > ALIKE}
    return Table(title, cells, marked, head="explanation", notes=(
        f"Rank correlation of the heat of {args.videos} validation videos before and after, mean ± deviation over the "
        f"videos: {NOISE}, with random heat of the same clip; then the weights are randomised from the head down, each "
        f"column with all columns before it, up to {last} (the whole model).",
        *([f"Whatever the {head} says, the heat is the same (above {SAME:g}): {', '.join(blind)}."] if blind else [])),
        digits=2)


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m benchmarks.randomised", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="of the model whose explanations are tested")
    parser.add_argument("--shuffled", type=Path, help="checkpoint of a model trained on shuffled labels")
    parser.add_argument("--demo", type=Path, help="folder of the synthetic set to train such a model on")
    parser.add_argument("--shuffled_videos", type=COUNT, default=8, help="of each class to train it on (default: 8)")
    parser.add_argument("--root_path", help="where the videos are, if not where the checkpoint says")
    parser.add_argument("--work", type=Path, default=Path("results/randomised"), help="(default: results/randomised)")
    parser.add_argument("--head", choices=HEADS, default="prototypes", help="that is explained (default: prototypes)")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS),
                        help="attribution methods (default: all that the trunk serves and that optimise nothing)")
    parser.add_argument("--videos", type=COUNT, default=12, help="validation videos (default: 12)")
    parser.add_argument("--seed", type=int, default=1, help="of weights and labels (default: 1)")
    parser.add_argument("--save", type=Path, metavar="DIR", help="folder to write the tables to as CSV, Markdown and "
                        "LaTeX, such as docs/results (default: they are printed only)")
    parser.add_argument("--no_cuda", action="store_true", help="stay on the CPU where there is a GPU")
    args = parser.parse_args(argv)
    shuffled = args.shuffled or (trained_on_shuffled(args.demo.resolve(), args.work.resolve(), args.seed,
                                                     args.shuffled_videos)
                                 if args.demo else None)
    clips: list = []
    judge = judge_of(args.checkpoint, args, clips)
    others = {} if shuffled is None else {SHUFFLED: judge_of(shuffled, args, clips)}
    asked = [name for name in METHODS if not is_optimised(name)] if args.methods is None else args.methods
    methods = served(judge.model.trunk, judge.size, args.methods and asked) if asked else []
    wanted = Wanted(head=args.head, methods=[name for name in methods if name in asked], prototypes=False)
    explanations = wanted.explanations(judge.tree.n_levels, wanted.methods, with_truth=False)
    once = [(name, level) for name, level in explanations if name != "random"  # that is the noise itself
            and (level == 0 or name in ("prototypes", "top_prototype"))]
    rows = list(sanity_rows(judge, range(len(judge.clips.videos)), once, others))
    name = f"{args.checkpoint.parent.name}/{args.checkpoint.name}"
    table = tabled(rows, args, f"Heat of models that learned less, {name}, head: {args.head}")
    if args.save is not None:
        table.write(args.save, f"randomised_{args.head}", no_cuda=args.no_cuda,
                    command=command_of("randomised", sys.argv[1:] if argv is None else argv))
    print(f"\n{table.markdown()}")


if __name__ == "__main__":
    with user_errors():
        torch.manual_seed(0)
        main()

"""Does what matches hang on come out as it is? On sets where only the motion or only the object tells classes apart.

    python -m benchmarks.likeness [--sets motion object] [--fights save_20.pth ...]

For each of --sets the videos are written (`make_demo_dataset --differ`), main.py trains with the demo's flags, and
evaluate_explanations.py's measures `hangs_on_*` and `activation_hangs_on_*` are taken of --videos validation videos:
what is lost of a node's probability, and of its first prototype's activation, when the inside of the box stands still,
has its outlines bent, turns grey and so on. On the first set a trait of time must come first, on the second one of the
object, at every level; the last column says in how many videos it does. With --fights the same is taken of checkpoints
of other videos, such as those of `benchmarks.real --parts fights`, where nobody knows what is right. Writes
likeness.csv, .md and .tex to --save, and prints the table.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from attribution import METHODS
from benchmarks.formats import Table
from benchmarks.runs import demo_line, python
from benchmarks.tables import command_of
from evaluation.likeness import TRAITS
from explain.evidence import ON_CARDS
from hierarchy.tree import level_name
from judging.table import Wanted
from options.errors import CommandLine, user_errors
from options.ranges import AMOUNT, COUNT
from run.judging import Data, explanation_table
from training.checkpoint import newest_whole

RIGHT = {"motion": ("motion", "direction"), "object": ("shape", "colour", "texture")}  # of ON_CARDS, what must be first
FIRST = "comes first"
MEASURES = [f"{kind}hangs_on_{trait}" for kind in ("", "activation_") for trait in TRAITS]


def data(work: Path, differ: str, args: argparse.Namespace) -> Path:
    """The folder of a set, drawn if need be."""
    folder = work / differ
    if not (folder / "ucf101_01.json").is_file():
        python("-m", "util_scripts.make_demo_dataset", folder, "--differ", differ, "--seed", args.seed,
               "--n_train_groups", args.groups, "--n_test_groups", args.test_groups)
        python("-m", "util_scripts.generate_video_jpgs", folder / "videos", folder / "jpg", "ucf101")
        python("-m", "util_scripts.ucf101_json", folder / "ucfTrainTestlist", folder / "jpg", folder)
    return folder


def trained(folder: Path, seed: int) -> Path:
    """Train on a set with the demo's flags, or go on with it; the finished checkpoint."""
    python("main.py", *demo_line(folder), "--manual_seed", seed, "--result_path", folder / "results",
           "--resume_path", "auto")
    return newest_whole(folder / "results")


def measured(checkpoint: Path, args: argparse.Namespace, n_videos: int) -> list[dict]:
    """Rows of what explanations of a checkpoint hang on: ours at every level, and attributions on its softmax head."""
    rows = []
    for head in ("prototypes", "softmax"):
        wanted = Wanted(head=head, methods=() if head == "prototypes" else args.methods, levels=None, measures=MEASURES,
                        prototypes=False)
        out = checkpoint.parent / f"likeness_{head}"
        explanation_table(checkpoint, wanted, Data(n_videos=n_videos), out=out, no_cuda=args.no_cuda, progress=False)
        lines = map(json.loads, (out / "rows.jsonl").read_text(encoding="utf-8").splitlines())
        rows += [row | {"head": head} for row in lines
                 if "video" in row and row["explanation"] not in ("random", "centre", "chance")]
    return rows


def add(cells: dict[str, dict[str, list[float]]], of: str, rows: Sequence[dict], right: Sequence[str]) -> None:
    """Put rows of a set or a checkpoint into the cells of the table.

    Args:
        right: of the traits on cards, those of which one must come first; none where nobody knows.
    """
    for row in rows:
        for kind, what in (("", "probability"), ("activation_", "similarity")):
            shares = {trait: row["measures"].get(f"{kind}hangs_on_{trait}") for trait in TRAITS}
            # a level's similarity is that of its first prototype, and its probability goes with the whole level's map
            if None in shares.values() or (kind == "") == (row["explanation"] == "top_prototype"):
                continue
            head = f", {row['explanation'].replace('_', ' ')} on the softmax head" if row["head"] == "softmax" else ""
            cell = cells.setdefault(f"{of}: {level_name(row['level'])}, {what}{head}", {})
            for trait, share in shares.items():
                cell.setdefault(trait, []).append(share)
            if right:
                first = max(ON_CARDS, key=shares.get)
                cell.setdefault(FIRST, []).append(float(first in right))


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m benchmarks.likeness", description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="*", choices=list(RIGHT), default=list(RIGHT), help="(default: both)")
    parser.add_argument("--groups", type=COUNT, default=24, help="of training videos (default: 24)")
    parser.add_argument("--test_groups", type=COUNT, default=8, help="of validation videos (default: 8)")
    parser.add_argument("--seed", type=COUNT, default=1, help="of the data and the training (default: 1)")
    parser.add_argument("--videos", type=AMOUNT, default=24, help="measured of each set, 0 for all (default: 24)")
    parser.add_argument("--fights", type=Path, nargs="*", default=[], metavar="CHECKPOINT", help="of other videos")
    parser.add_argument("--fights_videos", type=AMOUNT, default=8, help="measured of each, 0 for all (default: 8)")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=["grad_cam"],
                        help="attribution methods on the softmax head (default: grad_cam)")
    parser.add_argument("--work", type=Path, default=Path("results/likeness"), help="(default: results/likeness)")
    parser.add_argument("--save", type=Path, metavar="DIR", help="folder to write the tables to as CSV, Markdown and "
                        "LaTeX, such as docs/results (default: they are printed only)")
    parser.add_argument("--no_cuda", action="store_true", help="stay on the CPU where there is a GPU")
    args = parser.parse_args(argv)
    cells: dict[str, dict[str, list[float]]] = {}
    for differ in args.sets:
        checkpoint = trained(data(args.work.resolve(), differ, args), args.seed)
        add(cells, f"only the {differ} differs", measured(checkpoint, args, args.videos), RIGHT[differ])
    for checkpoint in args.fights:
        add(cells, checkpoint.parent.name, measured(checkpoint, args, args.fights_videos), ())
    table = Table("What matches hang on", cells, head="explanation", notes=(
        "Share that is lost of the probability of the predicted node when the box of its map changes, and of the "
        "similarity to its first prototype when the box of that changes, mean ± deviation over the videos. "
        f"{FIRST[0].upper()}{FIRST[1:]}: in this share of the videos the trait that a card names first is one of "
        f"{' or '.join(RIGHT['motion'])} where only the motion differs, of {', '.join(RIGHT['object'])} where only the "
        "object does.",), digits=2)
    if args.save is not None:
        table.write(args.save, "likeness", no_cuda=args.no_cuda,
                    command=command_of("likeness", sys.argv[1:] if argv is None else argv))
    print(f"\n{table.markdown()}")


if __name__ == "__main__":
    with user_errors():
        main()

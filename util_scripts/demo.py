"""The whole job on the embedded data: prepare, train, push, infer, evaluate, explain, and summarise.

Runs the project's own command lines one after the other (those that explain in this process, which saves their start),
and computes the summary from the files that they leave.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from datasets.synthetic import SETS
from machine.writing import write_text
from options.analysis import parse_analysis
from options.errors import CommandLine, user_errors
from run.explaining import analyse, ancestor_levels
from run.paths import HERE
from training.checkpoint import newest_whole
from util_scripts.demo_flags import BATCH, TRAINING
from util_scripts.demo_summary import summarise, table

# Flags of main.py that the demo sets itself.
OF_DEMO = ("--root_path", "--result_path", "--resume_path", "--video_path", "--annotation_path", "--dataset",
           "--no_train", "--inference", "--inference_subset")

DRAWN = 4  # mistakes whose explanations are drawn, and other videos
EXPLAINED = 48  # test videos that are explained above the class; at the class all are

PARTS = {"videos", "ucfTrainTestlist", "hierarchy.csv", "truth.json", "jpg", "ucf101_01.json", "results",
         "summary.json"}  # what a demo writes


def check_own(out: Path) -> None:
    """See that a folder is empty, or holds what an earlier demo has made, whole or not, and nothing else.

    Raises:
        ValueError: naming what no demo has made.
    """
    if not out.is_dir():
        return
    classes = {act.name for acts in SETS.values() for act in acts}
    inside = {part: {path.name for path in out.joinpath(part).glob("*")} for part in ("videos", "jpg", "results")}
    foreign = [path.name for path in out.iterdir() if path.name not in PARTS]
    foreign += [f"{part}/{name}" for part in ("videos", "jpg") for name in inside[part] - classes]
    if inside["results"] and not inside["videos"]:  # which a demo makes first, and removes last
        foreign.append("results")
    if foreign:
        raise ValueError(f"{out}: holds {min(foreign)}, which no demo has made; give an empty folder")


def run(*command: str | Path) -> None:
    """Run one of the project's command lines, showing it as a user would type it.

    Raises:
        ValueError: when it fails; it has said why.
    """
    words = [str(word) for word in command]
    print("\n$ python " + shlex.join(words), flush=True)
    if subprocess.run([sys.executable, *words], cwd=HERE).returncode:
        raise ValueError(f"python {shlex.join(words)} failed; its own message stands above")


def explain(script: str, *flags: str | Path) -> None:
    """Run an analysis script's command line in this process, showing it as a user would type it."""
    words = [str(flag) for flag in flags]
    print("\n$ python " + shlex.join([script, *words]), flush=True)
    analyse(script, *parse_analysis(script, "", words),
            (lambda hierarchy: [0]) if script == "local_analysis.py" else ancestor_levels)


def pictured(results: Path) -> list[str]:
    """The videos whose explanations are drawn: the worst mistakes, and others, spread over the classes."""
    worst = [mistake["video"] for mistake in json.loads((results / "metrics.json").read_text())["mistakes"]]
    others = [video for video in json.loads((results / "val.json").read_text())["results"] if video not in worst]
    return [*worst[:DRAWN], *others[::max(len(others) // DRAWN, 1)][:DRAWN]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m util_scripts.demo", description=__doc__.splitlines()[0],
                         usage="%(prog)s [-h] [--seed N] [--ways {1,2}] [--way_share S] [--n_threads N] [out] "
                               "[-- flags of main.py]")
    parser.add_argument("out", nargs="?", type=Path, default=HERE / "demo", help="folder to fill (default: demo)")
    parser.add_argument("--seed", type=int, default=1, help="of the data and the training (default: 1)")
    parser.add_argument("--ways", type=int, default=1, metavar="{1,2}",
                        help="2: every class is shown in two ways, as make_demo_dataset has it (default: 1)")
    parser.add_argument("--way_share", type=float, metavar="S", help="with --ways 2: share of the second way in the "
                                                                     "training videos (default: make_demo_dataset's)")
    parser.add_argument("--n_threads", type=int, default=2, help="processes that prepare the data (default: 2)")
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    args, flags = parser.parse_args(words[:end]), words[end + 1:]
    if taken := [word for word in flags if word.partition("=")[0] in OF_DEMO]:
        raise ValueError(f"{taken[0]}: the demo sets it itself; leave it out behind --")
    out = args.out.resolve()
    check_own(out)
    began = time.monotonic()
    for part in ("results", "jpg", "videos"):  # of an earlier demo, whole or not
        shutil.rmtree(out / part, ignore_errors=True)
    jobs = ("--n_jobs", str(args.n_threads))
    share_of = () if args.way_share is None else ("--way_share", str(args.way_share))
    run("-m", "util_scripts.make_demo_dataset", out, "--seed", str(args.seed), "--ways", str(args.ways), *share_of,
        *jobs)
    run("-m", "util_scripts.generate_video_jpgs", out / "videos", out / "jpg", "ucf101", *jobs)
    run("-m", "util_scripts.ucf101_json", out / "ucfTrainTestlist", out / "jpg", out)
    run("main.py", "--root_path", out, "--video_path", "jpg", "--annotation_path", "ucf101_01.json",
        "--dataset", "ucf101", "--tree_file", "hierarchy.csv", "--manual_seed", str(args.seed), *TRAINING.split(),
        "--inference", "--inference_batch_size", str(BATCH), "--overwrite", *flags)
    results = out / "results"
    checkpoint = newest_whole(results)
    run("-m", "util_scripts.eval_accuracy", out / "ucf101_01.json", results / "val.json", "--subset", "val", "-k", "1")
    levels = json.loads((results / "metrics.json").read_text())["levels"]
    scripts = ("local_analysis.py", *(("local_analysis_parents.py",) if len(levels) > 1 else ()))
    for script, n in zip(scripts, (0, EXPLAINED), strict=False):
        explain(script, "--resume_path", checkpoint, "--n_videos", str(n), "--no_img", "--k", "1",
                "--inference_batch_size", "24")
    for script in scripts:
        explain(script, "--resume_path", checkpoint, "--videos", *pictured(results))
    print("\nsummary ...", flush=True)
    summary = summarise(out, 0.0)
    summary["minutes"] = round((time.monotonic() - began) / 60, 2)
    write_text(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    print(f"\n{summary['minutes']} minutes\n\n{table(summary)}")
    print(f"\nAll figures: {out / 'summary.json'}\nOpen the report: {out.parent / summary['report']}")


if __name__ == "__main__":
    with user_errors():
        main()

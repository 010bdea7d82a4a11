"""Runs of main.py on the synthetic set and on Weizmann: their data, flags and figures; itself no benchmark."""

import json
import re
import subprocess
import sys
from pathlib import Path

from machine.writing import write_bytes, write_text
from options.recipes import RECIPES
from run.paths import HERE
from util_scripts.demo_flags import TRAINING

# Flags of main.py on Weizmann, and its schedule there with two pushes.
WEIZMANN = """--video_path jpg --annotation_path {annotation} --dataset ucf101 --tree_file hierarchy.csv --n_classes 4
 --model_depth 10 --resnet_widen_factor 0.5 --sample_size 64 --batch_size 10 --checkpoint 35 --no_cuda --no_img
 --val_every 75 --n_val_samples 8"""
WEIZMANN_SCHEDULE = "--trunk_epochs 40 --warm_epochs 15 --n_epochs 35 --push_start 25"


def python(*words: str | Path) -> None:
    """Run one of the project's scripts without showing its output.

    Raises:
        ValueError: it fails; with the last line of its errors.
    """
    done = subprocess.run([sys.executable, *map(str, words)], cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(map(str, words))} failed: {done.stderr.strip().splitlines()[-1]}")


def prepare_weizmann(data: Path, work: Path, test_actors: list[int] | None) -> str:
    """Write frames and annotation of Weizmann; returns the annotation's name.

    The split is that of the lists, or by actors: `test_actors` and the others.
    """
    python("-m", "util_scripts.generate_video_jpgs", data / "videos", work / "jpg", "ucf101")
    python("-m", "util_scripts.ucf101_json", data / "ucfTrainTestlist", work / "jpg", work)
    write_bytes(work / "hierarchy.csv", (data / "hierarchy.csv").read_bytes())
    if not test_actors:
        return "ucf101_01.json"
    annotation = json.loads((work / "ucf101_01.json").read_text())
    for name, entry in annotation["database"].items():
        actor = int(re.search(r"_g(\d+)_c\d+$", name).group(1))
        entry["subset"] = "validation" if actor in test_actors else "training"
    name = f"split_{'_'.join(map(str, test_actors))}.json"
    write_text(work / name, json.dumps(annotation))
    return name


def demo_line(folder: Path) -> list[str]:
    """Flags of main.py on a demo's data.

    Raises:
        ValueError: the folder holds no demo.
    """
    if not (folder / "truth.json").is_file() or not (folder / "jpg").is_dir():
        raise ValueError(f"{folder}: holds no demo; make one with python -m util_scripts.demo {folder}")
    data = "--video_path jpg --annotation_path ucf101_01.json --dataset ucf101 --tree_file hierarchy.csv"
    return ["--root_path", str(folder), *data.split(), *TRAINING.split(), "--n_val_samples", "4", "--no_img"]


def demo_data(folder: Path, seed: int) -> list[str]:
    """The synthetic set of a seed, drawn if need be; main.py's flags for it."""
    if not (folder / "ucf101_01.json").is_file():
        python("-m", "util_scripts.make_demo_dataset", folder, "--seed", seed)
        python("-m", "util_scripts.generate_video_jpgs", folder / "videos", folder / "jpg", "ucf101")
        python("-m", "util_scripts.ucf101_json", folder / "ucfTrainTestlist", folder / "jpg", folder)
    return [*demo_line(folder), "--manual_seed", str(seed)]


def weizmann_line(data: Path, work: Path, test_actors: list[int] | None = None) -> list[str]:
    """Flags of main.py on Weizmann, whose frames are written to the folder `work`; the split as in `prepare_weizmann`.

    Raises:
        ValueError: `data` has no videos.
    """
    if not (data / "videos").is_dir():
        raise ValueError(f"{data}: has no folder videos/; give the folder of the Weizmann clips")
    annotation = prepare_weizmann(data, work, test_actors)
    return ["--root_path", str(work), *WEIZMANN.format(annotation=annotation).split(), *WEIZMANN_SCHEDULE.split()]


def figures(results: Path) -> dict[str, float]:
    """The last validation of a finished run, by measure."""
    events = map(json.loads, (results / "metrics.jsonl").read_text().splitlines())
    last = [event for event in events if event["event"] == "val"][-1]
    levels = {name.replace("_", " "): value for name, value in last.items() if name.startswith("level_")}
    return {"class": last["top1"], **levels, "severity": last["severity"], "-log p": last["loss"]}


def trained_trunk(line: list[str], seed: int, results: Path) -> Path:
    """Train the trunk of a seed under its softmax head; returns its checkpoint in the folder `results`."""
    python("main.py", *line, "--manual_seed", seed, "--n_epochs", "0", "--result_path", results,
           "--resume_path", "auto")
    return results / "trunk.pth"


def on_trunk(trunk: Path, line: list[str]) -> list[str]:
    """Flags of a run from scratch that starts from a trained trunk, without trunk epochs."""
    recipe = [word for name, value in RECIPES["scratch"].items() for word in (f"--{name}", str(value))]
    own = RECIPES["tree"]  # not those of a tree score on frozen published weights
    tree = ["--similarity_scale", str(own["similarity_scale"]), "--no-standardise"]
    return [*recipe, *tree, *line, "--trunk_epochs", "0", "--pretrain_path", str(trunk)]

"""Softmax head, published HIPE (--paper) and ours: how well they recognise, how well they explain.

    python -m benchmarks.results [--weizmann DIR] [--seeds 1 2 3] [--tables docs/results]
    python -m benchmarks.results --search [--weizmann DIR] [--seeds 100]

On the synthetic set, which is drawn anew for every seed, and on Weizmann where --weizmann names its folder (as
benchmarks.weizmann takes it). Of every seed main.py trains trunks under a softmax head, for as many epochs with the
published strides in time as with ours, and published and ours start from their own. The softmax head of the first
column is of our trunk, which has had as many epochs as ours. Recognition is measured
over all windows of all test videos; explanations by evaluate_explanations.py, on --videos of them. Prints a table a
set, of means over the seeds with the least and the largest; --tables writes them to that folder as CSV, in place of
those of an earlier call. With --columns only these methods are trained and measured, and the others' figures stay in
the file as they are. A call that was interrupted goes on where it was; --work holds its data, runs and measures.

--search trains published and ours with all rates of their recipes times RATES and epochs times LENGTHS, on seeds, and
of Weizmann on test actors, that are not reported, and prints what comes out; CHOSEN holds the best of each, by class
accuracy, and TEMPERATURE what fits the published one's probabilities best, which moves neither its training nor its
predictions.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from attribution import METHODS
from benchmarks.formats import of_seeds
from benchmarks.result_tables import cells, store, stored_cells, table
from benchmarks.runs import demo_data, figures, on_trunk, python, weizmann_line
from benchmarks.tables import command_of
from datasets.video import whole_videos
from evaluation.calibration import fit_temperature, tempered
from evaluation.measures import ARROWS, MEASURES
from evaluation.recognition import Believed, recognition_metrics
from hierarchy.tree import Hierarchy, level_name
from judging.table import Wanted
from machine.writing import write_text
from options.errors import CommandLine, user_errors
from options.recipes import RECIPES
from run.data import make_loader, make_reader, read_videos, window_clips, window_power
from run.judging import Data, explanation_table
from run.model import choose_device, model_of
from run.predict import predict
from run.resume import stored_args
from training.checkpoint import load_checkpoint, newest_whole

COLUMNS = ("softmax head", "published", "ours")
RATES = (0.3, 1.0, 3.0)  # times the recipe's
LENGTHS = (1, 2)  # times the epochs below
RATE_NAMES = ("warm_learning_rate", "learning_rate", "head_learning_rate")
MISSING = {  # why a cell is a dash
    "demo": "A softmax head has no prototypes.",
    "weizmann": "A softmax head has no prototypes; pointing, energy and consistency ask where and when the event is, "
                "which nobody has marked in these videos."}


@dataclass(frozen=True)
class Schedule:
    """What is trained on a set: (warm, all) epochs on top of the trunk's.

    strides: in time, of the published trunk, which needs one cell in time. published: further flags of --paper.
    """

    ours: tuple[int, int]
    paper: tuple[int, int]
    strides: str
    published: str = ""


SCHEDULES = {
    "demo": Schedule((14, 14), (9, 25), "2 1 2 2 2", "--focus 1 --background_weight 0 --orthogonality_weight 0 "
                                                          "--sharing_weight 0"),
    "weizmann": Schedule((15, 35), (9, 35), "1 2 2 2 2")}
SEARCHED = [4, 5]  # Weizmann's actors that a search tests on; the reported ones are 6 and 7
CHOSEN = {("demo", "published"): (1.0, 2), ("demo", "ours"): (1.0, 1),
          ("weizmann", "published"): (1.0, 2), ("weizmann", "ours"): (1.0, 2)}
TEMPERATURE = {"demo": 0.05, "weizmann": 0.02}  # of the published one


def rated(recipe: str, factor: float) -> list[str]:
    """The flags of a recipe's rates, times a factor."""
    return [word for name in RATE_NAMES for word in (f"--{name}", f"{factor * RECIPES[recipe][name]:g}")]


def lasting(epochs: tuple[int, int], length: int) -> list[str]:
    """The flags of a number of (warm, all) epochs, times a length."""
    return ["--warm_epochs", str(epochs[0] * length), "--n_epochs", str(epochs[1] * length)]


def train(name: str, method: str, line: list[str], trunk: Path, seed: int, work: Path, factor: float,
          length: int) -> Path:
    """Train published or ours from a trunk, or go on with it; the finished checkpoint."""
    schedule, results = SCHEDULES[name], work / f"{name}_{method}_{seed}_{factor:g}_{length}"
    if method == "published":
        own = [*line, "--paper", "--pretrain_path", trunk, "--trunk_epochs", 0, "--push_start", 10, "--push_every", 10,
               "--push_clips", 1, "--tune_iterations", 20, "--T", TEMPERATURE[name], *rated("pretrained", factor),
               *lasting(schedule.paper, length), "--temporal_strides", *schedule.strides.split(),
               *schedule.published.split()]
    else:
        prototypes = ["--prototypes_per_node", RECIPES["tree"]["prototypes_per_node"]]
        own = [*prototypes, *on_trunk(trunk, line), *rated("scratch", factor), *lasting(schedule.ours, length)]
    python("main.py", *own, "--result_path", results, "--resume_path", "auto")
    return newest_whole(results)


def softmax(line: list[str], epochs: int, results: Path) -> Path:
    """Train a trunk under its softmax head; its checkpoint."""
    python("main.py", *line, "--trunk_epochs", epochs, "--n_epochs", 0, "--result_path", results,
           "--resume_path", "auto")
    return results / "trunk.pth"


def answers(path: Path, *, pooled: bool, no_cuda: bool = False) -> tuple[Tensor, Tensor, Hierarchy]:
    """What a checkpoint, or its softmax head, says of the validation videos.

    Args:
        pooled: whether its softmax head is asked. no_cuda: leave a GPU alone.
    Returns:
        probabilities (N, K0), pooled over all windows; true leaves (N,); the tree.
    """
    checkpoint = load_checkpoint(path)
    model, hierarchy, _ = model_of(checkpoint, path)
    args = stored_args(checkpoint)
    videos = whole_videos(read_videos(args, hierarchy).subset("validation"))
    clips = window_clips(args, videos, make_reader(args), args.inference_stride, normalisation=model.normalisation)
    device = choose_device(None, no_cuda)
    loader = make_loader(clips, n_threads=args.n_threads, device=device, batch_size=48)
    pool = predict(model.to(device), loader, len(videos), device=device, pooled=pooled,
                   power=window_power(args))
    labels = torch.tensor([video.label for video in videos])
    return pool.probs[pool.seen, :hierarchy.n_leaves], labels[pool.seen], hierarchy


def recognition(path: Path, *, pooled: bool, no_cuda: bool = False) -> dict[str, float]:
    """Accuracy of every level, severity and calibration error.

    The error with the best temperature is that of each half of the videos under the temperature of the other half.
    """
    probs, labels, hierarchy = answers(path, pooled=pooled, no_cuda=no_cuda)

    def metrics(probs: Tensor, labels: Tensor, temperature: float = 1.0) -> dict:
        return recognition_metrics(tempered(probs, temperature), labels, [""] * len(labels), hierarchy,
                                   believed=Believed())

    found = metrics(probs, labels)
    halves = [torch.arange(first, len(labels), 2) for first in (0, 1)]
    cooled = [metrics(probs[one], labels[one], fit_temperature(probs[other], labels[other]))
              for one, other in (halves, halves[::-1])]
    rows = {f"accuracy, {level['name']}": level["accuracy"] for level in found["levels"]}
    rows["severity of mistakes"] = found["severity"]
    rows |= {f"calibration error, {level['name']}": level["ece"] for level in found["levels"]}
    for i, level in enumerate(found["levels"]):
        rows[f"the same, best temperature, {level['name']}"] = sum(half["levels"][i]["ece"] for half in cooled) / 2
    return rows


def explanation(path: Path, args: argparse.Namespace, *, pooled: bool) -> dict[str, float]:
    """What evaluate_explanations.py measures of a checkpoint: attribution at the lowest level, all else at every.

    Args:
        path: a checkpoint. args: methods, heats, videos, steps and processes.
        pooled: whether its softmax head is explained.
    """
    wanted = Wanted(head="softmax" if pooled else "prototypes", methods=args.methods,
                    heats=() if pooled else args.heats, steps=args.steps)
    frame = explanation_table(path, wanted, Data(n_videos=args.videos), n_threads=args.n_threads,
                              no_cuda=args.no_cuda, progress=False)
    over = {"explanations": "", "prototypes": ", over prototypes"}
    rows = {}
    for row in frame.itertuples():
        measure = f"{row.measure} {ARROWS[MEASURES[row.measure].direction]}".rstrip()
        rows[f"{measure}{over[row.table]}: {row.explanation.replace('_', ' ')}, {level_name(int(row.level))}"] = \
            float(row.mean)
    return rows


def measured(path: Path, args: argparse.Namespace, *, pooled: bool) -> dict[str, float]:
    """All figures of a checkpoint, from files beside it where an earlier call has written them."""
    file = path.parent / "figures.json"
    if not file.is_file():
        write_text(file, json.dumps(recognition(path, pooled=pooled, no_cuda=args.no_cuda), indent=1))
    explained = {} if args.no_explanations else explanation(path, args, pooled=pooled)
    return json.loads(file.read_text()) | explained


def trunk_epochs(line: list[str]) -> int:
    """As a line of flags has them."""
    return int(line[line.index("--trunk_epochs") + 1])


def softmax_epochs(name: str, line: list[str]) -> int:
    """Of the softmax head: as many as the trunk of ours is trained for in all."""
    warm, n_epochs = SCHEDULES[name].ours
    return trunk_epochs(line) + CHOSEN[name, "ours"][1] * (n_epochs - warm)


def trunk_of(name: str, method: str, line: list[str], seed: int, work: Path) -> Path:
    """The trunk of a seed, from which published or ours starts."""
    epochs = trunk_epochs(line)
    if method == "published":
        return softmax([*line, "--temporal_strides", *SCHEDULES[name].strides.split()], epochs,
                       work / f"{name}_published_trunk_{seed}")
    return softmax(line, epochs, work / f"{name}_trunk_{seed}")


def each(function: Callable, items: Iterable, jobs: int) -> Iterator:
    """What a function makes of every item, in their order, some of them side by side."""
    if jobs == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(function, items)


def all_trunks(name: str, methods: Iterable[str], lines: dict[int, list[str]], work: Path,
               jobs: int) -> dict[tuple, Path]:
    """The trunks of all seeds, by (method, seed), of the methods "published" and "ours"."""
    asked = list(itertools.product(methods, lines))
    return dict(zip(asked, each(lambda one: trunk_of(name, one[0], lines[one[1]], one[1], work), asked, jobs),
                    strict=True))


def compare(name: str, seeds: Sequence[int], data: Callable[[int], list[str]], work: Path,
            args: argparse.Namespace) -> dict[str, list[dict]]:
    """Train the methods `args.columns` with every seed and measure them: by method, a dict of figures a seed."""
    lines = {seed: data(seed) for seed in seeds}
    def trained(seed: int, method: str) -> Path:
        line = lines[seed]
        if method != "softmax head":
            return train(name, method, line, trunks[method, seed], seed, work, *CHOSEN[name, method])
        epochs = softmax_epochs(name, line)
        if epochs == trunk_epochs(line):
            return trunks["ours", seed]
        return softmax(line, epochs, work / f"{name}_softmax_{seed}")

    starts = {"ours" if method == "softmax head" else method: None for method in args.columns}
    trunks = all_trunks(name, starts, lines, work, args.jobs)
    asked = list(itertools.product(args.columns, seeds))
    paths = dict(zip(asked, each(lambda one: trained(one[1], one[0]), asked, args.jobs), strict=True))
    found: dict[str, list[dict]] = {method: [] for method in args.columns}
    for method, seed in asked:
        began = time.monotonic()
        found[method].append(measured(paths[method, seed], args, pooled=method == "softmax head"))
        print(f"{name}, seed {seed}, {method}: measured in {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return found


def search(name: str, seeds: Sequence[int], data: Callable[[int], list[str]], work: Path,
           args: argparse.Namespace) -> None:
    """Print what rates and lengths come to, for published and for ours."""
    lines = {seed: data(seed) for seed in seeds}
    asked = list(itertools.product(COLUMNS[1:], RATES, LENGTHS))

    def trained(method: str, factor: float, length: int) -> list[Path]:
        return [train(name, method, lines[seed], trunks[method, seed], seed, work, factor, length)
                for seed in seeds]

    trunks = all_trunks(name, COLUMNS[1:], lines, work, args.jobs)
    print(f"\n{name}\n\n| | rates x | epochs x | class | top | severity | best temperature x |\n|" + " --- |" * 7,
          flush=True)
    for one, paths in zip(asked, each(lambda one: trained(*one), asked, args.jobs), strict=True):
        rows = [figures(path.parent) for path in paths]
        temperatures = [fit_temperature(*answers(path, pooled=False, no_cuda=args.no_cuda)[:2]) for path in paths]
        means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        top = [key for key in means if key == "class" or key.startswith("level")][-1]
        print(f"| {one[0]} | {one[1]:g} | {one[2]} | {means['class']:.3f} | {means[top]:.3f} | "
              f"{means['severity']:.2f} | {sum(temperatures) / len(temperatures):.3g} |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m benchmarks.results", description=__doc__.splitlines()[0])
    parser.add_argument("--weizmann", type=Path, help="folder of videos/, ucfTrainTestlist/, hierarchy.csv")
    parser.add_argument("--sets", choices=sorted(SCHEDULES), nargs="+", help="(default: demo, weizmann if given)")
    parser.add_argument("--work", type=Path, default=Path("results/compared"), help="(default: results/compared)")
    parser.add_argument("--seeds", type=int, nargs="+", help="(default: 1 2 3; of a search 100)")
    parser.add_argument("--columns", choices=COLUMNS, nargs="+", default=list(COLUMNS),
                        help="methods to train and measure (default: all)")
    parser.add_argument("--tables", type=Path, metavar="DIR",
                        help="folder to write comparison_demo.csv and comparison_weizmann.csv to, such as "
                             "docs/results, and the same with deviations as comparison_demo_seeds.csv, .md and .tex "
                             "(default: the tables are printed only)")
    parser.add_argument("--methods", nargs="*", default=["grad_cam", "integrated_grad"], choices=list(METHODS),
                        metavar="METHOD", help="attribution methods (default: grad_cam integrated_grad)")
    parser.add_argument("--heats", nargs="*", default=["grad_cam", "grad"], choices=list(METHODS), metavar="METHOD",
                        help="other heat of the first prototype, beside its similarity (default: grad_cam grad)")
    parser.add_argument("--videos", type=int, default=24, help="test videos whose explanations are measured, 0 for all "
                                                               "(default: 24)")
    parser.add_argument("--steps", type=int, default=32, help="of insertion and deletion (default: 32)")
    parser.add_argument("--n_threads", type=int, default=2, help="processes that measure explanations (default: 2)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side (default: 1)")
    parser.add_argument("--no_cuda", action="store_true", help="stay on the CPU where there is a GPU")
    parser.add_argument("--no_explanations", action="store_true", help="measure recognition only")
    parser.add_argument("--search", action="store_true", help="try rates and epochs, on other seeds, instead")
    args = parser.parse_args(argv)
    names = args.sets or ["demo", *(["weizmann"] if args.weizmann else [])]
    if "weizmann" in names and args.weizmann is None:
        raise ValueError("--sets weizmann needs --weizmann, the folder of its clips")
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    seeds = args.seeds or ([100] if args.search else [1, 2, 3])
    if args.jobs < 1:
        raise ValueError("--jobs must be at least 1")
    weizmann = []
    if "weizmann" in names:
        weizmann = weizmann_line(args.weizmann.resolve(), work, SEARCHED if args.search else None)
    where = ["--no_cuda"] if args.no_cuda else []
    filmed = [*(word for word in weizmann if word != "--no_cuda"), *where]
    sets = {"demo": lambda seed: [*demo_data(work / f"demo_{seed}", seed), *where],
            "weizmann": lambda seed: [*filmed, "--manual_seed", str(seed)]}
    words = sys.argv[1:] if argv is None else argv
    for name in names:
        if args.search:
            search(name, seeds, sets[name], work, args)
            continue
        found = compare(name, seeds, sets[name], work, args)
        title = {"demo": "The synthetic set", "weizmann": "Weizmann"}[name]
        heading = f"{title}, seeds {' '.join(map(str, seeds))}, mean (least to largest)."
        file = args.tables / f"comparison_{name}.csv" if args.tables is not None else None
        columns = (stored_cells(file) if file is not None else {}) | cells(found)
        columns = {method: columns[method] for method in COLUMNS if method in columns}
        print(f"\n{heading} {MISSING[name]}\n\n{table(columns)}\n", flush=True)
        if file is not None:
            store(file, columns, what=heading.removesuffix("."), no_cuda=args.no_cuda,
                  command=command_of("results", words))
            of_seeds(f"{title}, seeds {' '.join(map(str, seeds))}", found).write(
                args.tables, f"{file.stem}_seeds", command=command_of("results", words), no_cuda=args.no_cuda)


if __name__ == "__main__":
    with user_errors():
        main()

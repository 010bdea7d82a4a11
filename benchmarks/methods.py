"""What every attribution method costs: seconds a clip beyond the prediction, and passes through the network.

    python -m benchmarks.methods MODEL VIDEO [VIDEO ...] [--methods grad grad_cam ...]

MODEL is a checkpoint, a results folder, or the name of a trunk with published weights, as `load` takes it. Every method
explains the same clip of each video with its default options, alone. From its time is taken that of a random map, which
is reading and predicting alone; Grad-CAM and its kin take the features of that prediction. Passes are clips that are
sent through the network, at most: perturbations end earlier where they make no progress.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from attribution import METHODS
from benchmarks.tables import saved_tables
from options.errors import CommandLine, user_errors
from run import load
from run.loaded import LoadedModel

NOTHING, UNIT = "random", "grad"  # a map that asks the model nothing, and one pass forward and back


def seconds_of(model: LoadedModel, method: str, videos: Sequence[Path]) -> list[float]:
    """How long a model takes to predict each video and to explain a clip of it by a method."""
    taken = []
    for video in videos:
        began = time.perf_counter()
        model.attribute(video, method, windows=1)
        taken.append(time.perf_counter() - began)
    return taken


def served_by(model: LoadedModel, methods: Sequence[str], video: Path) -> list[str]:
    """The methods that can explain a model; stderr tells why others cannot."""
    able = []
    for method in methods:
        try:
            if not METHODS[method].optimises:
                model.attribute(video, method, windows=1)
        except ValueError as error:
            print(f"{method} is left out: {error}", file=sys.stderr)
        else:
            able.append(method)
    return able


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m benchmarks.methods", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="checkpoint, results folder, or name of a trunk")
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="video file or folder of frames")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), metavar="METHOD",
                        help="attribution methods (default: all that the model serves)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    args = parser.parse_args(argv)
    model = load(args.model, device=args.device)
    asked = [method for method in args.methods or METHODS if method != NOTHING]
    methods = served_by(model, [NOTHING, UNIT, *(method for method in asked if method != UNIT)], args.videos[0])
    seconds = {method: seconds_of(model, method, args.videos) for method in tqdm(methods, unit="method", disable=None)}
    beyond = {method: statistics.mean(max(0.0, own - alone) for own, alone in zip(seconds[method], seconds[NOTHING],
                                                                                  strict=True))
              for method in methods}
    print(f"\n{model}, {len(args.videos)} clips, default options\n\n| method | seconds a clip | times {UNIT} | "
          "passes forward, at most | passes forward and back, at most |\n| --- | --- | --- | --- | --- |")
    for method in sorted((method for method in methods if method in asked), key=beyond.get):
        passes = METHODS[method].passes({})
        # the unit of a tiny model may be lost in noise
        times = f"{beyond[method] / beyond[UNIT]:.3g}" if beyond[UNIT] > 0 else "-"
        print(f"| {method} | {beyond[method]:.3g} | {times} | {passes.forward} | {passes.gradients} |", flush=True)


if __name__ == "__main__":
    with user_errors(), saved_tables("methods", "methods"):
        main()

"""Run every benchmark that needs no data, and add a row of their ratios to docs/RESULTS.md.

    python -m benchmarks.all [--batch_size 8] [--repeats 10] [--results docs/RESULTS.md]
"""

import datetime
import platform
import sys
from importlib import import_module
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.machine import machine
from machine.writing import write_text
from options.errors import CommandLine, user_errors
from run.paths import HERE

BENCHMARKS = ("step", "push", "inference", "schedule", "memory")  # modules here whose main returns ratios
HEADING = "## All benchmarks, run by run"
ABOUT = "Ratios that `python -m benchmarks.all` added, medians over turns; a machine's times say nothing on another."


def add_row(path: Path, row: dict[str, str]) -> None:
    """Add a row to the table at the end of a file, or such a table where the last one has other columns."""
    head = "| " + " | ".join(row) + " |"
    text = path.read_text() if path.is_file() else "# Results\n"
    table = text.rpartition(f"{HEADING}\n")[2] if HEADING in text else None
    if table is None:
        text = f"{text.rstrip()}\n\n{HEADING}\n\n{ABOUT}\n"
    if table is None or [line for line in table.splitlines() if line.startswith("| date")][-1:] != [head]:
        text = f"{text.rstrip()}\n\n{head}\n|{' --- |' * len(row)}\n"
    write_text(path, f"{text.rstrip()}\n| " + " | ".join(row.values()) + " |\n")


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(prog="python -m benchmarks.all", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's.")
    parser.add_argument("--only", nargs="+", choices=sorted(BENCHMARKS), default=list(BENCHMARKS),
                        help="these benchmarks (default: all)")
    parser.add_argument("--results", type=Path, default=HERE / "docs" / "RESULTS.md",
                        help="file to add the row to (default: docs/RESULTS.md)")
    own, others = parser.parse_known_args(argv)
    if not own.results.parent.is_dir() or own.results.is_dir():
        raise ValueError(f"{own.results}: no file can be written there; name one in a folder that exists")
    ratios: dict[str, float] = {}
    for name in own.only:
        print(f"\n--- {name}\n", flush=True)
        ratios |= import_module(f"benchmarks.{name}").main(others)
    add_row(own.results, {"date": str(datetime.date.today()), "machine": machine(no_cuda="--no_cuda" in others),
                          "versions": f"Python {platform.python_version()}, PyTorch {torch.__version__}",
                          **{name: f"{value:.3f}" for name, value in ratios.items()}})
    print(f"\n{own.results}: a row was added")


if __name__ == "__main__":
    with user_errors():
        main()

"""Run every benchmark that needs no data, and add a row of their ratios to docs/results/all.csv.

    python -m benchmarks.all [--batch_size 8] [--repeats 10] [--results docs/results/all.csv]
"""

import datetime
import platform
import sys
from importlib import import_module
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.machine import machine
from benchmarks.tables import csv_text, read_csv
from machine.writing import write_text
from options.errors import CommandLine, user_errors
from run.paths import HERE

BENCHMARKS = ("step", "push", "inference", "schedule", "memory")  # modules here whose main returns ratios


def add_row(path: Path, row: dict[str, str]) -> None:
    """Add a row to a CSV file; columns that it lacks are added, and are empty in the rows before."""
    names, *rows = read_csv(path) or [[]]
    earlier = [dict(zip(names, values, strict=False)) for values in rows]
    columns = list(dict.fromkeys([*names, *row]))
    write_text(path, csv_text([columns, *([one.get(name, "") for name in columns] for one in [*earlier, row])]))


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(prog="python -m benchmarks.all", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's.")
    parser.add_argument("--only", nargs="+", choices=sorted(BENCHMARKS), default=list(BENCHMARKS),
                        help="these benchmarks (default: all)")
    parser.add_argument("--results", type=Path, default=HERE / "docs" / "results" / "all.csv",
                        help="CSV file to add the row to (default: docs/results/all.csv)")
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

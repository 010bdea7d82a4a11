"""Write report.html of a results folder anew from the files in it: accuracies, tree, mistakes, stories."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from explain.report import write_report
from options.errors import CommandLine, user_errors


def main() -> None:
    parser = CommandLine(prog="python -m util_scripts.make_report", description=__doc__, allow_abbrev=False)
    parser.add_argument("--result_path", type=Path, default=Path("results"), help="folder of a run (default: results)")
    results = parser.parse_args().result_path.expanduser().resolve()
    if not results.is_dir():
        raise ValueError(f"{results}: no such folder; check --result_path")
    print(write_report(results))


if __name__ == "__main__":
    with user_errors():
        main()

"""Explain clips with the prototypes of their predicted classes' ancestors, at every level above the class."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # before another package called datasets

from options.analysis import parse_analysis
from options.errors import user_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, explain."""
    args, given = parse_analysis("local_analysis_parents.py", __doc__, argv)
    from run.explaining import analyse, ancestor_levels  # after parsing: --help needs no PyTorch

    analyse("local_analysis_parents.py", args, given, ancestor_levels)


if __name__ == "__main__":
    with user_errors():
        main()

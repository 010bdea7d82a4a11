"""Explain clips with the prototypes of their predicted classes."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # before another package called datasets

from options.analysis import parse_analysis
from options.errors import user_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, explain."""
    args, given = parse_analysis("local_analysis.py", __doc__, argv)
    from run.explaining import analyse  # after parsing: --help needs no PyTorch

    analyse("local_analysis.py", args, given, lambda hierarchy: [0])


if __name__ == "__main__":
    with user_errors():
        main()

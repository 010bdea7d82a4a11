"""Try to break the program: spoilt inputs, kills, full disks and lost processes, in seeded cases that add up over runs.

    python -m benchmarks.fuzz.campaign --budget 300
    python -m benchmarks.fuzz.campaign --kinds inputs --seed 17 --cases 1

Counts and faults are kept in --out and grow with every run; a run goes on with seeds that no run had. Every fault is
printed with the command that repeats it.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fuzz.ledger import Ledger
from options.errors import CommandLine, user_errors
from options.ranges import AMOUNT, COUNT

# of the time, where no --cases are given
SHARES = {"inputs": 0.6, "kills": 0.25, "disks": 0.1, "pairs": 0.05}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(prog="python -m benchmarks.fuzz.campaign", description=__doc__,
                         formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--kinds", nargs="+", choices=SHARES, default=list(SHARES),
                        help="kinds of cases (default: all)")
    parser.add_argument("--budget", type=float, default=300.0, metavar="SECONDS",
                        help="that all kinds take together (default: 300)")
    parser.add_argument("--cases", type=COUNT, help="cases of each kind, instead of --budget")
    parser.add_argument("--seed", type=AMOUNT, help="of the first case of each kind (default: the first unused one)")
    parser.add_argument("--out", type=Path, default=Path("fuzz_results"),
                        help="folder of counts and faults (default: fuzz_results)")
    parser.add_argument("--page", type=Path, help="Markdown file whose section Counts is replaced by the counts")
    parser.add_argument("--only_counts", action="store_true", help="run nothing, print the counts of --out")
    return parser.parse_args(argv)


def campaign(args: argparse.Namespace) -> Ledger:
    """Run cases of each kind until the time is over or their number is reached."""
    from benchmarks.fuzz.forked import forks_have_own_bars, import_all
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and folders and disks are cleared away
    forks_have_own_bars()
    import_all()
    from benchmarks.fuzz import disks, inputs, kills, pairs
    from benchmarks.fuzz.lab import Lab
    cases = {"inputs": inputs.case, "kills": kills.case, "disks": disks.case, "pairs": pairs.case}
    ledger = Ledger(args.out)
    total = sum(SHARES[kind] for kind in args.kinds)
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        lab = Lab(Path(folder) / "lab")
        for kind in args.kinds:
            seed = ledger.next_seed(kind) if args.seed is None else args.seed
            until = time.monotonic() + args.budget * SHARES[kind] / total
            first, ends = seed, Counter()
            while (seed - first < args.cases) if args.cases else (time.monotonic() < until):
                begun = time.monotonic()
                found = cases[kind](lab, seed)
                ends.update(found.ends)
                for fault in found.faults:
                    print(f"{fault.what}\n  {fault.where}\n  again: {repeat(kind, seed)}", flush=True)
                ledger.add(kind, seed, found, seconds=time.monotonic() - begun, repeat=repeat(kind, seed))
                seed += 1
            print(f"{kind}: seeds {first} to {seed - 1}: "
                  + ", ".join(f"{n} {end}" for end, n in sorted(ends.items())), file=sys.stderr, flush=True)
    return ledger


def repeat(kind: str, seed: int) -> str:
    """The command that repeats a case."""
    return f"python -m benchmarks.fuzz.campaign --kinds {kind} --seed {seed} --cases 1 --out again"


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    ledger = Ledger(args.out) if args.only_counts else campaign(args)
    print(ledger.table())
    if args.page is not None:
        ledger.write_into(args.page)
    if not args.only_counts and ledger.n_faults_now:
        print(json.dumps({"faults": ledger.n_faults_now}), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main()

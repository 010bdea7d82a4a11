"""The tables of real clips in docs/RESULTS.md: fights, a tree of real actions, prototypes on people, attribution.

    python -m benchmarks.real --data ../shared/data --out results/real [--parts attribution prototypes]

--data holds the folders that each part names. Every part writes JSON rows below --out as it goes, goes on from them
when it is called again, and prints its tables in Markdown, below the command line that makes them.
"""

import argparse
import shlex
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.tables import saved_tables
from machine.writing import write_text
from options.errors import CommandLine, user_errors

# By name, a module with `flags(group)`, which adds the part's own flags, each beginning with the part's name, and
# `run(data, out, args)`, which does what rows in the folder `out` do not tell yet, and returns its tables as Markdown.
PARTS = {name: f"benchmarks.filmed.{name}" for name in (
    "fights", "attribution", "energies", "tree", "prototypes")}


def parser_of() -> CommandLine:
    """The flags of all parts."""
    parser = CommandLine(prog="python -m benchmarks.real", description=__doc__, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of ucf101/, ucf24/ and the other data that the parts name")
    add("--out", type=Path, default=Path("results/real"), help="folder to fill (default: results/real)")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    add("--model", default="i3d", help="trunk of --pretrain_path (default: i3d)")
    add("--pretrain_path", default="KINETICS400_I3D", help="its weights, with their head (default: KINETICS400_I3D)")
    add("--classes", help="JSON list of the head's class names, where the weights do not bring them")
    add("--no_cuda", action="store_true", help="run on the CPU")
    for name, module in PARTS.items():
        import_module(module).flags(parser.add_argument_group(name))
    return parser


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    args = parser_of().parse_args(words)
    if not args.data.is_dir():
        raise ValueError(f"{args.data}: no such folder; give that of the real clips as --data")
    tables = []
    for name in args.parts:
        print(f"--- {name}", flush=True)
        folder = args.out.resolve() / name
        folder.mkdir(parents=True, exist_ok=True)
        tables.append(import_module(PARTS[name]).run(args.data.resolve(), folder, args))
        write_text(folder / "tables.md", tables[-1])
    print(f"\n    python -m benchmarks.real {shlex.join(map(str, words))}\n", *tables, sep="\n")


if __name__ == "__main__":
    with user_errors(), saved_tables("real"):
        main()

"""Embed a class tree: python -m util_scripts.fit_embeddings UCF-101_hierarchy.csv out.pth --dim 300 --c 1.0"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from machine.writing import check_writable, write_text
from options.errors import CommandLine, user_errors


def check_paths(args: argparse.Namespace) -> None:
    """Refuse to replace anything but an embedding, its table and a picture.

    Raises:
        ValueError: another file would be replaced; names its path.
    """
    out = args.out
    if out.is_dir():
        raise ValueError(f"{out}: is a folder; name a file in it, such as {out / 'embeddings.pth'}")
    if args.plot and args.plot.suffix.lower() != ".png":
        raise ValueError(f"--plot {args.plot}: the picture is a PNG; give a name that ends in .png")
    if args.plot and args.plot.is_dir():
        raise ValueError(f"--plot {args.plot}: is a folder; name a .png file in it")
    if args.plot and args.plot.resolve() in (out.resolve(), args.tree_file.resolve()):
        raise ValueError(f"--plot {args.plot}: is another file of this call, which would be lost; give another name")
    if args.measure:
        return
    if out.resolve() == args.tree_file.resolve():
        raise ValueError(f"{out}: is the class tree itself, which would be lost; give another file for the embedding")
    if out.suffix == ".md":
        raise ValueError(f"{out}: .md is for the table beside the embedding; name the file .pth")
    if out.exists():
        from hierarchy.files import read_embeddings  # here, so that --help does not wait for torch
        try:
            read_embeddings(out)
        except ValueError:
            raise ValueError(f"{out}: is there already and no embedding file; choose another name") from None
    beside = out.with_suffix(".md")
    if beside.exists() and not is_table_of(out, beside):
        raise ValueError(f"{beside}: is there already and no table of {out.name}, but would be replaced by it; give "
                         "the embedding another name, or move this file")


def is_table_of(out: Path, beside: Path) -> bool:
    """Whether a file is the table that this script writes beside an embedding."""
    if not beside.is_file():
        return False
    with beside.open(encoding="utf-8", errors="replace") as lines:
        return re.match(rf"{re.escape(out.name)}: \d+ nodes in ", lines.readline()) is not None


def main() -> None:
    parser = CommandLine(description="Place the nodes of a class tree in hyperbolic space.")
    parser.add_argument("tree_file", type=Path, help="CSV without header: class,parent,...,Root")
    parser.add_argument("out", type=Path, help="file to write (.pth); its table goes beside it (.md)")
    parser.add_argument("--measure", action="store_true", help="fit nothing: print the table of an existing `out`")
    parser.add_argument(
        "--method", choices=("constructive", "losses", "both", "one_hot"), default="constructive",
        help="spread children around their parent, descend by losses, one after the other, or give every class an axis "
        "of its own, for --score linear (default %(default)s)",
    )
    parser.add_argument("--dim", type=int, help="dimensions of the space (default 300; of one_hot the classes' number)")
    parser.add_argument("--c", type=float, default=1.0, help="minus its curvature (default %(default)s)")
    parser.add_argument(
        "--edge", type=float, default=3.0, help="hyperbolic distance of a node from its parent (default %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=300, help="of the losses (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the losses, and of small --dim (default %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the tree on the Poincare disk")
    args = parser.parse_args()

    # here, so that --help does not wait for torch
    from hierarchy import Hierarchy, evaluate_embedding, fit_embeddings, load_embeddings, one_hot, save_embeddings
    from hierarchy.measures import table
    from hierarchy.picture import draw_tree
    from training.checkpoint import write_whole

    with user_errors():
        check_paths(args)
        hierarchy = Hierarchy.from_csv(args.tree_file)
        if not args.measure:
            check_writable(args.out.parent)
        if not args.measure and args.method == "one_hot":
            if args.dim not in (None, hierarchy.n_leaves):
                raise ValueError(f"--dim {args.dim}: one-hot classes have a dimension each, here {hierarchy.n_leaves}; "
                                 "leave the flag out")
            # without its edge, which says nothing of these distances
            save_embeddings(args.out, one_hot(hierarchy, c=args.c, edge=args.edge), hierarchy, c=args.c)
        elif not args.measure:
            points = fit_embeddings(hierarchy, dim=300 if args.dim is None else args.dim, c=args.c, edge=args.edge,
                                    seed=args.seed, method=args.method, epochs=args.epochs, progress=True)
            save_embeddings(args.out, points, hierarchy, c=args.c, edge=args.edge)
        points, c = load_embeddings(args.out, hierarchy)  # what is measured is what was written
        figures = table(evaluate_embedding(points, hierarchy, c=c, progress=True))
        what = f"{args.out.name}: {len(hierarchy)} nodes in {points.shape[1]} dimensions, c = {c:g}"
        if not args.measure:
            what += f", edge = {args.edge:g}, {args.method}"
            write_text(args.out.with_suffix(".md"), f"{what}\n\n{figures}\n")
        print(f"{what}\n\n{figures}")
        if args.plot:
            write_whole(args.plot, lambda file: draw_tree(hierarchy).save(file, "png", optimize=True), durable=False)


if __name__ == "__main__":
    main()

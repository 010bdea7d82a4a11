"""Embed a class tree: python -m util_scripts.fit_embeddings UCF-101_hierarchy.csv out.pth --dim 300 --c 1.0"""

import argparse
from pathlib import Path

from util_scripts.errors import user_errors


def main() -> None:
    parser = argparse.ArgumentParser(description="Place the nodes of a class tree in hyperbolic space.")
    parser.add_argument("tree_file", type=Path, help="CSV without header: class,parent,...,Root")
    parser.add_argument("out", type=Path, help="file to write (.pth); its table goes beside it (.md)")
    parser.add_argument("--measure", action="store_true", help="fit nothing: print the table of an existing `out`")
    parser.add_argument(
        "--method", choices=("constructive", "losses", "both"), default="constructive",
        help="spread children around their parent, descend by losses, or one after the other (default %(default)s)",
    )
    parser.add_argument("--dim", type=int, default=300, help="dimensions of the space (default %(default)s)")
    parser.add_argument("--c", type=float, default=1.0, help="minus its curvature (default %(default)s)")
    parser.add_argument(
        "--edge", type=float, default=3.0, help="hyperbolic distance of a node from its parent (default %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=300, help="of the losses (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the losses, and of small --dim (default %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the tree on the Poincare disk")
    args = parser.parse_args()

    # here, so that --help does not wait for torch
    from hierarchy import Hierarchy, evaluate_embedding, fit_embeddings, load_embeddings, save_embeddings
    from hierarchy.measures import table
    from hierarchy.picture import draw_tree

    with user_errors():
        hierarchy = Hierarchy.from_csv(args.tree_file)
        if not args.measure:
            points = fit_embeddings(hierarchy, dim=args.dim, c=args.c, edge=args.edge, seed=args.seed,
                                    method=args.method, epochs=args.epochs, progress=True)
            save_embeddings(args.out, points, hierarchy, c=args.c, edge=args.edge)
        points, c = load_embeddings(args.out, hierarchy)  # what is measured is what was written
        figures = table(evaluate_embedding(points, hierarchy, c=c, progress=True))
        what = f"{args.out.name}: {len(hierarchy)} nodes in {points.shape[1]} dimensions, c = {c:g}"
        if not args.measure:
            what += f", edge = {args.edge:g}, {args.method}"
            args.out.with_suffix(".md").write_text(f"{what}\n\n{figures}\n", encoding="utf-8")
        print(f"{what}\n\n{figures}")
        if args.plot:
            args.plot.parent.mkdir(parents=True, exist_ok=True)
            draw_tree(hierarchy).save(args.plot, "png", optimize=True)


if __name__ == "__main__":
    main()

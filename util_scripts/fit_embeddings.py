"""Embed a class tree: python -m util_scripts.fit_embeddings UCF-101_hierarchy.csv out.pth --dim 300 --c 1.0"""

import argparse
from pathlib import Path

from util_scripts.errors import user_errors


def main() -> None:
    parser = argparse.ArgumentParser(description="Place the nodes of a class tree in hyperbolic space.")
    parser.add_argument("tree_file", type=Path, help="CSV without header: class,parent,...,Root")
    parser.add_argument("out", type=Path, help="file to write (.pth)")
    parser.add_argument("--dim", type=int, default=300, help="dimensions of the space (default %(default)s)")
    parser.add_argument("--c", type=float, default=1.0, help="minus its curvature (default %(default)s)")
    parser.add_argument(
        "--edge", type=float, default=3.0, help="hyperbolic distance of a node from its parent (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="matters for small --dim only (default %(default)s)")
    args = parser.parse_args()

    # here, so that --help does not wait for torch
    from hierarchy import Hierarchy, evaluate_embedding, fit_embeddings, load_embeddings, save_embeddings

    with user_errors():
        hierarchy = Hierarchy.from_csv(args.tree_file)
        points = fit_embeddings(hierarchy, dim=args.dim, c=args.c, edge=args.edge, seed=args.seed)
        save_embeddings(args.out, points, hierarchy, c=args.c, edge=args.edge)
        points, c = load_embeddings(args.out, hierarchy)  # what is measured is what was written
        figures = evaluate_embedding(points, hierarchy, c=c)
    print(f"{args.out}: {len(hierarchy)} nodes in {args.dim} dimensions, c = {c:g}, edge = {args.edge:g}")
    print(
        f"mAP {figures['mAP']:.3f}, mean distortion {figures['mean_distortion']:.4f}, "
        f"worst distortion {figures['worst_distortion']:.3f}"
    )


if __name__ == "__main__":
    main()

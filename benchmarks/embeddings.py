"""Time and memory to embed a class tree, and how well the embedding keeps the tree.

    python -m benchmarks.embeddings [--nodes 126 244 800 3000 10000] [--dims 10 20 300] [--edge 3]
                                    [--method constructive]

126 nodes are UCF-101's own tree; any other number is a made-up one, of three levels below 1000 nodes, of six from there
on, whose branches differ widely in size. Fit and measurement run on one thread of a process of their own. Their times
are of the processor, which other work on the machine does not lengthen; the memory is the process's peak, Python and
libraries included.
"""

import multiprocessing
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.tables import saved_tables
from hierarchy import Hierarchy, evaluate_embedding, fit_embeddings
from hierarchy.embeddings import FIT_METHODS
from options.errors import CommandLine, user_errors
from run.paths import HERE

COLUMNS = ("nodes", "levels", "largest family", "dims", "fit CPU s", "measure CPU s", "peak GB", "mAP",
           "mean distortion", "worst distortion", "disordered leaves")


def uneven_tree(n_nodes: int, n_levels: int, *, seed: int = 0) -> Hierarchy:
    """A tree of exactly n_nodes, each level as many times the size of the one above, families Zipf-distributed.

    Raises:
        ValueError: for fewer than two nodes a level.
    """
    if n_nodes < 2 * n_levels:
        raise ValueError(f"--nodes {n_nodes}: a tree of {n_levels} levels needs at least {2 * n_levels} nodes")
    rng = np.random.default_rng(seed)
    low, high = 1.0, float(n_nodes)
    for _ in range(60):  # the ratio that makes 2 (r + r^2 + ...) n_nodes
        ratio = (low + high) / 2
        low, high = (ratio, high) if 2 * sum(ratio**k for k in range(n_levels)) < n_nodes else (low, ratio)
    sizes = [round(2 * low**k) for k in range(n_levels - 1)]
    sizes.append(n_nodes - sum(sizes))
    rows = [[]]
    for level, (above, size) in enumerate(zip([1, *sizes], sizes, strict=False)):
        zipf = 1 / np.arange(1, above + 1)
        more = rng.choice(above, size=size - above, p=zipf / zipf.sum()) if size > above else np.empty(0, int)
        parents = np.concatenate([np.arange(min(above, size)), more])  # nobody stays without a child
        rows = [[f"{level}-{node}", *rows[parent]] for node, parent in enumerate(parents)]
    return Hierarchy.from_rows(rows)


def tree_of(n_nodes: int) -> Hierarchy:
    """UCF-101's tree for its 126 nodes, else a made-up one."""
    if n_nodes == 126:
        return Hierarchy.from_csv(HERE / "UCF-101_hierarchy.csv")
    return uneven_tree(n_nodes, 3 if n_nodes < 1000 else 6)


def measure(n_nodes: int, dim: int, edge: float, method: str) -> list[float]:
    """One line of the table, in a process of its own."""
    torch.set_num_threads(1)
    hierarchy = tree_of(n_nodes)
    largest = max(len(hierarchy.children(node)) for node in range(len(hierarchy)))
    began = time.process_time()
    points = fit_embeddings(hierarchy, dim=dim, edge=edge, method=method)
    fitted = time.process_time()
    figures = evaluate_embedding(points, hierarchy, c=1.0)
    done = time.process_time()
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # kibibytes on Linux
    return [len(hierarchy), hierarchy.n_levels, largest, dim, fitted - began, done - fitted, gigabytes, figures["mAP"],
            figures["mean_distortion"], figures["worst_distortion"], figures["disordered_leaves"]]


def main() -> None:
    parser = CommandLine(prog="python -m benchmarks.embeddings", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[126, 244, 800, 3000, 10000], help="sizes of trees")
    parser.add_argument("--dims", type=int, nargs="+", default=[10, 20, 300], help="(default: 10 20 300)")
    parser.add_argument("--edge", type=float, default=3.0, help="hyperbolic length of an edge (default: 3)")
    parser.add_argument("--method", choices=FIT_METHODS, default=FIT_METHODS[0], help="(default: %(default)s)")
    args = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS), flush=True)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for n_nodes in args.nodes:
            for dim in args.dims:
                line = pool.apply(measure, (n_nodes, dim, args.edge, args.method))
                cells = (f"{value:.4g}" if value % 1 else f"{value:.0f}" for value in line)
                print("| " + " | ".join(cells) + " |", flush=True)
        pool.close()
        pool.join()


if __name__ == "__main__":
    with user_errors(), saved_tables("embeddings"):
        main()

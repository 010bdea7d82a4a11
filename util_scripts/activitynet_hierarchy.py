"""Write the class tree of ActivityNet's own taxonomy as a CSV for --tree_file.

Branches that are shorter than the longest are made even by repeating their lowest node's name.
"""

import argparse
import csv
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from hierarchy.texts import read_json
from hierarchy.tree import Hierarchy
from machine.writing import write_text
from options.errors import CommandLine, user_errors


def taxonomy_rows(taxonomy: list[dict]) -> list[list[str]]:
    """Class to top, without the root, of every node that is nobody's parent, in the order of the list.

    Raises:
        ValueError: a node without name or parent, or a circle.
    """
    try:
        nodes = {node["nodeId"]: (node["nodeName"], node["parentId"]) for node in taxonomy}
        parents = {parent for _, parent in nodes.values()}
    except (KeyError, TypeError) as error:
        raise ValueError(f"a node of the taxonomy lacks {error}") from error
    rows = []
    for leaf in nodes:
        row, node = [], leaf
        while leaf not in parents and nodes[node][1] is not None:  # the root has no parent
            name, parent = nodes[node]
            row.append(name)
            if parent not in nodes or len(row) > len(nodes) or not isinstance(name, str):
                raise ValueError(f"the branch of {nodes[leaf][0]} does not lead to the root")
            node = parent
        if row:
            rows.append(row)
    if not rows:
        raise ValueError("the taxonomy has no class")
    return rows


def evened(rows: list[list[str]]) -> list[list[str]]:
    """Rows of one length: the lowest node's name stands as often as it takes."""
    longest = max(map(len, rows))
    return [row[:1] * (longest - len(row)) + row for row in rows]


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation", type=Path, help="ActivityNet's JSON, activity_net.v1-3.min.json")
    parser.add_argument("out", type=Path, help="CSV to write")
    args = parser.parse_args(argv)
    with user_errors():
        if args.out.resolve() == args.annotation.resolve():
            raise ValueError(f"{args.out}: is ActivityNet's own annotation; give another file to write")
        content = read_json(args.annotation, missing="no such file; fetch ActivityNet's annotation",
                            remedy="fetch the file again")
        try:
            rows = taxonomy_rows(content["taxonomy"])
            tree = Hierarchy.from_rows(evened(rows))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{args.annotation}: no taxonomy to read ({error}); fetch the file again") from error
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*row, "Root"] for row in tree.rows)
        write_text(args.out, text.getvalue(), durable=True)
    n_short = sum(len(row) < tree.n_levels for row in rows)
    print(f"{args.out}: {tree.n_leaves} classes, {tree.n_levels} levels")
    if n_short:
        print(f"{n_short} classes lie higher than others: the name of each stands at every level below its own, too")


if __name__ == "__main__":
    main()

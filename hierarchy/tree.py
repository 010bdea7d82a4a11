"""The class tree: its nodes, their levels and their ancestors."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hierarchy.names import Names, normalise
from hierarchy.texts import read_rows

LEVEL_NAMES = ("class", "parent", "grandparent")


def level_name(level: int) -> str:
    """The name of a level: class, parent, grandparent, level 3 and so on."""
    return LEVEL_NAMES[level] if level < len(LEVEL_NAMES) else f"level {level}"


class Hierarchy:
    """A tree of classes whose leaves all have the same depth; immutable.

    A node is identified by its path to the root, so two parents called "Other" are two nodes. Node ids are assigned
    level by level, leaves first: leaves in the order of the rows, which is the class order everywhere, and the nodes of
    other levels in the order in which they first appear in the rows. The root itself is not a node.

    Attributes:
        names: (K,) node names.
        levels: L ranges of node ids; ``levels[0]`` is the class labels.
        ancestors: (K0, L) int64, the node above (or, at level 0, equal to) every leaf; ``ancestors[y, 0] == y``.
        level_of: (K,) int64, the level of every node.
        membership: (K, K0) float32, 1 where the leaf lies below the node or is the node, else 0.
    """

    names: tuple[str, ...]
    levels: tuple[range, ...]
    ancestors: Tensor
    level_of: Tensor
    membership: Tensor

    def __init__(self, rows: Sequence[Sequence[str]], *, where: Callable[[int], str] = "row {}".format):
        """Build the tree from one row per class: its name, its parent's and so on up, without the root.

        Spellings that differ only in case, blanks or punctuation are the same class; see `names.normalise`.

        Raises:
            ValueError: beginning with ``where(index of the row)``, for a row of another length, with an empty cell or
                with a class that is listed already.
        """
        for i, row in enumerate(rows):
            if not isinstance(row, list | tuple) or not all(isinstance(cell, str) for cell in row):
                raise ValueError(f"{where(i)} is no list of names: {str(row)[:60]}")
        rows = tuple(tuple(cell.strip() for cell in row) for row in rows)
        _check(rows, where)
        n_levels = len(rows[0])
        paths, ids, levels, ancestors = [], {}, [], []
        for level in range(n_levels):
            first = len(paths)
            for row in rows:
                if row[level:] not in ids:
                    ids[row[level:]] = len(paths)
                    paths.append(row[level:])
            levels.append(range(first, len(paths)))
            ancestors.append([ids[row[level:]] for row in rows])

        children = [[] for _ in paths]
        for node, path in enumerate(paths):
            if len(path) > 1:
                children[ids[path[1:]]].append(node)

        ancestors = torch.tensor(ancestors).T.contiguous()  # (K0, L)
        membership = torch.zeros(len(paths), len(rows))
        membership[ancestors, torch.arange(len(rows))[:, None]] = 1  # (K, K0)
        self.__dict__.update(
            names=tuple(path[0] for path in paths),
            levels=tuple(levels),
            ancestors=ancestors,
            level_of=torch.tensor([n_levels - len(path) for path in paths]),
            membership=membership,
            _rows=rows,
            _paths=tuple(paths),
            _ids=ids,
            _children=tuple(tuple(nodes) for nodes in children),
            _labels=Names({row[0]: label for label, row in enumerate(rows)}),
            _spellings=Counter(normalise(path[0]) for path in paths),
        )

    @classmethod
    def from_csv(cls, path: str | Path, root: str = "Root") -> "Hierarchy":
        """Read a file of one line per class, ``class,parent,...,top,Root``, without a header.

        Semicolons or tabs may separate the cells, too, and empty ones may follow the root, as spreadsheets write them.

        Nodes above the classes that differ only in case, blanks or punctuation cause a warning.

        Raises:
            FileNotFoundError: naming the file.
            ValueError: naming file and line, for a row that does not end with the root, and as the constructor.
        """
        path = Path(path)
        form = f"class,parent,...,{root}"
        rows, lines = [], []
        for line, cells in read_rows(path, fits=lambda cells: root in cells,
                                     missing=f"there is no such class tree; give a CSV of lines {form}"):
            filled = max(i for i, cell in enumerate(cells) if cell) + 1
            if cells[filled - 1] == root:
                del cells[filled:]
            if cells[-1] != root:
                raise ValueError(f"{path}:{line}: the last cell is {cells[-1]!r}, but every line must end with "
                                 f"{root!r} ({form}; no header)")
            rows.append(cells[:-1])
            lines.append(line)
        if not rows:
            raise ValueError(f"{path}: the class tree is empty; write one line class,parent,...,{root} per class")
        tree = cls(rows, where=lambda row: f"{path}:{lines[row]}")
        spellings: dict[tuple[str, ...], tuple[str, ...]] = {}
        for node in tree._paths:
            other = spellings.setdefault(tuple(map(normalise, node)), node)
            if other != node:
                warnings.warn(f"{path}: {' / '.join(other)} and {' / '.join(node)} are two nodes, which differ only in "
                              "case, blanks or punctuation; spell them alike where they are one", stacklevel=2)
        return tree

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[str]]) -> "Hierarchy":
        """Build the tree from ``rows``: K0 rows of L names, leaf to top, without the root."""
        return cls(rows)

    @property
    def rows(self) -> list[list[str]]:
        """K0 rows of L names, leaf to top, without the root, as stored in checkpoints."""
        return [list(row) for row in self._rows]

    @property
    def n_leaves(self) -> int:
        """K0, the number of classes."""
        return len(self._rows)

    @property
    def n_levels(self) -> int:
        """L, the number of levels without the root."""
        return len(self.levels)

    def find(self, name: str) -> int | None:
        """Leaf id of a class name as `label` compares it, None where no class has it."""
        return self._labels.find(name)

    def label(self, name: str) -> int:
        """Leaf id of a class name, regardless of case, blanks and punctuation.

        Raises:
            ValueError: with the nearest names, where no class has this name.
        """
        label = self.find(str(name))
        if label is None:
            near = ", ".join(self._labels.nearest(str(name)))
            raise ValueError(f"class {name!r} is not in the class tree; the nearest names are {near}")
        return label

    def path(self, node: int) -> tuple[str, ...]:
        """Names from the node up to the top, without the root."""
        return self._paths[node]

    def path_ids(self, node: int) -> tuple[int, ...]:
        """Node ids from the node up to the top, without the root."""
        path = self._paths[node]
        return tuple(self._ids[path[level:]] for level in range(len(path)))

    def full_name(self, node: int) -> str:
        """The node's name where it is unique in the tree, else its path joined by ``" / "``."""
        return self.names[node] if self._spellings[normalise(self.names[node])] == 1 else " / ".join(self._paths[node])

    def children(self, node: int) -> tuple[int, ...]:
        """Node ids one level below the node."""
        return self._children[node]

    def leaves_below(self, node: int) -> Tensor:
        """Leaf ids below the node, or the leaf itself: int64, ascending."""
        return self.membership[node].nonzero().flatten()

    def hops(self) -> Tensor:
        """(K0, K0) int64, the number of edges between two leaves, through the root where they share no ancestor."""
        return 2 * (self.ancestors[:, None] != self.ancestors[None]).sum(-1)

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return self._rows == other._rows if isinstance(other, Hierarchy) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._rows)

    def __repr__(self) -> str:
        return f"Hierarchy({self.n_leaves} classes, {self.n_levels} levels, {len(self)} nodes)"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Hierarchy does not change: cannot set {name!r}")


def _check(rows: tuple[tuple[str, ...], ...], where: Callable[[int], str]) -> None:
    if not rows:
        raise ValueError("a class tree needs at least one class")
    if not rows[0]:
        raise ValueError(f"{where(0)}: a row needs at least the name of its class")
    seen: dict[str, int] = {}
    for index, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{where(index)}: {len(row)} levels, but {len(rows[0])} in {where(0)}; every class needs as many levels"
            )
        if not all(row):
            raise ValueError(f"{where(index)}: cell {row.index('') + 1} is empty; every node needs a name")
        first = seen.setdefault(normalise(row[0]), index)
        if first != index:
            other = rows[first][0]
            spelt = "" if other == row[0] else f" as {other!r}, which differs only in case, blanks or punctuation"
            raise ValueError(f"{where(index)}: class {row[0]!r} is listed twice, first in {where(first)}{spelt}")

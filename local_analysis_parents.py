"""Explain clips with the prototypes of their predicted classes' ancestors, at every level above the class."""


from hierarchy.tree import Hierarchy
from local_analysis import analyse
from util_scripts.errors import user_errors


def ancestor_levels(hierarchy: Hierarchy) -> list[int]:
    """The levels above the classes.

    Raises:
        ValueError: in a tree of one level.
    """
    if hierarchy.n_levels == 1:
        raise ValueError("this model's tree has one level, so its classes have no ancestors; use local_analysis.py")
    return list(range(1, hierarchy.n_levels))


if __name__ == "__main__":
    with user_errors():
        analyse("local_analysis_parents.py", __doc__, ancestor_levels)

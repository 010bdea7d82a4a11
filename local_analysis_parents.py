"""Explain clips with the prototypes of their predicted classes' ancestors, at every level above the class."""

from options.errors import user_errors
from run.explaining import analyse, ancestor_levels

if __name__ == "__main__":
    with user_errors():
        analyse("local_analysis_parents.py", __doc__, ancestor_levels)

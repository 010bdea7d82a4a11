"""Explain clips with the prototypes of their predicted classes."""

from options.errors import user_errors
from run.explaining import analyse

if __name__ == "__main__":
    with user_errors():
        analyse("local_analysis.py", __doc__, lambda hierarchy: [0])

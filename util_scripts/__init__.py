"""Scripts that prepare data, and look at results."""

from machine.openmp import prepare_threads

prepare_threads()  # before PyTorch is imported: every script of this package imports it first

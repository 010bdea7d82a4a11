"""Scripts that prepare data, and look at results."""

from machine.openmp import wait_briefly

wait_briefly()  # before PyTorch is imported: every script of this package imports it first

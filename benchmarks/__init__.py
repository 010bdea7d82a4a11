"""What things cost, and how well they learn."""

from machine.openmp import wait_briefly

wait_briefly()  # before PyTorch is imported: every script of this package imports it first

"""What things cost, and how well they learn."""

from machine.openmp import prepare_threads

prepare_threads()  # before PyTorch is imported: every script of this package imports it first

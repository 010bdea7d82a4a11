"""Flags: parsed, given defaults, and seen to fit together. Only scripts and run/ see the namespace."""

from machine.openmp import prepare_threads

prepare_threads()  # before PyTorch is imported: every script imports this package first

"""Video data sets: a reader a format, one line each."""

from datasets.ucf101 import read_ucf101

DATASETS = {"ucf101": read_ucf101}

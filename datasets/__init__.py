"""Video data sets: a reader of annotations a form, and a reader of frames a kind of storage, one line each."""

from datasets.activitynet import read_activitynet
from datasets.annotation import read_ucf101
from datasets.hdf5 import Hdf5Frames
from datasets.packed import PackedFrames
from datasets.reading import JpegFolder, VideoFile

READERS = {"hdf5": Hdf5Frames, "jpg": JpegFolder, "packed": PackedFrames, "video": VideoFile}  # by --file_type
DATASETS = {
    "activitynet": read_activitynet,
    "egtea": read_ucf101,
    "epic_kitchens": read_ucf101,
    "hmdb51": read_ucf101,
    "kinetics": read_ucf101,
    "moments": read_ucf101,
    "something": read_ucf101,
    "ucf101": read_ucf101,
}

"""Video data sets by --dataset, and readers of frames by --file_type: to add one, add an entry here."""

from datasets.activitynet import read_activitynet
from datasets.annotation import read_annotated_videos
from datasets.dataset import Dataset
from datasets.reading import Hdf5Frames, JpegFolder, PackedFrames, VideoFile

READERS = {"hdf5": Hdf5Frames, "jpg": JpegFolder, "packed": PackedFrames, "video": VideoFile}
DATASETS = {
    "activitynet": Dataset(read_activitynet),  # a segment knows its video
    # Gaze+: OP01-R01-PastaSalad-1002316-1004005-F024051-F024101, the session before the times
    "egtea": Dataset(read_annotated_videos, recording=r"(.+)-\d+-\d+-F\d+-F\d+"),
    # P01_101_17: the video before the number of the action; --calibrate keeps videos together, not participants (P01)
    "epic_kitchens": Dataset(read_annotated_videos, recording=r"(P\d+_\d+)_\d+"),
    # Some_clip_dive_f_cm_np1_le_bad_3: all but the number after the quality
    "hmdb51": Dataset(read_annotated_videos, recording=r"(.+_(?:goo|med|bad))_\d+"),
    # id_000010_000020: the id before the times
    "kinetics": Dataset(read_annotated_videos, recording=r"(.+)_\d{6}_\d{6}"),
    "moments": Dataset(read_annotated_videos),
    "something": Dataset(read_annotated_videos),
    # v_Archery_g08_c01: one group of people in all classes, filmed once for each class
    "ucf101": Dataset(read_annotated_videos, person=r"_(g\d+)_c\d+$", recording=r"(.+_g\d+)_c\d+"),
}

"""From a path and frame numbers to pixels: a reader for each kind of storage, and a memory of videos."""

from datasets.reading.cached import CachedReader
from datasets.reading.clock import FrameTimes
from datasets.reading.decoding import decode
from datasets.reading.hdf5 import Hdf5Frames
from datasets.reading.jpg import INFO_NAME, JpegFolder
from datasets.reading.last import LastVideo
from datasets.reading.loose import LooseFiles
from datasets.reading.naming import FRAME_NAME
from datasets.reading.packed import PackedFrames
from datasets.reading.reader import EXTENSIONS, VIDEO_EXTENSIONS, Reader, VideoInfo, file_type_of
from datasets.reading.video_file import VideoFile

__all__ = ["EXTENSIONS", "FRAME_NAME", "INFO_NAME", "VIDEO_EXTENSIONS", "CachedReader", "FrameTimes", "Hdf5Frames",
           "JpegFolder", "LastVideo", "LooseFiles", "PackedFrames", "Reader", "VideoFile", "VideoInfo", "decode",
           "file_type_of"]

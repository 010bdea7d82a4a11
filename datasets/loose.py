"""Videos without an annotation: video files and folders of pictures, and folders of those."""

from pathlib import Path

from datasets.reading import VIDEO_EXTENSIONS
from datasets.reading.loose import IMAGES, frame_files
from datasets.video import Video
from hierarchy.tree import Hierarchy


def videos_in(folder: Path, hierarchy: Hierarchy) -> list[Video]:
    """The frame folders and video files in a folder, also one level deeper in class folders.

    The label is -1 for a name that is no class.

    Raises:
        ValueError: for a folder without any.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; check --videos_dir")
    labelled: list[tuple[Path, str]] = []
    for path in sorted(folder.iterdir()):
        label = (path.name if path.is_dir() else path.stem).split("-")[0]
        if path.is_dir():
            inside = sorted(video for video in path.iterdir()
                            if video.is_dir() or video.suffix.lower() in VIDEO_EXTENSIONS)
            if not inside or any(file.suffix.lower() in IMAGES for file in path.iterdir()):
                frame_files(path)
                inside = [path]
            labelled += [(video, label) for video in inside]
        elif path.suffix.lower() in VIDEO_EXTENSIONS:
            labelled.append((path, label))
    if not labelled:
        raise ValueError(f"{folder}: neither frame folders nor video files in it; check --videos_dir")
    videos = []
    for path, label in labelled:
        try:
            index = hierarchy.label(label)
        except ValueError:
            index = -1
        videos.append(Video(path.name if path.is_dir() else path.stem, path, index, "testing", 0, (0, 0)))
    return videos


def single_video(path: Path, n_frames: int) -> Video:
    """A video file or frame folder whose class is not known."""
    name = path.name if path.is_dir() else path.stem
    return Video(name, path, -1, "testing", n_frames, (0, n_frames))

"""Videos without an annotation: video files and folders of pictures, and folders of those."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datasets.reading import VIDEO_EXTENSIONS
from datasets.reading.loose import IMAGES
from datasets.video import Video
from hierarchy.tree import Hierarchy

HIDDEN = ("__MACOSX", "Thumbs.db", "desktop.ini")  # what systems leave in folders, beside names that begin with a dot


@dataclass(frozen=True)
class LooseVideos:
    """The videos of a folder.

    unknown: of those whose name and folder are no class, the path and the label that it would be.
    """

    videos: list[Video]
    unknown: dict[Path, str] = field(default_factory=dict)


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is the system's or an editor's: .DS_Store, ._clip.mp4, .ipynb_checkpoints, Thumbs.db."""
    return path.name.startswith(".") or path.name in HIDDEN


def _inside(folder: Path, seen: set[Path], *, first: bool = False) -> Iterator[Path]:
    """The video files and the folders of pictures in a folder, at any depth; links that lead back are not followed.

    A folder with pictures is a video, unless there are video files beside them; the first folder only where nothing
    further down is one.

    Args:
        seen: folders that are not looked into, which grows.
    """
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    entries = sorted(path for path in folder.iterdir() if not is_hidden(path))
    files = [path for path in entries if path.suffix.lower() in VIDEO_EXTENSIONS and not path.is_dir()]
    pictured = not files and any(path.suffix.lower() in IMAGES and path.is_file() for path in entries)
    if pictured and not first:
        yield folder
        return
    n = 0
    for path in entries:
        below = _inside(path, seen) if path.is_dir() else [path] if path in files else []
        for video in below:
            n += 1
            yield video
    if pictured and n == 0:
        yield folder


def videos_in(folder: Path, hierarchy: Hierarchy, *, without: Path | None = None) -> LooseVideos:
    """The frame folders and video files in a folder, at any depth.

    The label is the name of the folder that a video is in, or else the video's own, up to the first `-`; -1 where
    neither is a class.

    Args:
        without: a folder that is passed over, of results.
    Raises:
        ValueError: for a folder without any video.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; check --videos_dir")
    videos, unknown = [], {}
    for path in _inside(folder, set() if without is None else {without.resolve()}, first=True):
        own = single_video(path, 0)
        names = [own.name] if path == folder or path.parent == folder else [path.parent.name, own.name]
        labels = [name.split("-")[0] for name in names]
        index = next((index for index in (_label(hierarchy, label) for label in labels) if index >= 0), -1)
        if index < 0:
            unknown[path] = labels[0]
        videos.append(Video(own.name, path, index, "testing", 0, (0, 0)))
    if not videos:
        raise ValueError(f"{folder}: neither folders of pictures nor video files in it; check --videos_dir")
    return LooseVideos(videos, unknown)


def _label(hierarchy: Hierarchy, name: str) -> int:
    try:
        return hierarchy.label(name)
    except ValueError:
        return -1


def single_video(path: Path, n_frames: int) -> Video:
    """A video file or frame folder whose class is not known; 0 frames where their number is not known either."""
    name = path.name if path.is_dir() else path.stem
    return Video(name, path, -1, "testing", n_frames, (0, n_frames))

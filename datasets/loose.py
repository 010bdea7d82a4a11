"""Videos without an annotation: video files and folders of pictures, and folders of those."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets.reading import VIDEO_EXTENSIONS
from datasets.reading.loose import IMAGES
from datasets.video import Video
from hierarchy.tree import Hierarchy

HIDDEN = ("__MACOSX", "Thumbs.db", "desktop.ini")  # what systems leave in folders, beside names that begin with a dot
RESULT = {".npy", ".gif", ".png"}  # what local_attribution.py writes of a clip and a method


@dataclass(frozen=True)
class LooseVideos:
    """The videos of a folder.

    unknown: the paths of those whose name and folder are no class.
    """

    videos: list[Video]
    unknown: list[Path] = field(default_factory=list)


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is the system's or an editor's: .DS_Store, ._clip.mp4, .ipynb_checkpoints, Thumbs.db."""
    return path.name.startswith(".") or path.name in HIDDEN


def _of_results(files: Sequence[Path]) -> bool:
    """Whether local_attribution.py wrote a folder's files: heat, GIF and sheet by one name are no video's frames."""
    kinds: dict[str, set[str]] = {}
    for file in files:
        kinds.setdefault(file.stem, set()).add(file.suffix)
    return any(kinds[stem] >= RESULT for stem in kinds)


def _inside(folder: Path, seen: set[Path], *, first: bool = False) -> Iterator[Path]:
    """The video files and the folders of pictures in a folder, at any depth; links that lead back are not followed.

    A folder with pictures is a video, unless there are video files beside them, or they are results of attribution;
    the first folder only where nothing further down is one.

    Args:
        seen: folders that are not looked into, which grows.
    """
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    entries = sorted(path for path in folder.iterdir() if not is_hidden(path))
    files = [path for path in entries if path.suffix.lower() in VIDEO_EXTENSIONS and not path.is_dir()]
    pictures = [path for path in entries if path.suffix.lower() in IMAGES and path.is_file()]
    pictured = bool(pictures) and not files and not _of_results(entries)
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


def paths_in(folder: Path) -> list[Path]:
    """The video files and frame folders in a folder, at any depth, without results of attribution.

    Raises:
        ValueError: for a folder without any video.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; check --videos_dir")
    paths = list(_inside(folder, set(), first=True))
    if not paths:
        raise ValueError(f"{folder}: neither folders of pictures nor video files in it; check --videos_dir")
    return paths


def labelled(paths: Sequence[Path], folder: Path, hierarchy: Hierarchy) -> LooseVideos:
    """The videos of a folder, with their classes.

    The label is the name of the folder that a video is in, or else the video's own, up to the first `-`, of a video
    that is in `folder` itself its own first; -1 where neither is a class.

    Args:
        paths: of the videos, in `folder` at any depth, or `folder` itself.
    """
    videos, unknown = [], []
    for path in paths:
        own = single_video(path, 0)
        names = [own.name] if path == folder else [path.parent.name, own.name]
        if path.parent == folder:
            names.reverse()
        index = next((index for index in (_label(hierarchy, name.split("-")[0]) for name in names) if index >= 0), -1)
        if index < 0:
            unknown.append(path)
        videos.append(Video(own.name, path, index, "testing", 0, (0, 0)))
    return LooseVideos(videos, unknown)


def videos_in(folder: Path, hierarchy: Hierarchy) -> LooseVideos:
    """The videos in a folder, at any depth, with their classes; see `paths_in` and `labelled`."""
    return labelled(paths_in(folder), folder, hierarchy)


def _label(hierarchy: Hierarchy, name: str) -> int:
    try:
        return hierarchy.label(name)
    except ValueError:
        return -1


def single_video(path: Path, n_frames: int) -> Video:
    """A video file or frame folder whose class is not known; 0 frames where their number is not known either."""
    name = path.name if path.is_dir() else path.stem
    return Video(name, path, -1, "testing", n_frames, (0, n_frames))

"""Videos without an annotation: video files and folders of pictures, and folders of those."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets.reading import VIDEO_EXTENSIONS
from datasets.reading.naming import is_picture, left_out
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


def _results(files: Sequence[Path]) -> set[str]:
    """What local_attribution.py wrote in a folder: heat, GIF and sheet by one name are no video and no frames."""
    kinds: dict[str, set[str]] = {}
    for file in files:
        kinds.setdefault(file.stem, set()).add(file.suffix)
    return {stem for stem in kinds if kinds[stem] >= RESULT}


def _inside(folder: Path, seen: set[Path], others: list[Path], *, first: bool = False) -> Iterator[Path]:
    """The video files and the folders of pictures in a folder, at any depth; links that lead back are not followed.

    A folder with pictures is a video, unless there are video files beside them, or they are results of attribution;
    the first folder only where nothing further down is one. A GIF beside a greater number of pictures is their preview.

    Args:
        seen: folders that are not looked into, which grows. others: files that are neither, which grows.
    """
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    entries = sorted(path for path in folder.iterdir() if not is_hidden(path))
    results = _results(entries)
    inner = {path for path in entries if path.is_dir()}
    pictures = {path for path in entries if is_picture(path.name) and path.is_file()}
    gifs = {path for path in entries if path.suffix.lower() == ".gif" and path.stem not in results}
    files = {path for path in entries if path.suffix.lower() in VIDEO_EXTENSIONS and path not in inner
             and (path.suffix.lower() != ".gif" or path in gifs and len(pictures) <= len(gifs))}
    if not results:
        others.extend(sorted({*entries} - inner - pictures - files - gifs))
    pictured = bool(pictures) and not files and not results
    if pictured and not first:
        yield folder
        return
    n = 0
    for path in entries:
        below = _inside(path, seen, others) if path in inner else [path] if path in files else []
        for video in below:
            n += 1
            yield video
    if pictured and n == 0:
        yield folder


def paths_in(folder: Path) -> list[Path]:
    """The video files and frame folders in a folder, at any depth, without results of attribution; says how many files
    are neither.

    Raises:
        ValueError: for a folder without any video.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; check --videos_dir")
    others: list[Path] = []
    paths = list(_inside(folder, set(), others, first=True))
    if others:
        print(f"{folder}: {left_out(others)}", file=sys.stderr)
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

"""Videos without an annotation: video files and folders of pictures, and folders of those."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.folders import Walk, is_file, previews, tell_endings, tell_unreadable, visible
from datasets.reading import VIDEO_EXTENSIONS
from datasets.reading.naming import is_picture
from datasets.video import Video
from hierarchy.tree import Hierarchy

RESULT = {".npy", ".gif", ".png"}  # what local_attribution.py writes of a clip and a method


@dataclass(frozen=True)
class LooseVideos:
    """The videos of a folder.

    unknown: the paths of those whose name and folder are no class.
    """

    videos: list[Video]
    unknown: list[Path] = field(default_factory=list)


def _results(files: Sequence[str]) -> set[str]:
    """What local_attribution.py wrote in a folder, by name: heat, GIF and sheet of one name are no video's frames."""
    kinds: dict[str, set[str]] = {}
    for file in files:
        stem, ending = os.path.splitext(file)
        kinds.setdefault(stem, set()).add(ending)
    return {stem for stem, of in kinds.items() if of >= RESULT}


def paths_in(folder: Path) -> list[Path]:
    """The video files and frame folders in a folder, at any depth, without results of attribution; says how many files
    are neither.

    A folder with pictures is a video, unless there are video files beside them, or they are results of attribution;
    `folder` itself only where nothing further down is one. Previews of videos are left out. Files of other endings, and
    folders that cannot be read, are told of in a line each.

    Raises:
        ValueError: for a folder without any video.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; check --videos_dir")
    paths: list[Path] = []
    others: list[str] = []
    itself = False
    walk = Walk(folder, once=True)
    for below, folders, files in walk:
        ending = {file: os.path.splitext(file)[1].lower() for file in files}
        results, pictures = _results(files), [file for file in files if is_picture(file) and (below / file).is_file()]
        gifs = [file for file in files if ending[file] == ".gif" and os.path.splitext(file)[0] not in results]
        films = [file for file in files if ending[file] in VIDEO_EXTENSIONS
                 and (ending[file] != ".gif" or file in gifs and len(pictures) <= len(gifs))]
        left_out = previews(films)
        films = [file for file in films if file not in left_out]
        pictured = bool(pictures) and not films and not results
        if not results:
            others += [file for file in files if file not in {*films, *pictures, *gifs}]
        if pictured and below != folder:
            paths.append(below)
            folders.clear()
            continue
        itself |= pictured
        # a link that leads nowhere is told of when it is read; what is no file, such as a pipe, would never end
        paths += [video for video in map(below.__truediv__, films) if video.is_file() or not video.exists()]
    tell_unreadable(walk.unreadable)
    if not paths and itself:
        return [folder]
    if not paths:
        raise ValueError(f"{folder}: neither folders of pictures nor video files in it; check --videos_dir")
    tell_endings(folder, others, "videos or pictures")
    return sorted(paths)


def check_single(path: Path) -> None:
    """See that a path is one video: a video file, or a folder of the pictures of one.

    Raises:
        ValueError: where it is not, with the remedy; whether it can be read is seen later.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such video file; check --video")
    if path.is_file():
        return
    if not path.is_dir():
        raise ValueError(f"{path}: is no file; give a video file, or a folder of pictures, as --video")
    here = [entry.name for entry in visible(path) if is_file(entry)]
    pictures = [name for name in here if is_picture(name)]
    gifs = [name for name in here if name.lower().endswith(".gif")]
    films = [name for name in here if os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS
             and (name not in gifs or len(pictures) <= len(gifs))]
    beside = f" and pictures, such as {pictures[0]}," if pictures else ""
    remedy = "give all as --videos_dir, or one of them as --video"
    if films:
        raise ValueError(f"{path}: holds videos, such as {films[0]},{beside} and is no video itself; {remedy}")
    if pictures:
        return
    for below, _, files in Walk(path, once=True):
        video = next((name for name in files if is_picture(name)
                      or os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS), None)
        if video is not None:
            raise ValueError(f"{path}: holds folders of videos or frames, such as {below}, and is no video itself; "
                             f"{remedy}")


def labelled(paths: Sequence[Path], folder: Path, hierarchy: Hierarchy) -> LooseVideos:
    """The videos of a folder, with their classes.

    The label is the name of the folder that a video is in, or else the video's own, of a video that is in `folder`
    itself its own first: the whole name, or as much of it as is a class before one of its `-`; -1 where neither is a
    class.

    Args:
        paths: of the videos, in `folder` at any depth, or `folder` itself.
    """
    videos, unknown = [], []
    for path in paths:
        own = single_video(path, 0)
        names = [own.name] if path == folder else [path.parent.name, own.name]
        if path.parent == folder:
            names.reverse()
        index = next((index for index in (_label(hierarchy, name) for name in names) if index >= 0), -1)
        if index < 0:
            unknown.append(path)
        videos.append(Video(own.name, path, index, "testing", 0, (0, 0)))
    return LooseVideos(videos, unknown)


def by_place(videos: Sequence[Video], folder: Path) -> list[Video]:
    """The same videos, of which those that share a name are called by their place in a folder, such as `Bend/001`."""
    counts = Counter(video.name for video in videos)
    return [video if counts[video.name] == 1 or video.path == folder else
            replace(video, name=video.path.relative_to(folder).with_name(video.name).as_posix()) for video in videos]


def videos_in(folder: Path, hierarchy: Hierarchy) -> LooseVideos:
    """The videos in a folder, at any depth, with their classes; see `paths_in` and `labelled`."""
    return labelled(paths_in(folder), folder, hierarchy)


def _label(hierarchy: Hierarchy, name: str) -> int:
    """The class that a name begins with: all of it, else up to its last `-`, and so on; -1 where none is one."""
    while name:
        if (label := hierarchy.find(name)) is not None:
            return label
        name = name.rpartition("-")[0]
    return -1


def single_video(path: Path, n_frames: int) -> Video:
    """A video file or frame folder whose class is not known; 0 frames where their number is not known either."""
    name = path.name if path.is_dir() else path.stem
    return Video(name, path, -1, "testing", n_frames, (0, n_frames))

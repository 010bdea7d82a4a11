"""Finds the videos of a data set on disk, by class folder and name or by their places."""

import os
from collections.abc import Iterable
from pathlib import Path

from datasets.reading.packed import packed_places
from datasets.reading.reader import EXTENSIONS


def videos_on_disk(video_path: Path, *, file_type: str | None = None) -> dict[tuple[str, str], str]:
    """Find the videos in class folders.

    Args:
        video_path: holds `Class/video/` with frames ("jpg"), `Class/video.hdf5` ("hdf5") or `Class/video.avi`
            ("video"), or is what pack_frames wrote ("packed").
        file_type: one of these, or None for all but "packed", frame folders first.
    Returns:
        path of every video by its class folder and name, both casefolded, because sets spell a class in two ways
        (UCF-101: HandstandPushups, v_HandStandPushups).
    Raises:
        FileNotFoundError: no such folder.
    """
    if file_type == "packed":
        places = ((place.casefold().rpartition("/"), place) for place in packed_places(video_path))
        return {(folder, name): f"{video_path}/{place}" for (folder, _, name), place in places}
    _check_folder(video_path)
    paths: dict[tuple[str, str], str] = {}
    for folder in sorted(_visible(video_path), key=lambda entry: entry.name):
        if folder.is_dir():
            of = folder.name.casefold()
            for name, path in _videos_in(folder.path, file_type).items():
                paths.setdefault((of, name), path)
    return paths


def videos_at(video_path: Path, places: Iterable[str], *, file_type: str | None = None) -> dict[str, str]:
    """Find videos by their places, `folder/video` without an ending, however many folders deep.

    Only files in the folders are found, so that no place leads out of `video_path`. Case matters for folders, not for
    videos.

    Args:
        video_path, file_type: as in `videos_on_disk`.
    Returns:
        path of every place where there is a video.
    Raises:
        FileNotFoundError: no such folder.
    """
    if file_type == "packed":
        packed = {place.casefold(): place for place in packed_places(video_path)}
        return {place: f"{video_path}/{packed[place.casefold()]}" for place in places if place.casefold() in packed}
    _check_folder(video_path)
    listings: dict[str, dict[str, str]] = {}
    paths = {}
    for place in places:
        folder, _, name = place.rpartition("/")
        if folder not in listings:
            inside = not folder or not {"", ".", ".."} & set(folder.split("/"))
            listings[folder] = _videos_in(Path(video_path, folder), file_type) if inside else {}
        if name.casefold() in listings[folder]:
            paths[place] = listings[folder][name.casefold()]
    return paths


def _check_folder(video_path: Path) -> None:
    if not Path(video_path).is_dir():
        raise FileNotFoundError(f"{video_path}: no such folder of videos; give the folder that holds the class folders")


def _videos_in(folder: str | Path, file_type: str | None) -> dict[str, str]:
    """Path of every video of a folder by its casefolded name; empty for a folder that does not exist."""
    paths: dict[str, str] = {}
    extensions = tuple(one for kind in ([file_type] if file_type else EXTENSIONS) for one in EXTENSIONS[kind])
    try:
        # a GIF beside a video of its name is a preview
        entries = sorted(_visible(folder), key=lambda entry: (entry.name.lower().endswith(".gif"), entry.name))
    except (OSError, ValueError):  # a name that cannot be one
        return paths
    for entry in entries:
        stem, extension = os.path.splitext(entry.name)
        if file_type in ("jpg", None) and entry.is_dir():
            paths[entry.name.casefold()] = entry.path
        elif extension.lower() in extensions and entry.is_file():
            paths.setdefault(stem.casefold(), entry.path)
    return paths


def _visible(folder: str | Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")
                and (not entry.is_symlink() or os.path.exists(entry.path))]  # a link may lead nowhere, or to itself

"""Finds the videos of a data set on disk, by class, subset and name or by their places."""

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from datasets.folders import is_file, is_folder, previews, tell_unreadable, visible
from datasets.reading.packed import packed_places
from datasets.reading.reader import EXTENSIONS
from hierarchy.names import AmbiguousName, Names, normalise

# The folders that hold a subset, by what they are usually called
SUBSET_FOLDERS = {"training": ("train", "training"), "validation": ("val", "validation", "validate", "valid"),
                  "testing": ("test", "testing")}

_ENDINGS = frozenset(ending for endings in EXTENSIONS.values() for ending in endings)
CLASSES = ("*",)  # the folders of all classes
Step = tuple[str, ...]  # names of one folder, as good as each other, or CLASSES
Way = tuple[Step, ...]  # from the folder of the data set to that of a video


class Wanted(NamedTuple):
    """A video that is looked for: its name, and the ways to where it may lie, likelier ones first."""

    name: str
    ways: tuple[Way, ...]


@cache
def _ways(folders: tuple[str, ...], subset: str, *, anywhere: bool = False) -> tuple[Way, ...]:
    """In its folders; in those in the folder of its subset; in that itself; beside all others; anywhere."""
    there = tuple((folder,) for folder in folders)
    subsets = (SUBSET_FOLDERS[subset],) if subset in SUBSET_FOLDERS else ()
    ways = [there, *([(*subsets, *there), subsets] if subsets else []), (), *([(CLASSES,)] if anywhere else [])]
    return tuple(dict.fromkeys(ways))


@cache
def _folder_names(ways: tuple[Way, ...]) -> frozenset[str]:
    """What the folders on these ways are called, as names are compared."""
    return frozenset(normalise(name) for way in ways for step in way for name in step)


def of_class(name: str, label: str | None, subset: str = "", *, anywhere: bool = False) -> Wanted:
    """A video by its class folder, in the folder of its subset or not, or outside of class folders.

    Args:
        name: of the video, after the folder that it is in where several classes have a video of this name.
        label: class, None or "" where it is not known. subset: training, validation, testing or "".
        anywhere: at last, look in the folders of all classes.
    """
    if "/" not in name and label and not anywhere:
        return Wanted(name, _ways((label,), subset))
    folder, _, own = name.rpartition("/")
    return Wanted(own, _ways(tuple(folder.split("/")) if folder else (label,) if label else (), subset,
                             anywhere=anywhere and not folder))


def at_place(place: str, subset: str = "", *, elsewhere: bool = True) -> Wanted:
    """A video by its place, `folder/video` without an ending, however many folders deep.

    Args:
        subset: training, validation, testing or "". elsewhere: look also in the folder of the subset, and outside of
            all folders.
    """
    folder, _, name = place.rpartition("/")
    ways = _ways(tuple(folder.split("/")) if folder else (), subset)
    return Wanted(name, ways if elsewhere else ways[:1])


class _Folder(NamedTuple):
    folders: Names[str]  # paths by name
    videos: Names[str]


class VideoFolder:
    """The videos below a folder, found by names of which case, blanks and punctuation do not count.

    Exact names win. Only what is listed in the folders is found, so that no place leads out of them.

    Args:
        path: holds `Class/video/` with frames ("jpg"), `Class/video.hdf5` ("hdf5") or `Class/video.avi` ("video"), or
            is what pack_frames wrote ("packed"). A folder a subset may stand above the class folders or in their place.
        file_type: one of these, or None for all but "packed", frame folders first.
        classes: what the class folders are called; None where every folder in `path` is one.
    Raises:
        FileNotFoundError: no such folder.
    """

    def __init__(self, path: Path, *, file_type: str | None = None, classes: Iterable[str] | None = None) -> None:
        self.path, self.file_type = Path(path), file_type
        self.classes = None if classes is None else set(map(normalise, classes))
        self.unreadable: list[Path] = []
        self._listed: dict[str, _Folder] = {}
        self._searched: dict[Way, list[Names[str]]] = {}
        if file_type == "packed":
            self._list_packed()
        elif not self.path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder of videos; give the folder that holds the class folders")

    def class_folders(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """The folders in this one by name, each with the paths of its videos by name."""
        for name, path in self._folder(str(self.path)).folders.things.items():
            yield name, self._folder(path).videos.things

    def find_all(self, wanted: Iterable[Wanted]) -> list[str | None]:
        """Find videos; one line on stderr reports ambiguous names, and one the folders that cannot be read.

        A file that matches one name exactly is not assigned to a second name that it merely resembles.

        Args:
            wanted: as `of_class` and `at_place` make them.
        Returns:
            a path each; None where no video matches, or where the name is ambiguous.
        """
        paths: list[str | None] = []
        vague: dict[int, Wanted] = {}  # by index, those that resemble the name of their path
        first: dict[str, Wanted] = {}  # by path, the first of these
        shared: set[str] = set()  # paths that several names resemble
        ambiguous: list[str] = []
        searched = self._searched
        for one in wanted:
            name, ways = one
            folders = searched.get(ways[0])
            if folders is not None and len(folders) == 1 and (path := folders[0].things.get(name)) is not None:
                paths.append(path)  # as nearly all are
                continue
            try:
                path, is_exact = self._find(one)
            except AmbiguousName as error:
                ambiguous.append(str(error))
                path, is_exact = None, True
            if not is_exact:
                vague[len(paths)] = one
                if first.setdefault(path, one) != one:
                    shared.add(path)
            paths.append(path)
        if first:
            shared |= {path for i, path in enumerate(paths) if path in first and i not in vague}
        for i, one in vague.items():
            if paths[i] in shared:
                ambiguous.append(f"{one.name!r} resembles {paths[i]}, as another name of the data set does")
                paths[i] = None
        if ambiguous:
            print(f"warning: {self.path}: {len(ambiguous)} names are ambiguous and count as not here: {ambiguous[0]}",
                  file=sys.stderr)
        tell_unreadable(self.unreadable)
        self.unreadable.clear()
        return paths

    def _find(self, wanted: Wanted) -> tuple[str | None, bool]:
        """The path of a video, and whether name and place both match exactly.

        Raises:
            AmbiguousName: where several videos match equally well.
        """
        name = wanted.name
        for number, way in enumerate(wanted.ways):
            folders = self._searched.get(way)
            if folders is None:
                folders = self._searched[way] = [self._folder(path).videos for path in self._lead(way)]
            hits = [videos.things[name] for videos in folders if name in videos.things]
            exact = bool(hits)
            if not exact:
                hits = [videos.things[other] for videos in folders for other in videos.spellings(name)]
            if hits and number and normalise(name) in _folder_names(wanted.ways):
                hits = [path for path in hits if not self._holds_folders(path)]
            if len(hits) > 1 and not (exact and [os.path.basename(os.path.dirname(path)) in way[-1]
                                                 for path in hits[:2]] == [True, False]):
                raise AmbiguousName(name, hits)
            if hits:
                return hits[0], exact and number == 0
        stem, ending = os.path.splitext(name)
        if ending.lower() in _ENDINGS:  # as others' annotations name files
            return self._find(Wanted(stem, wanted.ways))
        return None, True

    def _holds_folders(self, path: str) -> bool:
        """Whether a path is that of a class or a subset, and not of a video."""
        return self.file_type != "packed" and os.path.isdir(path) and any(map(is_folder, self._entries(path)))

    def _lead(self, way: Way) -> list[str]:
        """The folders that a way leads to, those of exact names first."""
        paths = [str(self.path)]
        for step in way:
            exact, alike = [], []
            for path in paths:
                folders = self._folder(path).folders
                if step == CLASSES:
                    exact += [below for name, below in folders.things.items()
                              if self.classes is None or normalise(name) in self.classes]
                    continue
                exact += [folders.things[name] for name in step if name in folders.things]
                alike += [folders.things[other] for name in step for other in folders.spellings(name)]
            paths = list(dict.fromkeys([*exact, *alike]))
        return paths

    def _entries(self, path: str) -> list[os.DirEntry]:
        try:
            return visible(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # gone meanwhile, or a name that cannot be one
            return []
        except OSError:
            self.unreadable.append(Path(path))
            return []

    def _folder(self, path: str) -> _Folder:
        """What is in a folder, looked through once."""
        if path in self._listed:
            return self._listed[path]
        folders: dict[str, str] = {}
        videos: dict[str, str] = {}
        kinds = [self.file_type] if self.file_type else EXTENSIONS
        extensions = tuple(ending for kind in kinds for ending in EXTENSIONS.get(kind, ()))
        files: list[os.DirEntry] = []
        for entry in [] if self.file_type == "packed" else self._entries(path):
            if is_folder(entry):
                folders[entry.name] = entry.path
                if self.file_type in ("jpg", None):
                    videos[entry.name] = entry.path
            elif os.path.splitext(entry.name)[1].lower() in extensions and is_file(entry):
                files.append(entry)
        left_out = previews([entry.name for entry in files], videos)
        for entry in files:
            if entry.name not in left_out:
                videos.setdefault(os.path.splitext(entry.name)[0], entry.path)
        self._listed[path] = _Folder(Names(folders), Names(videos))
        return self._listed[path]

    def _list_packed(self) -> None:
        """Folders as they were when they were packed."""
        folders: dict[str, dict[str, str]] = defaultdict(dict)
        videos: dict[str, dict[str, str]] = defaultdict(dict)
        root = str(self.path)
        for place in packed_places(self.path):
            folder, _, name = place.rpartition("/")
            path = f"{root}/{folder}" if folder else root
            if path not in videos:
                parts, above = folder.split("/") if folder else [], root
                for part in parts:
                    folders[above][part] = f"{above}/{part}"
                    above = f"{above}/{part}"
            videos[path][name] = f"{root}/{place}"
        for path in {root, *folders, *videos}:
            self._listed[path] = _Folder(Names(folders.get(path, {})), Names(videos.get(path, {})))


def videos_on_disk(video_path: Path, *, file_type: str | None = None) -> dict[tuple[str, str], str]:
    """The path of every video in a class folder by the two names, as they are spelt on disk.

    Args and raises: as `VideoFolder`.
    """
    return {(folder, name): path for folder, videos in VideoFolder(video_path, file_type=file_type).class_folders()
            for name, path in videos.items()}


def videos_at(video_path: Path, places: Iterable[str], *, file_type: str | None = None) -> dict[str, str]:
    """Find videos by their places, `folder/video` without an ending, however many folders deep.

    Args:
        video_path, file_type: as in `VideoFolder`.
    Returns:
        path of every place where there is a video.
    Raises:
        FileNotFoundError: no such folder.
    """
    places = list(places)
    paths = VideoFolder(video_path, file_type=file_type).find_all(at_place(place, elsewhere=False) for place in places)
    return {place: path for place, path in zip(places, paths, strict=True) if path is not None}

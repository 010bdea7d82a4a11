"""ActivityNet's annotation: untrimmed videos with segments in seconds, trained on by segment, predicted as a whole."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from datasets.annotation import complain, labels_of, load_database, subset_of, tell_missing, undisturbed
from datasets.on_disk import videos_at
from datasets.reading import FrameTimes
from datasets.video import VideoTable
from hierarchy.tree import Hierarchy

REMEDY = "fetch ActivityNet's JSON again, and add fps with util_scripts.add_fps_into_activitynet_json"


def segment_frames(start: float, end: float, fps: float, n_frames: int = 0) -> tuple[int, int]:
    """The frames of a video of even frames that show a segment; see `FrameTimes.frames_in`.

    Args:
        start, end: seconds. fps: frames a second. n_frames: of the video, 0 where unknown.
    """
    return FrameTimes(n_frames, fps).frames_in(start, end)


def find_keys(keys: Iterable[str], video_path: Path, *, file_type: str) -> dict[str, str | None]:
    """The path of each key's video, called `v_KEY` or `KEY`; None where there is none. Raises as `videos_at`."""
    keys = list(keys)
    paths = videos_at(video_path, [place for key in keys for place in (f"v_{key}", key)], file_type=file_type)
    return {key: paths.get(f"v_{key}", paths.get(key)) for key in keys}


@undisturbed()
def read_activitynet(annotation_path: Path, video_path: Path, hierarchy: Hierarchy, *, file_type: str = "jpg",
                     strict: bool = False) -> VideoTable:
    """Read ActivityNet's annotation file: every segment of training and validation videos a record, test videos whole.

    Args:
        annotation_path: the official JSON, with what add_fps_into_activitynet_json adds.
        video_path: the folder of `v_KEY` or `KEY`, frame folders or video files.
        hierarchy, file_type, strict: as in `read_annotated_videos`.
    Returns:
        segments, named `KEY#1`, `KEY#2`, ... in the order of the file, which know their video's key; videos of the
        testing subset, named by their key, of class -1 where they have no annotation.
    Raises:
        FileNotFoundError, ValueError: as `read_annotated_videos`; also where an annotated video has no fps.
    """
    database = load_database(annotation_path, REMEDY)["database"]
    if not database:
        raise ValueError(f"{annotation_path}: no video in it; fetch it again")
    paths = find_keys(database, video_path, file_type=file_type)
    missing = [key for key, path in paths.items() if path is None]
    videos, damaged, n_empty, n_bare = [], {}, 0, 0
    for key, entry in database.items():
        try:
            subset, times, n_frames, segments = segments_of(entry)
            if times is None and segments and paths[key] is not None:
                raise ValueError("it has no fps, which util_scripts.add_fps_into_activitynet_json adds")
        except ValueError as error:
            damaged[key] = str(error)
            continue
        if paths[key] is None:
            continue
        if subset == "testing":
            label = segments[0][0] if segments else None
            videos.append((key, paths[key], label, subset, n_frames, (0, n_frames), ""))
            continue
        n_bare += not segments
        for number, (label, start, end) in enumerate(segments, 1):
            frames = times.frames_in(start, end)
            if frames[0] < frames[1]:
                videos.append((f"{key}#{number}", paths[key], label, subset, n_frames, frames, key))
            else:
                n_empty += 1
    complain(annotation_path, damaged, REMEDY)
    tell_missing(annotation_path, video_path, missing, len(database), strict=strict)
    if n_empty:
        print(f"warning: {annotation_path}: {n_empty} segments hold no frame of their video and are left out",
              file=sys.stderr)
    if n_bare:
        print(f"warning: {annotation_path}: {n_bare} videos to train or validate on have no segment and are left out",
              file=sys.stderr)
    labels = labels_of((video[2] for video in videos if video[2] is not None), hierarchy, annotation_path) | {None: -1}
    return VideoTable.from_rows((name, path, labels[label], *rest) for name, path, label, *rest in videos)


class Untrimmed(NamedTuple):
    """An entry: its subset; when its frames are shown, None where it has no fps; their number, 0 where it does not
    tell; its segments (class, start, end), in seconds."""

    subset: str
    times: FrameTimes | None
    n_frames: int
    segments: list[tuple[str, float, float]]


def segments_of(entry: object) -> Untrimmed:
    """An entry of the annotation file; ValueError, with the reason, where it is damaged."""
    try:
        subset, fps, n_frames = subset_of(entry["subset"]), entry.get("fps"), entry.get("n_frames", 0)
        annotations = entry["annotations"] if subset != "testing" else entry.get("annotations") or []
        segments = [(one["label"], *map(float, one["segment"])) for one in annotations]
        fps, edges = None if fps is None else float(fps), entry.get("times")
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if any(len(one) != 3 or not isinstance(one[0], str) for one in segments):
        raise ValueError("a segment is a label and two times")
    if type(n_frames) is not int or not 0 <= n_frames < 2**31 or (fps is not None and not 0 < fps < 1e6):
        raise ValueError(f"fps {fps}, n_frames {n_frames}")
    return Untrimmed(subset, FrameTimes.of(n_frames, fps, edges), n_frames, segments)

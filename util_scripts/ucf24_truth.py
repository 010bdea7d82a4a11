"""Write UCF101-24's tubes as truth.json: where and when the actors of UCF-101 videos act, in the videos' own pixels.

ANNOTATION is one of
- finalAnnots.mat of the corrected annotations (Singh et al., ICCV 2017; github.com/gurkirt/corrected-UCF101-Annots):
  a struct array `annot` of name ("Basketball/v_Basketball_g01_c01"), num_imgs and tubes, a struct array of sf, ef and
  boxes. Frames sf to ef count from 1 and both belong to the tube (s9_final_crossCheck.m there: as many boxes as
  ef - sf + 1).
- pyannot.pkl or pyannot_with_class_names.pkl of the same place, which are read without running anything: by the same
  names numf and annotations, a list of sf, ef and boxes. Frames count from 0, and ef is the first one behind the tube
  (as the authors' loader in realtime-action-detection reads them).
- truth.json or boxes.json, as docs/FORMATS.md has them, with the pixels that the boxes are in as `frame_size`.

Boxes of the first two are x, y, width, height in pixels of 320 x 240 that count from 1: no x or y is below 1, and x +
width comes to 320 and y + height to 240 (which s9_final_crossCheck.m insists on), so that both are pixels inside.
Boxes are scaled to each video's size and clipped to its frame. What does not fit is printed, a line a kind.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from datasets.on_disk import VideoFolder, of_class
from datasets.reading import VideoInfo
from machine.writing import write_text
from models.arrays import read_arrays
from options.errors import CommandLine, user_errors
from util_scripts.annotating import distinct_keys, place_of, read_infos, read_json

SIZE = (320, 240)  # of UCF-101: the pixels that its annotation is in
SAME_SHAPE = 0.02  # by how much width over height may differ: 340 x 256 is UCF-101 in even numbers
BESIDE = 1  # pixels of the annotation that a box may reach over the frame, for which rounding is enough


@dataclass(frozen=True)
class Annotated:
    """What an annotation says of a video.

    n_frames: that it was made for, 0 where it does not say. tubes: first frame, last frame (from 0, exclusive) and
    boxes (n, 4) each, x y width height from 0. size: width and height of the pixels that boxes are in, None for the
    video's own.
    """

    name: str
    label: str
    n_frames: int
    tubes: list[tuple[int, int, np.ndarray]]
    size: tuple[int, int] | None = SIZE


def _boxes(values: Any) -> np.ndarray:
    """(n, 4) x, y, width, height from 0, of pixels that count from 1 and of which both ends belong to the box."""
    return np.asarray(values, dtype=float).reshape(-1, 4) + [-1, -1, 1, 1]


def read_mat(path: Path) -> list[Annotated]:
    """The videos of finalAnnots.mat."""
    content = scipy.io.loadmat(str(path), variable_names=["annot"])
    videos = []
    for entry in content["annot"].ravel():
        label, _, name = str(entry["name"].item()).strip().rpartition("/")
        tubes = entry["tubes"].ravel()
        videos.append(Annotated(name, label, int(entry["num_imgs"].item()), [
            (int(tube["sf"].item()) - 1, int(tube["ef"].item()), _boxes(tube["boxes"]))
            for tube in (tubes if tubes.dtype.names else ())]))
    return videos


def read_pickle(path: Path) -> list[Annotated]:
    """The videos of pyannot.pkl, or of pyannot_with_class_names.pkl."""
    content = read_arrays(path, path)
    videos = []
    for place, entry in content.get("db", content).items():
        label, _, name = place.strip().rpartition("/")
        videos.append(Annotated(name, label, int(entry["numf"]), [
            (int(tube["sf"]), int(tube["ef"]), _boxes(tube["boxes"])) for tube in entry["annotations"]]))
    return videos


def read_tubes(path: Path) -> list[Annotated]:
    """The videos of truth.json or boxes.json."""
    return [Annotated(name, str(entry.get("class", "")), int(entry.get("n_frames", 0)), [
        (int(tube["first_frame"]), int(tube["last_frame"]),
         np.asarray(tube["boxes_x_y_w_h"], dtype=float).reshape(-1, 4)) for tube in entry["tubes"]],
        tuple(map(float, entry["frame_size"])) if "frame_size" in entry else None)
        for name, entry in read_json(path).items()]


FORMATS: dict[str, Callable[[Path], list[Annotated]]] = {
    ".mat": read_mat, ".pkl": read_pickle, ".pickle": read_pickle, ".json": read_tubes}


def read_annotation(path: Path) -> list[Annotated]:
    """Read any of the annotations that the module names.

    Raises:
        FileNotFoundError, ValueError: naming the file, where it is missing or of another form.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: neither .mat nor .pkl nor .json; give finalAnnots.mat or pyannot.pkl of UCF101-24")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give finalAnnots.mat or pyannot.pkl of UCF101-24")
    try:
        videos = FORMATS[path.suffix.lower()](path)
    except Exception as error:  # scipy raises a dozen kinds for what is damaged
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise  # of a reader that says what is wrong with such a file
        raise ValueError(f"{path}: not an annotation of UCF101-24 ({type(error).__name__}: {error}); fetch "
                         "finalAnnots.mat or pyannot.pkl again") from error
    if not videos:
        raise ValueError(f"{path}: annotates no video; fetch finalAnnots.mat or pyannot.pkl again")
    return videos


def fitted(video: Annotated, info: VideoInfo) -> tuple[list[dict], dict[str, str]]:
    """The tubes of a video in its own frames and pixels.

    Returns:
        tubes as truth.json has them, the parts of a tube whose boxes hold anything; and by kind what does not fit.
    """
    width, height = video.size or (info.width, info.height)
    scale = np.array([info.width / width, info.height / height] * 2)
    misfits, tubes = {}, []
    if video.n_frames and video.n_frames != info.n_frames:
        misfits["videos of another number of frames"] = f"{info.n_frames}, annotated {video.n_frames}"
    if abs(scale[0] / scale[1] - 1) > SAME_SHAPE:
        misfits["videos of another shape, whose boxes are stretched"] = (
            f"{info.width} x {info.height}, annotated {width:g} x {height:g}")
    for first, last, boxes in video.tubes:
        said = f"frames {first} to {last}"
        if last - first != len(boxes):
            misfits["tubes with more or fewer boxes than frames, of which the first are taken"] = (
                f"{said} with {len(boxes)} boxes")
        if last > info.n_frames:
            misfits["tubes that go on after the end of the video, and are cut there"] = f"{said} of {info.n_frames}"
        if first < 0:
            misfits["tubes that begin before the video, and are cut there"] = said
        frames = np.arange(first, max(min(last, first + len(boxes)), first))
        boxes = boxes[:len(frames)]
        corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)
        if ((corners < -BESIDE) | (corners > np.array([width, height] * 2) + BESIDE)).any():
            misfits["tubes that reach out of the frame, and are clipped"] = said
        corners = (corners * scale).clip(0, [info.width, info.height] * 2).round(3)
        size = corners[:, 2:] - corners[:, :2]
        holds = (size > 0).all(1) & np.isfinite(corners).all(1) & (frames >= 0) & (frames < info.n_frames)
        if not ((size > 0).all(1) & np.isfinite(corners).all(1)).all():
            misfits["tubes with boxes that hold nothing, and are cut there"] = said
        for some in np.split(np.arange(len(frames)), np.flatnonzero(np.diff(holds)) + 1):
            if len(some) and holds[some[0]]:
                rows = np.concatenate((corners[some, :2], size[some]), 1).round(3)
                tubes.append({"first_frame": int(frames[some[0]]), "last_frame": int(frames[some[-1]]) + 1,
                              "boxes_x_y_w_h": rows.tolist()})
    if not tubes:
        misfits["videos without a tube that fits, which are left out"] = f"{len(video.tubes)} annotated"
    return tubes, misfits


def truth_of(videos: list[Annotated], video_dir: Path) -> tuple[dict[str, dict], list[str]]:
    """The truth of all annotated videos in a folder of class folders, and lines about what does not fit.

    Raises:
        FileNotFoundError, ValueError: where none is there, none can be read, or one is annotated twice.
    """
    (label, name), times = Counter((video.label, video.name) for video in videos).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{name}: annotated {times} times; leave one of them in the annotation")
    folder = VideoFolder(video_dir)
    found = folder.find_all(of_class(video.name, video.label, anywhere=True) for video in videos)
    paths = [None if path is None else Path(path) for path in found]
    present = [(video, path) for video, path in zip(videos, paths, strict=True) if path is not None]
    if not present:
        raise FileNotFoundError(f"{video_dir}: has none of the {len(videos)} annotated videos; they are expected like "
                                f"{videos[0].label or 'Class'}/{videos[0].name}.avi")
    places = {path: place_of(path, video_dir) for _, path in present}
    keys = distinct_keys((place.rpartition("/")[2], place) for place in places.values())
    infos, lines = read_infos(set(places))
    lines = [f"left out: {sentence}" for sentence in lines]
    truth, kinds = {}, {}
    for video, path in present:
        if path not in infos:
            continue
        tubes, misfits = fitted(video, infos[path])
        for kind, what in misfits.items():
            kinds.setdefault(kind, []).append(f"{video.name}: {what}")
        if tubes:
            truth[keys[places[path].rpartition("/")[2], places[path]]] = {
                "class": video.label, "n_frames": infos[path].n_frames, "tubes": tubes}
    if not truth:
        raise ValueError(f"{video_dir}: not one annotated video has a tube that fits; check that they belong together "
                         f"({lines[0] if lines else next(iter(kinds.values()))[0]})")
    lines += [f"{len(those)} {kind} ({those[0]})" for kind, those in kinds.items()]
    if missing := paths.count(None):
        lines.append(f"{missing} of {len(videos)} annotated videos are not in {video_dir}")
    there = sum(len(videos) for _, videos in folder.class_folders())
    if unknown := there - len(present):
        lines.append(f"{unknown} of {there} videos in {video_dir} are not annotated")
    return truth, lines


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation", type=Path, metavar="ANNOTATION",
                        help="finalAnnots.mat, pyannot.pkl or boxes.json")
    parser.add_argument("video_dir", type=Path, help="folder of class folders of frames, HDF5 or video files")
    parser.add_argument("out", type=Path, help="truth.json to write")
    args = parser.parse_args(argv)
    with user_errors():
        truth, lines = truth_of(read_annotation(args.annotation), args.video_dir)
        write_text(args.out, json.dumps(truth), durable=True)
    for line in lines:
        print(line, file=sys.stderr)
    print(f"{args.out}: {sum(len(entry['tubes']) for entry in truth.values())} tubes of {len(truth)} videos")


if __name__ == "__main__":
    main()

"""Turn videos into folders of JPEG frames, `JPG_DIR/Class/video/image_%05d.jpg` from 1, with an info.json each.

Videos of other data sets than UCF-101 may lie in any folder, or in none; their frames lie in the same one of JPG_DIR.
Frames are 240 pixels high but never larger than the video. info.json keeps the video's own width, height and rate.
A folder appears when it is complete, so the script can be stopped and started again with the same flags: what is
finished is skipped, what is not is redone. What was finished with another --size or --fps is an error.
"""

import argparse
import json
import math
import os
import shutil
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from simplejpeg import encode_jpeg
from tqdm import tqdm

from datasets import DATASETS
from datasets.reading import FRAME_NAME, INFO_NAME, VIDEO_EXTENSIONS, decode
from options.errors import CommandLine, user_errors
from util_scripts.processes import process_pool

HEIGHT, QUALITY = 240, 95  # pixels, and of JPEG
COMPLETE = 0.95  # a file that has less of the frames that its header promises has been cut off
LONGEST_NAME = 255  # bytes


def finished(folder: Path) -> dict | None:
    """The info.json of a folder of frames; None where it is not whole, or promises more frames than there are."""
    try:
        info = json.loads((folder / INFO_NAME).read_text())
        with os.scandir(folder) as entries:
            whole = 0 < info["n_frames"] <= sum(entry.name.endswith(".jpg") for entry in entries)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return info if whole else None


def made_alike(info: dict, *, size: int, fps: Fraction | None) -> bool:
    """Whether the frames of a finished folder are those that these settings make, as far as its info.json tells."""
    if "asked_size" in info:
        return (info["asked_size"], info.get("asked_fps")) == (size, _plain(fps))
    try:  # written before the settings were
        same_size = info["stored_height"] == min(size, info["height"])
        return same_size and (fps is None or info["fps"] is None or info["fps"] <= float(fps) * (1 + 1e-6))
    except (KeyError, TypeError):
        return True


def _plain(fps: Fraction | None) -> str | None:
    return None if fps is None else str(fps)


def convert(file: Path, folder: Path, *, size: int, fps: Fraction | None) -> str | None:
    """Write the frames of one video.

    Args:
        file: the video.
        folder: where the frames go; older frames in it are removed once the new ones are whole.
        size: height of the frames in pixels; smaller videos keep theirs.
        fps: frames a second to keep at most; None for all.
    Returns:
        None, or a sentence about a video that breaks off: the frames before are kept.
    Raises:
        ValueError: no frame can be decoded, or the folder holds something else; nothing is lost or left behind.
    """
    part = folder.with_name(f".{folder.name}.part")
    if len(os.fsencode(part.name)) > LONGEST_NAME:
        raise ValueError(f"{file}: its name is too long for a folder of frames; give it a shorter one")
    check_own(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    read = written = 0
    warning = None
    try:
        for picture, stream in decode(file):
            if read == 0:
                height, width = picture.shape[:2]
                shown = (min(size, height), max(round(width * min(size / height, 1)), 1))
                rate, promised = stream.average_rate, stream.frames
                keep = min(fps / rate, Fraction(1)) if fps and rate else Fraction(1)
            if math.floor(read * keep) > math.floor((read - 1) * keep):
                written += 1
                if shown != picture.shape[:2]:  # which a stream may change midway
                    picture = np.asarray(Image.fromarray(picture).resize(shown[::-1], Image.Resampling.BICUBIC))
                (part / FRAME_NAME.format(written)).write_bytes(
                    encode_jpeg(picture, quality=QUALITY, colorsubsampling="420"))
            read += 1
    except ValueError as error:
        if read == 0:
            shutil.rmtree(part)
            raise
        warning = str(error)
    if warning is None and read < COMPLETE * promised:
        warning = f"{file}: breaks off after {read} of {promised} frames"
    info = {"n_frames": written, "width": width, "height": height, "fps": float(rate * keep) if rate else None,
            "stored_width": shown[1], "stored_height": shown[0], "asked_size": size, "asked_fps": _plain(fps)}
    (part / INFO_NAME).write_text(json.dumps(info))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    return warning


def check_own(folder: Path) -> None:
    """Raise a ValueError where a folder that frames are to replace holds anything but frames."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if not (entry.name == INFO_NAME or entry.name.endswith(".jpg")):
                    raise ValueError(f"{entry.path}: is in the way of frames; move it, or choose another JPG_DIR")


def _job(files: tuple[Path, Path], *, size: int, fps: Fraction | None) -> tuple[str | None, str | None]:
    """(warning, None) or (None, error): exceptions of one video must not stop the others."""
    try:
        return convert(*files, size=size, fps=fps), None
    except ValueError as error:
        return None, str(error)


def find_jobs(avi_dir: Path, jpg_dir: Path, *, class_folders: bool = True) -> dict[Path, Path]:
    """Folder of frames -> video file, for every `Class/video.avi` under `avi_dir`, or every video at any depth.

    Raises:
        FileNotFoundError: no such folder, or no video in it. ValueError: two videos of one name, or a video called as
        a folder of others is.
    """
    if not avi_dir.is_dir():
        raise FileNotFoundError(f"{avi_dir}: no such folder; give the folder that holds the class folders of videos")
    jobs: dict[Path, Path] = {}
    for file in sorted(avi_dir.glob("[!.]*/[!.]*") if class_folders else avi_dir.rglob("[!.]*")):
        if file.suffix.lower() in VIDEO_EXTENSIONS and file.is_file():
            folder = jpg_dir / file.relative_to(avi_dir).with_suffix("")
            if folder in jobs:
                raise ValueError(f"{file} and {jobs[folder]} would share the folder {folder}; remove one of them")
            jobs[folder] = file
    for folder, file in jobs.items():
        above = next((parent for parent in folder.parents if parent in jobs), None)
        if above is not None:
            raise ValueError(f"{jobs[above]}: its frames would share {above} with those of {file}; rename one of them")
    if not jobs:
        raise FileNotFoundError(f"{avi_dir}: no video in it; videos are expected as {avi_dir}/"
                                + ("Class/video.avi" if class_folders else "video.avi, in folders or not"))
    return jobs


def frames_a_second(text: str) -> Fraction:
    """Frames a second: 25, 29.97 or 30000/1001."""
    try:
        fps = Fraction(text)
    except (ValueError, ZeroDivisionError):
        fps = Fraction(0)
    if fps <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; give a finite number above 0: 25, 29.97 or 30000/1001")
    return fps


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("avi_dir", type=Path, help="folder of class folders of video files")
    parser.add_argument("jpg_dir", type=Path, help="folder to write the frames to")
    parser.add_argument("dataset", choices=sorted(DATASETS), help="layout of AVI_DIR")
    parser.add_argument("--n_jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--size", type=int, default=HEIGHT, help="height of the frames in pixels (default: 240)")
    parser.add_argument("--fps", type=frames_a_second, help="frames a second to keep at most (default: all)")
    args = parser.parse_args(argv)
    with user_errors():
        if args.n_jobs < 1 or args.size < 1:
            raise ValueError("--n_jobs and --size must be above 0")
        jobs = find_jobs(args.avi_dir, args.jpg_dir, class_folders=args.dataset == "ucf101")
        infos = {folder: finished(folder) for folder in jobs}
        for folder, info in infos.items():
            if info is not None and not made_alike(info, size=args.size, fps=args.fps):
                raise ValueError(f"{folder}: was made with another --size or --fps; give these, or another JPG_DIR, or "
                                 "remove this one")
        todo = [(file, folder) for folder, file in jobs.items() if infos[folder] is None]
        with process_pool(args.n_jobs) as pool:
            done = list(tqdm(pool.map(partial(_job, size=args.size, fps=args.fps), todo), total=len(todo),
                             unit="video", desc="frames"))
        broken = [error for _, error in done if error]
        for message in [f"warning: {warning}" for warning, _ in done if warning] + [f"broken: {e}" for e in broken]:
            print(message, file=sys.stderr)
        print(f"{len(todo) - len(broken)} videos converted, {len(jobs) - len(todo)} were there already, "
              f"{len(broken)} broken")
        if len(broken) == len(jobs):
            raise ValueError(f"{args.avi_dir}: none of the videos can be read; fetch them again")


if __name__ == "__main__":
    main()

"""Turn videos into folders of JPEG frames, `JPG_DIR/Class/video/image_%05d.jpg` from 1, with an info.json each.

Videos of other data sets than UCF-101 may lie in any folder, or in none; their frames lie in the same one of JPG_DIR.
Frames are 240 pixels high but never larger than the video. info.json keeps the video's own width, height and rate.
A folder appears when it is complete, so the script can be stopped and started again with the same flags: what is
finished is skipped, what is not is redone. What was finished with another --size or --fps is an error.
"""

import argparse
import json
import os
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path

from tqdm import tqdm

from datasets import DATASETS
from datasets.reading import INFO_NAME, VIDEO_EXTENSIONS
from machine.cores import cores
from machine.processes import process_pool
from options.errors import CommandLine, user_errors
from util_scripts.storing import HEIGHT, fps_text, write_frame_folder


def finished(folder: Path) -> dict | None:
    """The info.json of a folder of frames; None where it is damaged, or states more frames than there are."""
    try:
        info = json.loads((folder / INFO_NAME).read_text())
        with os.scandir(folder) as entries:
            whole = 0 < info["n_frames"] <= sum(entry.name.endswith(".jpg") for entry in entries)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return info if whole else None


def made_alike(info: dict, *, size: int, fps: Fraction | None) -> bool:
    """Whether a finished folder was made with these settings, as far as its info.json tells."""
    if "asked_size" in info:
        return (info["asked_size"], info.get("asked_fps")) == (size, fps_text(fps))
    try:  # written before the settings were
        same_size = info["stored_height"] == min(size, info["height"])
        return same_size and (fps is None or info["fps"] is None or info["fps"] <= float(fps) * (1 + 1e-6))
    except (KeyError, TypeError):
        return True


def _job(files: tuple[Path, Path], *, size: int, fps: Fraction | None) -> tuple[str | None, str | None]:
    """(warning, None) or (None, error), because an exception of one video would stop the others."""
    try:
        return write_frame_folder(*files, size=size, fps=fps), None
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
    parser.add_argument("--n_jobs", type=int, default=cores(), help="processes (default: one a core)")
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

"""Turn videos into folders of JPEG frames, `JPG_DIR/Class/video/image_%05d.jpg` from 1, with an info.json each.

Videos of other data sets than UCF-101 may lie in any folder, or in none; their frames lie in the same one of JPG_DIR.
The shorter side of frames is 240 pixels, but never larger than the video's. info.json keeps the video's own width,
height and rate, as it is shown.
A folder appears when it is complete, so the script can be stopped and started again with the same flags: what is
finished is skipped, what is not is redone. What was finished with another --size or --fps is an error. Frames that
this script has not made are never replaced: a folder without its info.json is named, and its video left out.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from fractions import Fraction
from functools import partial
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from datasets import DATASETS
from datasets.folders import Walk, previews, tell_endings, tell_unreadable
from datasets.reading import FRAME_NAME, INFO_NAME, VIDEO_EXTENSIONS
from hierarchy.texts import read_json
from machine.cores import cores
from machine.processes import process_pool
from options.errors import CommandLine, user_errors
from util_scripts.storing import SIZE, fps_text, write_frame_folder


def finished(folder: Path) -> dict | None:
    """The info.json of a folder of frames; None where it is damaged, or states more frames than there are."""
    try:
        info = read_json(folder / INFO_NAME)
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
        same_size = min(info["stored_height"], info["stored_width"]) == min(size, info["height"], info["width"])
        return same_size and (fps is None or info["fps"] is None or info["fps"] <= float(fps) * (1 + 1e-6))
    except (KeyError, TypeError):
        return True


def lower(info: dict, *, size: int, fps: Fraction | None) -> bool:
    """Whether a finished folder was made with these settings of a portrait video by an older version, to which `size`
    was the height."""
    try:
        height, width, stored_height, stored_width = (info[name] for name in ("height", "width", "stored_height",
                                                                              "stored_width"))
        if (info.get("asked_size", size), info.get("asked_fps", fps_text(fps))) != (size, fps_text(fps)):
            return False
        return stored_height == min(size, height) and stored_width < min(size, width)
    except (KeyError, TypeError):
        return False


def _job(files: tuple[Path, Path], *, size: int, fps: Fraction | None) -> tuple[str | None, str | None]:
    """(warning, None) or (None, error), because an exception of one video would stop the others."""
    try:
        return write_frame_folder(*files, size=size, fps=fps), None
    except ValueError as error:
        return None, str(error)


def _films(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """The video files among those of a folder, and the others, previews among them."""
    # a link that leads nowhere is told of as a broken video; what is no file, such as a pipe, would never end
    files = [file for file in files if file.is_file() or not file.exists()]
    films = [file for file in files if file.suffix.lower() in VIDEO_EXTENSIONS]
    left_out = previews([file.name for file in films])
    films = [file for file in films if file.name not in left_out]
    return films, [file for file in files if file not in films]


def find_jobs(avi_dir: Path, jpg_dir: Path, *, class_folders: bool = True) -> dict[Path, Path]:
    """Folder of frames -> video file, for every `Class/video.avi` under `avi_dir`, or every video at any depth.

    Raises:
        FileNotFoundError: no such folder, or no video in it. ValueError: two videos of one name, or a video called as
        a folder of others is.
    """
    if not avi_dir.is_dir():
        raise FileNotFoundError(f"{avi_dir}: no such folder; give the folder that holds the class folders of videos")
    jobs: dict[Path, Path] = {}
    others: list[str] = []
    stray: list[str] = []
    walk = Walk(avi_dir)
    for here, folders, names in walk:
        if FRAME_NAME.format(1) in names:  # frames that lie in the same folder, or below it
            folders.clear()
            continue
        depth = len(here.relative_to(avi_dir).parts)
        if class_folders and depth == 1:
            folders.clear()
        films, rest = _films(here / name for name in names)
        others += [file.name for file in rest]
        if class_folders and depth == 0:
            stray += [file.name for file in films]
            continue
        for file in films:
            folder = jpg_dir / file.relative_to(avi_dir).with_suffix("")
            if folder in jobs:
                raise ValueError(f"{file} and {jobs[folder]} would share the folder {folder}; rename one of them")
            jobs[folder] = file
    jobs = dict(sorted(jobs.items(), key=lambda job: job[1]))
    tell_unreadable(walk.unreadable)
    for folder, file in jobs.items():
        above = next((parent for parent in folder.parents if parent in jobs), None)
        if above is not None:
            raise ValueError(f"{jobs[above]}: its frames would share {above} with those of {file}; rename one of them")
    if not jobs:
        raise FileNotFoundError(f"{avi_dir}: no video in it; videos are expected as {avi_dir}/"
                                + ("Class/video.avi" if class_folders else "video.avi, in folders or not"))
    tell_endings(avi_dir, others, "videos")
    if stray:
        print(f"{avi_dir}: {len(stray)} videos are left out, which are in no class folder: {stray[0]}", file=sys.stderr)
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
    parser.add_argument("--size", type=int, default=SIZE, help="shorter side of the frames in pixels (default: 240)")
    parser.add_argument("--fps", type=frames_a_second, help="frames a second to keep at most (default: all)")
    args = parser.parse_args(argv)
    with user_errors():
        if args.n_jobs < 1 or args.size < 1:
            raise ValueError("--n_jobs and --size must be above 0")
        jobs = find_jobs(args.avi_dir, args.jpg_dir, class_folders=args.dataset == "ucf101")
        infos = {folder: finished(folder) for folder in jobs}
        infos = {folder: None if info and lower(info, size=args.size, fps=args.fps) else info
                 for folder, info in infos.items()}
        for folder, info in infos.items():
            if info is not None and not made_alike(info, size=args.size, fps=args.fps):
                raise ValueError(f"{folder}: was made with another --size or --fps; give these, or another JPG_DIR")
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
            raise ValueError(f"{args.avi_dir}: no video is converted; {broken[0]}")


if __name__ == "__main__":
    main()

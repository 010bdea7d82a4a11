"""Pack each frame folder of a data set into an HDF5 file of its own, HDF5_DIR/Class/video.hdf5, for --file_type hdf5.

Every file holds the JPEG files' own bytes, and appears when it is complete, so the script can be stopped and started
again: what is finished is skipped, what is not, or is of other frames than its folder, is written again.
"""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from datasets.reading import JpegFolder
from datasets.reading.hdf5 import NAME, Hdf5Frames, write_hdf5
from options.errors import CommandLine, user_errors
from util_scripts.pack_frames import frame_folders, read_files
from util_scripts.processes import process_pool

LONGEST_NAME = 255  # bytes


def convert(folder: Path, file: Path) -> tuple[bool, str | None]:
    """Write the HDF5 file of a frame folder where it is not there yet.

    Returns:
        whether there was anything to do, and None or a sentence about a folder that cannot be read.
    """
    try:
        if file.exists() and Hdf5Frames().info(file) == JpegFolder().info(folder):
            return False, None
    except ValueError:  # one of them is damaged; which, is found out below
        pass
    part = file.with_name(f".{file.name}.part")
    try:
        if len(os.fsencode(part.name)) > LONGEST_NAME:
            raise ValueError(f"{folder}: its name is too long for a file; give it a shorter one")
        frames, info = read_files(folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_hdf5(part, frames, info)
        os.replace(part, file)
    except ValueError as error:
        return True, str(error)
    return True, None


def _job(files: tuple[Path, Path]) -> tuple[bool, str | None]:
    return convert(*files)


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jpg_dir", type=Path, help="folder that generate_video_jpgs wrote")
    parser.add_argument("hdf5_dir", type=Path, help="folder to write the files to")
    parser.add_argument("--n_jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    args = parser.parse_args(argv)
    with user_errors():
        if args.n_jobs < 1:
            raise ValueError("--n_jobs must be above 0")
        folders = list(tqdm(frame_folders(args.jpg_dir), unit="video", desc="looking"))
        if not folders:
            raise FileNotFoundError(f"{args.jpg_dir}: no folder of frames; write some with "
                                    "util_scripts.generate_video_jpgs")
        places = (folder.relative_to(args.jpg_dir) for folder in folders)
        jobs = [(folder, args.hdf5_dir / place.parent / NAME.format(place.name))
                for folder, place in zip(folders, places, strict=True)]
        with process_pool(args.n_jobs) as pool:
            done = list(tqdm(pool.map(_job, jobs, chunksize=4), total=len(jobs), unit="video", desc="packing"))
        broken = [error for _, error in done if error]
        for sentence in broken:
            print(f"left out: {sentence}", file=sys.stderr)
        n_there = sum(not new for new, _ in done)
        print(f"{len(jobs) - n_there - len(broken)} videos packed, {n_there} were there already, {len(broken)} could "
              "not be read")
        if len(broken) == len(jobs):
            raise ValueError(f"{args.jpg_dir}: none of the videos can be read; run generate_video_jpgs again")


if __name__ == "__main__":
    main()

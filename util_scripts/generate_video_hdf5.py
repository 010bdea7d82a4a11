"""Pack each frame folder of a data set into an HDF5 file of its own, HDF5_DIR/Class/video.hdf5, for --file_type hdf5.

Every file holds the JPEG files' own bytes (pictures of other formats are converted), and appears when it is complete,
so the script can be stopped and started again: what is finished is skipped, what is not, or is of other frames than its
folder, is written again.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from datasets.reading.hdf5 import NAME
from machine.cores import cores
from machine.processes import process_pool
from options.errors import CommandLine, user_errors
from util_scripts.storing import frame_folders, write_hdf5_file


def _job(files: tuple[Path, Path]) -> tuple[bool, str | None]:
    return write_hdf5_file(*files)


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jpg_dir", type=Path, help="folder of frame folders, by generate_video_jpgs or others")
    parser.add_argument("hdf5_dir", type=Path, help="folder to write the files to")
    parser.add_argument("--n_jobs", type=int, default=cores(), help="processes (default: one a core)")
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
        print(f"{len(jobs) - n_there - len(broken)} videos packed, {n_there} were there already, {len(broken)} are "
              "left out")
        if len(broken) == len(jobs):
            raise ValueError(f"{args.jpg_dir}: none of the videos is packed; {broken[0]}")


if __name__ == "__main__":
    main()

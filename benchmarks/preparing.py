"""Frames a second that generate_video_jpgs writes on one core, beside the ffmpeg command line doing the same.

    python -m benchmarks.preparing [--videos DIR] [--n_videos 8] [--size 240] [--repeats 5]

Both read the same files, scale them in the same way (bicubic, at most --size pixels high) and write JPEG files of about
the same quality (ours at 95, ffmpeg's at -q:v 2), in turns, in one process and one thread; ratios are medians of the
turns'. Where there is no ffmpeg, that is said, and ours is measured alone.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.films import found_videos, made_videos
from benchmarks.turns import per_second
from options.errors import CommandLine, user_errors
from util_scripts.storing import write_frame_folder


def ours(files: list[Path], folder: Path, size: int) -> None:
    """Frame folders of all files, by this project."""
    for i, file in enumerate(files):
        write_frame_folder(file, folder / f"v{i}", size=size, fps=None)


def ffmpeg(files: list[Path], folder: Path, size: int) -> None:
    """Frame folders of all files, by ffmpeg in one thread."""
    for i, file in enumerate(files):
        (folder / f"v{i}").mkdir(parents=True)
        subprocess.run(["ffmpeg", "-loglevel", "error", "-threads", "1", "-i", file,
                        "-vf", f"scale=-2:'min({size},ih)':flags=bicubic", "-filter_threads", "1", "-threads", "1",
                        "-fps_mode", "passthrough", "-q:v", "2", folder / f"v{i}" / "image_%05d.jpg"], check=True)


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder with video files at any depth (default: some are made)")
    parser.add_argument("--n_videos", type=int, default=8, help="how many of them (default: 8)")
    parser.add_argument("--size", type=int, default=240, help="height of the frames in pixels (default: 240)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: 5)")
    args = parser.parse_args(argv)
    with user_errors(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if min(args.n_videos, args.size, args.repeats) < 1:
            raise ValueError("--n_videos, --size and --repeats must be above 0")
        files = (made_videos(folder / "made", args.n_videos) if args.videos is None
                 else found_videos(args.videos)[:args.n_videos])
        ways = {"ours": ours} | ({"ffmpeg": ffmpeg} if shutil.which("ffmpeg") else {})
        turns: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.repeats):
            for way, prepare in ways.items():
                speed = per_second(1, lambda: prepare(files, folder / way, args.size))  # noqa: B023
                turns[way].append(speed * sum(1 for _ in (folder / way).rglob("*.jpg")))
                shutil.rmtree(folder / way)
        for way, speeds in turns.items():
            print(f"{way:6} {statistics.median(speeds):8.0f} frames/s")
        if "ffmpeg" in turns:
            ratio = statistics.median(a / b for a, b in zip(turns["ours"], turns["ffmpeg"], strict=True))
            print(f"ours / ffmpeg: {ratio:.2f} times as fast")
        else:
            print("no ffmpeg here: nothing to compare with")


if __name__ == "__main__":
    main()

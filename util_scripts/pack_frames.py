"""Pack the frame folders of a data set into a few large files and an index, for --file_type packed.

Every file is a copy of the JPEG files' own bytes. The index is written last: a folder without it is not complete. Where
a packed set lies already, the new files have other numbers, and the old ones go when the new index has taken the place
of theirs, so that one of the two sets is whole at any moment.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.reading import FRAME_NAME, JpegFolder, VideoInfo
from datasets.reading.packed import INDEX_NAME, SHARD_NAME, index_table, packed_shards
from options.errors import CommandLine, user_errors


def frame_folders(jpg_dir: Path) -> Iterator[Path]:
    """Every folder under `jpg_dir` that holds a first frame, in the order of the names.

    Raises:
        ValueError: `jpg_dir` is itself the folder of one video.
    """
    if (jpg_dir / FRAME_NAME.format(1)).is_file():
        raise ValueError(f"{jpg_dir}: holds the frames of a single video; give the folder that holds all of them")
    for folder, folders, files in os.walk(jpg_dir):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if FRAME_NAME.format(1) in files:
            folders.clear()
            yield Path(folder)


def read_files(folder: Path) -> tuple[list[bytes], VideoInfo]:
    """The bytes of the JPEG files of a video, and what is known of its source.

    Raises:
        ValueError: where frames are missing or are no JPEG files.
    """
    info = JpegFolder().info(folder)
    files = []
    for i in range(1, info.n_frames + 1):
        file = folder / FRAME_NAME.format(i)
        try:
            files.append(file.read_bytes())
        except OSError as error:
            raise ValueError(f"{file}: cannot be read ({error.strerror}); run generate_video_jpgs again") from error
        if not files[-1].startswith(b"\xff\xd8"):
            raise ValueError(f"{file}: not a JPEG file; run generate_video_jpgs again for this video")
    return files, info


def read_video(folder: Path) -> tuple[bytes, tuple[int, int, int, float]]:
    """The bytes of a video in a shard, and its frames, height, width and rate (nan where unknown).

    Raises:
        ValueError: as `read_files`, and where a shard could not address them.
    """
    files, info = read_files(folder)
    bounds = 4 * (len(files) + 1) + np.cumsum([0, *map(len, files)])
    if bounds[-1] >= 2**32:
        raise ValueError(f"{folder}: more than 4 GB of frames; take fewer or smaller ones with generate_video_jpgs")
    content = bounds.astype("<u4").tobytes() + b"".join(files)
    return content, (info.n_frames, info.height, info.width, info.fps or float("nan"))


def pack(jpg_dir: Path, out_dir: Path, *, shard_bytes: int) -> tuple[int, int, list[str]]:
    """Pack all frame folders under `jpg_dir`.

    Returns:
        videos, shards, and a sentence for every video that cannot be read and is left out.
    Raises:
        FileNotFoundError: no frame folder there. ValueError: none that can be read; an older set in `out_dir` stays.
    """
    folders = list(tqdm(frame_folders(jpg_dir), unit="video", desc="looking"))
    if not folders:
        raise FileNotFoundError(f"{jpg_dir}: no folder of frames; write some with util_scripts.generate_video_jpgs")
    out_dir.mkdir(parents=True, exist_ok=True)
    taken = packed_shards(out_dir)
    numbers = (number for number in itertools.count() if number not in taken)
    rows, broken, shards, size, file = [], [], [], 0, None
    try:
        for folder in tqdm(folders, unit="video", desc="packing"):
            try:
                content, about = read_video(folder)
            except ValueError as error:
                broken.append(str(error))
                continue
            if file is None or size + len(content) > shard_bytes:
                if file is not None:
                    file.close()
                shards.append(next(numbers))
                file, size = (out_dir / SHARD_NAME.format(shards[-1])).open("wb"), 0
            rows.append((folder.relative_to(jpg_dir).as_posix(), shards[-1], size, *about))
            size += file.write(content)
    finally:
        if file is not None:
            file.close()
    if not rows:
        raise ValueError(f"{jpg_dir}: none of the {len(folders)} videos can be read; {broken[0]}")
    part = out_dir / f".{INDEX_NAME}"
    np.save(part, index_table(rows), allow_pickle=False)
    os.replace(part, out_dir / INDEX_NAME)
    own = {SHARD_NAME.format(number) for number in shards}
    for shard in out_dir.glob("shard_*.bin"):  # of the older set, and of a run that was killed
        if shard.name not in own:
            shard.unlink()
    return len(rows), len(shards), broken


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jpg_dir", type=Path, help="folder that generate_video_jpgs wrote")
    parser.add_argument("out_dir", type=Path, help="folder to write the shards and index.npy to")
    parser.add_argument("--shard_gb", type=float, default=4.0, help="GB of one file at most (default: 4)")
    args = parser.parse_args(argv)
    with user_errors():
        if not 0 < args.shard_gb < 1e9:
            raise ValueError(f"--shard_gb must be above 0, and finite, not {args.shard_gb}")
        videos, shards, broken = pack(args.jpg_dir, args.out_dir, shard_bytes=int(args.shard_gb * 1e9))
        for sentence in broken:
            print(f"left out: {sentence}", file=sys.stderr)
    print(f"{args.out_dir}: {videos} videos in {shards} files; {len(broken)} could not be read")


if __name__ == "__main__":
    main()

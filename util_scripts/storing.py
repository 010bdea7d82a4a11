"""Stores videos as folders of frames, as HDF5 files and as packed files; itself no script."""

import contextlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from simplejpeg import encode_jpeg
from tqdm import tqdm

from datasets.reading import FRAME_NAME, INFO_NAME, JpegFolder, VideoInfo, decode
from datasets.reading.hdf5 import Hdf5Frames, write_hdf5
from datasets.reading.packed import INDEX_NAME, SHARD_NAME, index_table, packed_shards
from machine.writing import LONGEST_NAME, check_writable, naming, part_of, replacing, write_whole

HEIGHT, QUALITY = 240, 95  # default height of frames in pixels, JPEG quality
COMPLETE = 0.95  # a file that has less of the frames that its header promises has been cut off


def fps_text(fps: Fraction | None) -> str | None:
    """A frame rate as info.json has it."""
    return None if fps is None else str(fps)


def write_frame_folder(file: Path, folder: Path, *, size: int, fps: Fraction | None) -> str | None:
    """Write the frames of one video.

    Args:
        file: the video.
        folder: where the frames go; older frames in it are removed when the new ones are complete.
        size: height of the frames in pixels; smaller videos keep theirs.
        fps: frames a second to keep at most; None for all.
    Returns:
        None, or a sentence about a video that breaks off, whose frames before the break are kept.
    Raises:
        ValueError: no frame can be decoded, or the folder holds something else; nothing is lost or left behind.
    """
    part = folder.with_name(f".{folder.name}.part")
    if len(os.fsencode(part.name)) > LONGEST_NAME:
        raise ValueError(f"{file}: its name is too long for a folder of frames; give it a shorter one")
    check_own(folder)
    shutil.rmtree(part, ignore_errors=True)
    try:
        with naming(folder):
            return _write_frames(file, part, folder, size=size, fps=fps)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _write_frames(file: Path, part: Path, folder: Path, *, size: int, fps: Fraction | None) -> str | None:
    """Write the frames of one video into the folder `part`, and move it to `folder`."""
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
            raise
        warning = str(error)
    if warning is None and read < COMPLETE * promised:
        warning = f"{file}: breaks off after {read} of {promised} frames"
    info = {"n_frames": written, "width": width, "height": height, "fps": float(rate * keep) if rate else None,
            "stored_width": shown[1], "stored_height": shown[0], "asked_size": size, "asked_fps": fps_text(fps)}
    (part / INFO_NAME).write_text(json.dumps(info))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    return warning


def check_own(folder: Path) -> None:
    """Raise a ValueError where a folder holds anything but frames, which new frames would replace."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if not (entry.name == INFO_NAME or entry.name.endswith(".jpg")):
                    raise ValueError(f"{entry.path}: is in the way of frames; move it, or choose another JPG_DIR")


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
    """The bytes of the JPEG files of a video, and its source's info.

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


def write_hdf5_file(folder: Path, file: Path) -> tuple[bool, str | None]:
    """Write the HDF5 file of a frame folder, unless it is there and up to date.

    Returns:
        True where the file was missing or outdated; a sentence about a folder that cannot be read, or None.
    """
    try:
        if file.exists() and Hdf5Frames().info(file) == JpegFolder().info(folder):
            return False, None
    except ValueError:  # one of them is damaged; which, is found out below
        pass
    part = file.with_name(f".{file.name}.part")  # what a killed script left is written over
    try:
        if len(os.fsencode(part.name)) > LONGEST_NAME:
            raise ValueError(f"{folder}: its name is too long for a file; give it a shorter one")
        frames, info = read_files(folder)
        with replacing(file, part=part):
            write_hdf5(part, frames, info)
    except ValueError as error:
        return True, str(error)
    return True, None


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
    check_writable(out_dir)
    taken = packed_shards(out_dir)
    numbers = (number for number in itertools.count() if number not in taken)
    rows, broken, shards, size = [], [], [], 0
    file: BinaryIO | None = None
    try:
        for folder in tqdm(folders, unit="video", desc="packing"):
            try:
                content, about = read_video(folder)
            except ValueError as error:
                broken.append(str(error))
                continue
            with naming(out_dir):
                if file is None or size + len(content) > shard_bytes:
                    _finish(file, shards)
                    number = next(numbers)
                    shards.append(out_dir / SHARD_NAME.format(number))
                    file, size = part_of(shards[-1]).open("wb"), 0
                rows.append((folder.relative_to(jpg_dir).as_posix(), number, size, *about))
                size += file.write(content)
        if not rows:
            raise ValueError(f"{jpg_dir}: none of the {len(folders)} videos can be read; {broken[0]}")
        with naming(out_dir):
            _finish(file, shards)
        write_whole(out_dir / INDEX_NAME, lambda index: np.save(index, index_table(rows), allow_pickle=False))
    except BaseException:
        if file is not None:
            with contextlib.suppress(OSError):  # the disk is full, and there is a rest to write
                file.close()
        told = {SHARD_NAME.format(number) for number in packed_shards(out_dir)}  # those of before, or at the end these
        for shard in shards:
            part_of(shard).unlink(missing_ok=True)
            if shard.name not in told:
                shard.unlink(missing_ok=True)
        raise
    own = {shard.name for shard in shards}
    for shard in out_dir.glob("shard_*.bin*"):  # of the older set, and of a run that was killed
        if shard.name not in own:
            shard.unlink()
    return len(rows), len(shards), broken


def _finish(file: BinaryIO | None, shards: Sequence[Path]) -> None:
    """Put the shard that was written last on the disk, and into its place."""
    if file is not None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(file.name, shards[-1])

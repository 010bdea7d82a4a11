"""Stores videos as folders of frames, as HDF5 files and as packed files; itself no script."""

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from simplejpeg import encode_jpeg
from tqdm import tqdm

from datasets.folders import Walk, tell_unreadable
from datasets.reading import FRAME_NAME, INFO_NAME, FrameTimes, JpegFolder, VideoInfo
from datasets.reading.clock import FrameClock, Thinning
from datasets.reading.decoding import frames_of_file, picture_of
from datasets.reading.hdf5 import Hdf5Frames, frame_bytes, frame_lengths, write_hdf5
from datasets.reading.jpg import REMEDY
from datasets.reading.naming import is_jpeg, is_picture
from datasets.reading.packed import INDEX_NAME, SHARD_NAME, TIMES_NAME, index_table, packed_shards, write_times
from datasets.reading.pictures import rgb_of
from datasets.reading.promise import promise_of
from datasets.reading.resizing import resized, stored_size
from machine.writing import LONGEST_NAME, check_writable, naming, part_of, replacing, write_whole
from util_scripts.owning import (
    JPEG,
    check_own_frames,
    check_own_hdf5,
    check_own_index,
    check_own_part,
    own_pack,
    taken_numbers,
)

SIZE, QUALITY = 240, 95  # default shorter side of frames in pixels, JPEG quality


def fps_text(fps: Fraction | None) -> str | None:
    """A frame rate as info.json has it."""
    return None if fps is None else str(fps)


def write_frame_folder(file: Path, folder: Path, *, size: int, fps: Fraction | None) -> str | None:
    """Write the frames of one video.

    Args:
        file: the video.
        folder: where the frames go; frames of an earlier run are removed when the new ones are complete.
        size: shorter side of the frames in pixels; smaller videos keep theirs.
        fps: frames a second to keep at most, evenly in time; None for all.
    Returns:
        None, or a sentence about a video that breaks off, whose frames before the break are kept.
    Raises:
        ValueError: no frame can be decoded, or the folder holds something else; nothing is lost or left behind.
    """
    part = folder.with_name(f".{folder.name}.part")
    if len(os.fsencode(part.name)) > LONGEST_NAME:
        raise ValueError(f"{file}: its name is too long for a folder of frames; give it a shorter one")
    check_own_frames(folder)
    check_own_part(part)
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
    read, kept, warning = 0, [], None
    try:
        for frame, stream in frames_of_file(file):
            if read == 0:
                clock, thinning, promise = FrameClock(stream), fps and Thinning(fps), promise_of(stream, file)
            clock.show(frame)
            read += 1
            if thinning and not thinning.keeps(*clock.time()):
                continue
            picture = picture_of(frame, file, stream)
            if not kept:
                height, width = picture.shape[:2]
                shown = stored_size(height, width, size)
            kept.append(read - 1)
            if shown != picture.shape[:2]:  # which a stream may change midway
                picture = resized(picture, shown)
            (part / FRAME_NAME.format(len(kept))).write_bytes(
                encode_jpeg(picture, quality=QUALITY, colorsubsampling="420"))
    except ValueError as error:
        if not kept:
            raise
        warning = str(error)
    if warning is None and (after := promise.broken(file, read, clock.times())):
        warning = f"{file}: breaks off after {after}; fetch it again, or take the frames as they are"
    times = times_of_kept(clock, kept, fps)
    info = {"n_frames": len(kept), "width": width, "height": height, "fps": None if times is None else times.fps,
            "stored_width": shown[1], "stored_height": shown[0], "asked_size": size, "asked_fps": fps_text(fps)}
    if times is not None and times.edges is not None:
        info["times"] = times.listed()
    (part / INFO_NAME).write_text(json.dumps(info))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    return warning


def times_of_kept(clock: FrameClock, kept: Sequence[int], fps: Fraction | None) -> FrameTimes | None:
    """The times of the frames that are kept of a video, `fps` a second at most; None where nothing tells."""
    times = clock.times()
    if times is None or fps is None:
        return times
    rate = clock.rate if clock.rate and float(clock.rate) == times.fps else Fraction(times.fps)
    everything = len(kept) == times.n_frames and (times.edges is not None or fps >= rate)
    return times if everything else times.some(kept, float(min(fps, rate)))


def frame_folders(jpg_dir: Path) -> Iterator[Path]:
    """Every folder under `jpg_dir` that holds frames, in the order of the names, also through links.

    Frames are pictures in a folder below which no other holds any.

    Raises:
        ValueError: `jpg_dir` is itself the folder of one video.
    """
    pictured: list[Path] = []
    walk = Walk(jpg_dir)
    for folder, folders, files in walk:
        if any(is_picture(name) and (folder / name).is_file() for name in files):
            pictured.append(folder)
            if FRAME_NAME.format(1) in files:
                folders.clear()
    tell_unreadable(walk.unreadable)
    for folder, after in zip(pictured, [*pictured[1:], None], strict=False):
        if after is not None and folder in after.parents:
            continue
        if folder == jpg_dir:
            raise ValueError(f"{jpg_dir}: holds the frames of a single video; give the folder that holds all of them")
        yield folder


def read_files(folder: Path) -> tuple[list[bytes], VideoInfo]:
    """The bytes of a video's frames as JPEG files, and its source's info; pictures of other formats are converted.

    Raises:
        ValueError: where frames are missing or are no pictures.
    """
    reader, files = JpegFolder(), []
    info = reader.info(folder)
    for name in reader.names(folder):
        file = folder / name
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ValueError(f"{file}: cannot be read ({error.strerror}); {REMEDY}") from error
        if not content.startswith(JPEG):
            content = encode_jpeg(rgb_of(content, str(file), REMEDY), quality=QUALITY, colorsubsampling="444")
        files.append(content)
    return files, info


def _up_to_date(file: Path, folder: Path) -> bool:
    """Whether an HDF5 file holds the frames of a folder: by their number and sizes where it is younger than all of
    them, else by their bytes."""
    reader = JpegFolder()
    stored = Hdf5Frames()
    if (stored.info(file), stored.times(file)) != (reader.info(folder), reader.times(folder)):
        return False
    states = [os.stat(folder / name) for name in reader.names(folder)]
    lengths = frame_lengths(file)
    alike = lengths is not None and all(state.st_size == length or not is_jpeg(name) for state, length, name
                                        in zip(states, lengths, reader.names(folder), strict=True))
    if alike and max(state.st_mtime_ns for state in (*states, os.stat(folder))) < os.stat(file).st_mtime_ns:
        return True
    return read_files(folder)[0] == frame_bytes(file)


def write_hdf5_file(folder: Path, file: Path) -> tuple[bool, str | None]:
    """Write the HDF5 file of a frame folder, unless it is there and up to date.

    Returns:
        True where the file was missing or outdated; a sentence about a folder that cannot be read, or a file of others
        that is in the way, or None.
    """
    try:
        if file.exists() and _up_to_date(file, folder):
            return False, None
    except (OSError, ValueError):  # one of them is damaged; which, is found out below
        pass
    part = file.with_name(f".{file.name}.part")  # what a killed script left is written over
    try:
        if len(os.fsencode(part.name)) > LONGEST_NAME:
            raise ValueError(f"{folder}: its name is too long for a file; give it a shorter one")
        check_own_hdf5(file)
        frames, info = read_files(folder)
        with replacing(file, part=part):
            write_hdf5(part, frames, info, JpegFolder().times(folder))
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
        FileNotFoundError: no frame folder there. ValueError: none that can be read, or an index.npy of others in
            `out_dir`; what is there stays.
    """
    folders = list(tqdm(frame_folders(jpg_dir), unit="video", desc="looking"))
    if not folders:
        raise FileNotFoundError(f"{jpg_dir}: no folder of frames; write some with util_scripts.generate_video_jpgs")
    check_own_index(out_dir)
    check_writable(out_dir)
    taken = taken_numbers(out_dir) | packed_shards(out_dir)
    numbers = (number for number in itertools.count() if number not in taken)
    rows, times, broken, shards, size = [], {}, [], [], 0
    file: BinaryIO | None = None
    try:
        for folder in tqdm(folders, unit="video", desc="packing"):
            try:
                content, about = read_video(folder)
                shown = JpegFolder().times(folder)
            except ValueError as error:
                broken.append(str(error))
                continue
            with naming(out_dir):
                if file is None or size + len(content) > shard_bytes:
                    _finish(file, shards)
                    number = next(numbers)
                    shards.append(out_dir / SHARD_NAME.format(number))
                    file, size = part_of(shards[-1]).open("wb"), 0
                place = folder.relative_to(jpg_dir).as_posix()
                rows.append((place, number, size, *about))
                if shown is not None and shown.edges is not None:
                    times[place] = shown
                size += file.write(content)
        if not rows:
            raise ValueError(f"{jpg_dir}: none of the {len(folders)} videos can be read; {broken[0]}")
        with naming(out_dir):
            _finish(file, shards)
        table, uneven = index_table(rows), out_dir / TIMES_NAME.format(rows[0][1])
        if times:
            write_whole(uneven, lambda side: write_times(side, table, times))
        older = own_pack(out_dir)
        write_whole(out_dir / INDEX_NAME, lambda index: np.save(index, table, allow_pickle=False))
    except BaseException:
        if file is not None:
            with contextlib.suppress(OSError):  # the disk is full, and there is a rest to write
                file.close()
        told = {SHARD_NAME.format(number) for number in packed_shards(out_dir)}  # those of before, or at the end these
        for shard in shards:
            part_of(shard).unlink(missing_ok=True)
            if shard.name not in told:
                shard.unlink(missing_ok=True)
        if rows and shards[0].name not in told:
            (out_dir / TIMES_NAME.format(rows[0][1])).unlink(missing_ok=True)
        raise
    for other in older - {*shards, uneven}:
        other.unlink(missing_ok=True)
    return len(rows), len(shards), broken


def _finish(file: BinaryIO | None, shards: Sequence[Path]) -> None:
    """Put the shard that was written last on the disk, and into its place."""
    if file is not None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(file.name, shards[-1])

"""Stores videos as folders of frames, as HDF5 files and as packed files; itself no script."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image
from simplejpeg import encode_jpeg
from tqdm import tqdm

from datasets.reading import FRAME_NAME, INFO_NAME, FrameTimes, JpegFolder, VideoInfo
from datasets.reading.clock import FrameClock, Thinning
from datasets.reading.decoding import frames_of_file, picture_of
from datasets.reading.hdf5 import Hdf5Frames, write_hdf5
from datasets.reading.packed import INDEX_NAME, SHARD_NAME, TIMES_NAME, index_table, packed_shards, write_times
from datasets.reading.streams import promised_frames

HEIGHT, QUALITY = 240, 95  # default height of frames in pixels, JPEG quality
COMPLETE = 0.95  # a file that has less of the frames that its header promises has been cut off
LONGEST_NAME = 255  # bytes


def fps_text(fps: Fraction | None) -> str | None:
    """A frame rate as info.json has it."""
    return None if fps is None else str(fps)


def write_frame_folder(file: Path, folder: Path, *, size: int, fps: Fraction | None) -> str | None:
    """Write the frames of one video.

    Args:
        file: the video.
        folder: where the frames go; older frames in it are removed when the new ones are complete.
        size: height of the frames in pixels; smaller videos keep theirs.
        fps: frames a second to keep at most, evenly in time; None for all.
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
    part.mkdir(parents=True)
    read, kept, warning = 0, [], None
    try:
        for frame, stream in frames_of_file(file):
            if read == 0:
                clock, thinning, promised = FrameClock(stream), fps and Thinning(fps), promised_frames(stream)
            clock.show(frame)
            read += 1
            if thinning and not thinning.keeps(*clock.time()):
                continue
            picture = picture_of(frame, file)
            if not kept:
                height, width = picture.shape[:2]
                shown = (min(size, height), max(round(width * min(size / height, 1)), 1))
            kept.append(read - 1)
            if shown != picture.shape[:2]:  # which a stream may change midway
                picture = np.asarray(Image.fromarray(picture).resize(shown[::-1], Image.Resampling.BICUBIC))
            (part / FRAME_NAME.format(len(kept))).write_bytes(
                encode_jpeg(picture, quality=QUALITY, colorsubsampling="420"))
    except ValueError as error:
        if not kept:
            shutil.rmtree(part)
            raise
        warning = str(error)
    if warning is None and read < COMPLETE * promised:
        warning = f"{file}: breaks off after {read} of {promised} frames"
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
        new, old = Hdf5Frames(), JpegFolder()
        if file.exists() and (new.info(file), new.times(file)) == (old.info(folder), old.times(folder)):
            return False, None
    except ValueError:  # one of them is damaged; which, is found out below
        pass
    part = file.with_name(f".{file.name}.part")
    try:
        if len(os.fsencode(part.name)) > LONGEST_NAME:
            raise ValueError(f"{folder}: its name is too long for a file; give it a shorter one")
        frames, info = read_files(folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_hdf5(part, frames, info, JpegFolder().times(folder))
        os.replace(part, file)
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
    out_dir.mkdir(parents=True, exist_ok=True)
    taken = packed_shards(out_dir)
    numbers = (number for number in itertools.count() if number not in taken)
    rows, times, broken, shards, size, file = [], {}, [], [], 0, None
    try:
        for folder in tqdm(folders, unit="video", desc="packing"):
            try:
                content, about = read_video(folder)
                shown = JpegFolder().times(folder)
            except ValueError as error:
                broken.append(str(error))
                continue
            if file is None or size + len(content) > shard_bytes:
                if file is not None:
                    file.close()
                shards.append(next(numbers))
                file, size = (out_dir / SHARD_NAME.format(shards[-1])).open("wb"), 0
            place = folder.relative_to(jpg_dir).as_posix()
            rows.append((place, shards[-1], size, *about))
            if shown is not None and shown.edges is not None:
                times[place] = shown
            size += file.write(content)
    finally:
        if file is not None:
            file.close()
    if not rows:
        raise ValueError(f"{jpg_dir}: none of the {len(folders)} videos can be read; {broken[0]}")
    part = out_dir / f".{INDEX_NAME}"
    table = index_table(rows)
    if times:
        write_times(out_dir / TIMES_NAME.format(shards[0]), table, times)
    else:
        (out_dir / TIMES_NAME.format(shards[0])).unlink(missing_ok=True)  # of a run that was killed
    np.save(part, table, allow_pickle=False)
    os.replace(part, out_dir / INDEX_NAME)
    own = {*map(SHARD_NAME.format, shards), TIMES_NAME.format(shards[0])}
    for other in (*out_dir.glob("shard_*.bin"), *out_dir.glob("times_*.npz")):  # of an older set, or a killed run's
        if other.name not in own:
            other.unlink()
    return len(rows), len(shards), broken

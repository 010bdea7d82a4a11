"""Which pictures of a folder are the frames of a video, and in which order, whoever named them."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

FRAME_NAME = "image_{:05d}.jpg"  # as generate_video_jpgs writes them, numbered from 1
OWN_NAME = re.compile(r"image_[0-9]{5,}\.jpg")
# The endings of pictures, and what is one format among them.
IMAGES = {".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WebP",
          ".bmp": "BMP", ".dib": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PNM", ".pgm": "PNM", ".pnm": "PNM",
          ".jp2": "JPEG 2000", ".avif": "AVIF", ".tga": "TGA"}
FLOW = "flow"  # what the names of frames of optical flow begin with that lie beside a video's own
SCHEME = "image_00001.jpg, image_00002.jpg, ..."
NUMBER = re.compile(r"([0-9]+)")


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its name."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGES


def is_jpeg(name: str) -> bool:
    """Whether a file is a JPEG file by its name."""
    return IMAGES.get(os.path.splitext(name)[1].lower()) == "JPEG"


def frame_names(folder: Path, *, gaps: bool = False) -> list[str]:
    """The names of a folder's frames, in the order of their numbers.

    Names differ by one number, such as image_00001.jpg, 00000.PNG, frame_1.webp or v_Archery_g01_c01_0001.jpg. It
    counts on from any first one, in steps of any width. Pictures without a number and frames of optical flow
    (flow_x_00001.jpg) are passed over where there are others.

    Args:
        gaps: whether numbers may be missing.
    Raises:
        ValueError: where there is no such folder, no picture, or their order is not clear; with the remedy.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if is_picture(entry.name)
                           and (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)))
    except OSError as error:
        raise ValueError(f"{folder}: no such folder of frames; run generate_video_jpgs or check the paths") from error
    if not names:
        raise ValueError(f"{folder}: no frame such as image_00001.jpg in it; put in pictures, or run "
                         "generate_video_jpgs for this video")
    own = [name for name in names if OWN_NAME.fullmatch(name)]
    numbers, names = zip(*sorted(_numbered(folder, own or _of_video(names))), strict=True)
    if not gaps:
        _check_steps(folder, names, numbers, own=bool(own))
    return list(names)


def _of_video(names: Sequence[str]) -> list[str]:
    """The names without those of optical flow and those without a number, unless there are no others."""
    for out in (lambda name: name.lower().startswith(FLOW), lambda name: not NUMBER.search(os.path.splitext(name)[0])):
        names = [name for name in names if not out(name)] or names
    return list(names)


def _numbered(folder: Path, names: Sequence[str]) -> list[tuple[int, str]]:
    """Each name with the number by which it differs from the others; of a single one with its last.

    Raises:
        ValueError: where they differ in more, naming two of them.
    """
    if len(names) == 1:
        return [(int(NUMBER.findall(f"0{names[0]}")[-1]), names[0])]
    parts = [NUMBER.split(os.path.splitext(name)[0]) for name in names]  # text, digits, text, ...
    formats = Counter(IMAGES[os.path.splitext(name)[1].lower()] for name in names)
    if len(formats) > 1:
        one, other = (next(name for name in names if IMAGES[os.path.splitext(name)[1].lower()] == kind)
                      for kind in list(formats)[:2])
        raise ValueError(f"{folder}: holds pictures of two formats, {one} and {other}; move those that are no frames "
                         f"to another folder, or convert all to one format and name them {SCHEME}")
    texts: dict[tuple[str, ...], str] = {}
    for part, name in zip(parts, names, strict=True):
        texts.setdefault(tuple(part[::2]), name)
    if len(texts) > 1:
        one, other, *_ = texts.values()
        raise ValueError(f"{folder}: pictures are named in two ways, {one} and {other}; move those that are no frames "
                         f"of this video to another folder, or name all of them {SCHEME} in their order")
    columns = [[int(part[i]) for part in parts] for i in range(1, len(parts[0]), 2)]
    varying = [column for column in columns if len(set(column)) > 1] or [[0] * len(names)]
    if len(varying) > 1:
        raise ValueError(f"{folder}: the names of pictures differ by more than one number, {names[0]} and {names[-1]}; "
                         f"name them {SCHEME} in their order")
    twice, times = Counter(varying[0]).most_common(1)[0]
    if times > 1:
        one, other, *_ = (name for name, number in zip(names, varying[0], strict=True) if number == twice)
        raise ValueError(f"{folder}: {one} and {other} have the same number; name the frames {SCHEME} in their order")
    return list(zip(varying[0], names, strict=True))


def _check_steps(folder: Path, names: Sequence[str], numbers: Sequence[int], *, own: bool) -> None:
    """Raise a ValueError where a number is missing between ascending ones.

    Args:
        own: whether they are named as generate_video_jpgs names them, from 1 (other tools from 0) in steps of 1.
    """
    steps = [later - one for one, later in zip(numbers, numbers[1:], strict=False)]
    step = 1 if own or len(steps) < 2 else min(steps)
    i = next((i for i, one in enumerate(steps) if one != step), None)
    if own and numbers[0] > 1:
        missing = FRAME_NAME.format(1)
    elif i is None:
        return
    else:
        digits = max(NUMBER.findall(names[i]), key=lambda text: int(text) == numbers[i])
        before, _, after = names[i].rpartition(digits)
        missing = f"{before}{numbers[i] + step:0{len(digits)}}{after}"
    raise ValueError(f"{folder / missing}: this frame is missing among {len(names)}; extract the frames of this video "
                     f"again, or name them {SCHEME} in their order")

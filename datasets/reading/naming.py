"""Which pictures of a folder are the frames of a video, and in which order, whoever named them."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
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
            files = {entry.name: entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)
                     for entry in entries if is_picture(entry.name)}
    except OSError as error:
        raise ValueError(f"{folder}: no such folder of frames; run generate_video_jpgs or check the paths") from error
    if not any(files.values()):
        raise ValueError(f"{folder}: no frame such as image_00001.jpg in it; put in pictures, or run "
                         "generate_video_jpgs for this video")
    names = sorted(files)
    own = [name for name in names if OWN_NAME.fullmatch(name)]
    numbers, names = zip(*sorted(_numbered(folder, own or _of_video(names))), strict=True)
    if (lost := next((name for name in names if not files[name]), None)) is not None:
        raise ValueError(f"{folder / lost}: is no file, or a link that leads nowhere; mend it, or move it elsewhere")
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
    several = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    if len(several) == 1 and several[0] and parts[0][2 * several[0]] in (".", ","):
        return _numbered_by_parts(folder, names, [part[2 * several[0] + 1] for part in parts])
    varying = [columns[i] for i in several] or [[0] * len(names)]
    if len(varying) > 1:
        raise ValueError(f"{folder}: the names of pictures differ by more than one number, {names[0]} and {names[-1]}; "
                         f"name them {SCHEME} in their order")
    twice, times = Counter(varying[0]).most_common(1)[0]
    if times > 1:
        one, other, *_ = (name for name, number in zip(names, varying[0], strict=True) if number == twice)
        raise ValueError(f"{folder}: {one} and {other} have the same number; name the frames {SCHEME} in their order")
    return list(zip(varying[0], names, strict=True))


def _numbered_by_parts(folder: Path, names: Sequence[str], digits: Sequence[str]) -> list[tuple[int, str]]:
    """Each name with a number, where all differ by digits behind a point: shot1.0007, or seconds such as 0.05.

    They are counted where they have one length, or go in equal steps, as 1.9, 1.10, 1.11 do. Else they are the decimals
    of seconds, where zeros stand before some, 0.05, 0.1, 0.15, or these go in equal steps, and are numbered in order.

    Raises:
        ValueError: where either might be meant.
    """
    counts, decimals = [int(text) for text in digits], [Fraction(int(text), 10 ** len(text)) for text in digits]
    same_order = sorted(range(len(names)), key=counts.__getitem__) == sorted(range(len(names)),
                                                                             key=decimals.__getitem__)
    distinct = len(set(counts)) == len(names), len(set(decimals)) == len(names)
    padded = len({len(text) for text in digits}) > 1 and any(len(text) > 1 and text[0] == "0" for text in digits)
    if distinct[0] and (same_order or (_is_even(counts) and not padded)):
        return list(zip(counts, names, strict=True))
    rounded = Fraction(2, 10 ** max(map(len, digits)))  # of which two steps may differ
    if distinct[1] and (padded or _is_even(decimals, rounded)):
        in_order = sorted(zip(decimals, names, strict=True))
        return [(i, name) for i, (_, name) in enumerate(in_order)]
    raise ValueError(f"{folder}: the numbers of pictures may be counted or be seconds, such as {names[0]} and "
                     f"{names[-1]}; name them {SCHEME} in their order")


def _is_even(numbers: Sequence[int | Fraction], tolerance: Fraction | int = 0) -> bool:
    """Whether sorted numbers go in equal steps; two numbers only where one follows the other."""
    ascending = sorted(numbers)
    steps = [later - one for one, later in zip(ascending, ascending[1:], strict=False)]
    return max(steps) - min(steps) <= tolerance and (len(steps) > 1 or steps[0] == 1)


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

"""Makes a decoded frame or picture what a person sees: upright, of square pixels, 8 bits, in the colours of a screen.

Frames that are high dynamic range (PQ, HLG) are mapped to standard range as ITU-R BT.2390 describes it, by luminances
up to `PEAK`; the wide gamuts BT.2020 and P3 become BT.709 (matrices of ITU-R BT.2087 and SMPTE EG 432-1), clipped.
"""

import contextlib
import functools
from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # the tag of EXIF
# Of each value of the tag: whether rows become columns, then whether rows and whether columns are reversed.
EXIF = {1: (False, False, False), 2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
        5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False)}
UPRIGHT = EXIF[1]
WIDEST = 10  # an aspect ratio of pixels above this, or below its inverse, is a damaged header
# What resizing to whole pixels leaves behind: HMDB51's clips of 340 x 256 say 255/254, and are not resized again.
ROUNDING = Fraction(1, 100)
PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273
UNKNOWN, BT2020, P3 = 2, 9, 12  # colour primaries of ITU-T H.273
PEAK, WHITE = 1000.0, 203.0  # cd/m2: of the brightest HDR picture, and of white in it (ITU-R BT.2408)
TO_BT709 = {BT2020: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
            P3: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979))}
LUMINANCE = np.array((0.2627, 0.6780, 0.0593), dtype=np.float32)  # of BT.2020
STEPS = 4096  # of a table of luminances


def shown_picture(frame: av.VideoFrame, stream: av.VideoStream) -> np.ndarray:
    """A frame as it is to be shown, (H, W, 3) uint8 RGB.

    Raises:
        ValueError, av.FFmpegError: where its colours cannot be converted.
    """
    transfer, primaries, how = frame.color_trc, frame.color_primaries, {"threads": 1}
    height, width = _square_size(frame, stream.sample_aspect_ratio)
    if width != frame.width:
        how |= {"height": height, "width": width, "interpolation": "BICUBIC"}
    if transfer in (PQ, HLG) or primaries in TO_BT709:
        picture = _on_a_screen(frame.to_ndarray(format="rgb48le", **how), transfer, primaries)
    else:
        picture = frame.to_ndarray(format="rgb24", **how)
    orientation = _orientation(frame)
    return picture if orientation is UPRIGHT else turned(picture, orientation)


def shown_size(frame: av.VideoFrame, stream: av.VideoStream) -> tuple[int, int]:
    """Height and width of `shown_picture`."""
    height, width = _square_size(frame, stream.sample_aspect_ratio)
    return (width, height) if _orientation(frame)[0] else (height, width)


def turned(picture: np.ndarray, orientation: tuple[bool, bool, bool]) -> np.ndarray:
    """A picture (H, W, 3) turned and mirrored.

    Args:
        orientation: whether rows become columns, then whether rows and whether columns are reversed.
    """
    transposed, rows, columns = orientation
    if not any(orientation):
        return picture
    picture = picture.swapaxes(0, 1) if transposed else picture
    return np.ascontiguousarray(picture[::-1 if rows else 1, ::-1 if columns else 1])


def exif_orientation(image: Image.Image) -> tuple[bool, bool, bool]:
    """How a picture is to be turned, for `turned`; not at all where its EXIF tells none, or is damaged."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # on damaged bytes, Pillow's parsers raise whatever they stumble over
        value = 1
    return EXIF.get(value, UPRIGHT)


def rgb_of_image(image: Image.Image) -> np.ndarray:
    """A picture of any of Pillow's modes, upright, as (H, W, 3) uint8 RGB.

    Raises:
        ValueError: for numbers without a known range.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16 bits; as 32 bits where a format of 16 bits is read so
        levels = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
        grey = ((levels + 128) // 257).astype(np.uint8)  # 65535 is white
        return turned(np.repeat(grey[..., None], 3, axis=2), exif_orientation(image))
    with contextlib.suppress(Exception):  # as above
        image = ImageOps.exif_transpose(image)
    return np.asarray(image.convert("RGB"))


def _square_size(frame: av.VideoFrame, ratio: Fraction | None) -> tuple[int, int]:
    """Height and width of a frame before it is turned, where pixels are square: the width follows their aspect ratio.
    """
    if not ratio or ratio == 1 or abs(ratio - 1) <= ROUNDING or not Fraction(1, WIDEST) <= ratio <= WIDEST:
        return frame.height, frame.width
    return frame.height, max(round(frame.width * ratio), 1)


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How a frame is to be turned by its display matrix, to a quarter of a turn, mirrored or not; for `turned`."""
    side_data = SideDataContainer(frame)  # frame.side_data would be a cycle, in which frames stay
    data = side_data.get("DISPLAYMATRIX") if len(side_data) else None
    if data is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(data, dtype=np.int32)[:5].tolist()  # x to a x + c y, y to b x + d y
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def _on_a_screen(signal: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """RGB (H, W, 3) uint16 of a wide gamut, or of high dynamic range, as (H, W, 3) uint8 of BT.709 and BT.1886."""
    light = _light_of_signal(transfer)[signal]  # (H, W, 3) float32, of PEAK or of white
    if transfer == HLG:  # the display's gamma (ITU-R BT.2100), on luminance
        light *= (light @ LUMINANCE)[..., None] ** 0.2
    if transfer in (PQ, HLG):
        primaries = BT2020 if primaries == UNKNOWN else primaries
        light *= _gain()[_step(light.max(axis=2))][..., None]
    if primaries in TO_BT709:
        light = light @ np.array(TO_BT709[primaries], dtype=np.float32).T
    return _signal_of_light()[_step(np.clip(light, 0, 1, out=light))]


def _step(light: np.ndarray) -> np.ndarray:
    """The place of luminances 0..1 in a table, finer where it is dark."""
    return np.rint(np.sqrt(np.sqrt(light)) * (STEPS - 1)).astype(np.int32)


def _steps() -> np.ndarray:
    return (np.arange(STEPS) / (STEPS - 1)) ** 4


def _pq(light: np.ndarray) -> np.ndarray:
    """The PQ signal (SMPTE ST 2084) of cd/m2."""
    power = (light / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def _light_of_pq(signal: np.ndarray) -> np.ndarray:
    """The cd/m2 of a PQ signal 0..1."""
    power = signal ** (1 / 78.84375)
    return 10000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)


@functools.lru_cache
def _light_of_signal(transfer: int) -> np.ndarray:
    """Light of each 16-bit signal (65536,) float32: of PQ and HLG as a share of PEAK, before HLG's gamma; else of
    white."""
    signal = np.arange(65536) / 65535
    if transfer == PQ:
        light = np.minimum(_light_of_pq(signal) / PEAK, 1)
    elif transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal ** 2 / 3, (np.exp((signal - c) / a) + b) / 12)
        light = np.minimum(light, 1)
    else:
        light = signal ** 2.4  # ITU-R BT.1886
    return light.astype(np.float32)


@functools.lru_cache
def _gain() -> np.ndarray:
    """What to multiply light by, from shares of PEAK to shares of WHITE, by the brightest of a pixel's three colours
    (STEPS,) float32.

    Equation of ITU-R BT.2390, 5.4.1: in PQ, unchanged to a knee at 1.5 m - 0.5, where m is the signal of WHITE as a
    share of that of PEAK; from there a Hermite spline to m.
    """
    light = _steps()
    most = _pq(np.array(WHITE)) / _pq(np.array(PEAK))
    knee = 1.5 * most - 0.5
    signal = _pq(PEAK * light) / _pq(np.array(PEAK))
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    spline = ((2 * t ** 3 - 3 * t ** 2 + 1) * knee + (t ** 3 - 2 * t ** 2 + t) * (1 - knee)
              + (-2 * t ** 3 + 3 * t ** 2) * most)
    target = np.where(signal < knee, signal, spline) * _pq(np.array(PEAK))
    gain = _light_of_pq(target) / WHITE / np.maximum(light, 1e-12)
    gain[0] = PEAK / WHITE
    return gain.astype(np.float32)


@functools.lru_cache
def _signal_of_light() -> np.ndarray:
    """The byte of BT.1886 of light as a share of white (STEPS,) uint8."""
    return np.rint(255 * _steps() ** (1 / 2.4)).astype(np.uint8)

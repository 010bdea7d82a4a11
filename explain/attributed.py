"""Pictures and the page of attribution methods: heat on all frames, and pyramids of the channels that lead there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from explain import render, report

SHARPEST = 0.995  # share of the voxels that is drawn below full heat: a few hot ones would hide the rest
CELL = 104  # pixels of a frame's height on a sheet
PAPER, INK, QUIET, LINK = (250, 250, 248), (28, 34, 36), (96, 104, 109), (150, 160, 164)


def drawn(heat: Tensor) -> Tensor:
    """Heat as it is drawn: what is hotter than all but a few voxels counts as hottest."""
    heat = heat.detach().float().cpu()
    top = torch.quantile(heat.flatten(), SHARPEST)
    return heat.clamp(max=top) if top > heat.amin() else heat


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces, and within words where a word alone is too long."""
    lines = [""]
    for word in text.split(" "):
        while font.getlength(word) > width:
            fits = next(n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width or n == 1)
            lines, word = [*lines, word[:fits]] if lines[-1] else [*lines[:-1], word[:fits]], word[fits:]
            lines.append("")
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) > width:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


def _write_margin(draw: ImageDraw.ImageDraw, lines: Sequence[tuple[str, bool]], left: int, top: int,
                  width: int) -> None:
    """Lines of text below each other; the second of each pair says whether the line stands out."""
    for text, strong in lines:
        font = _font(15 if strong else 13)
        for part in _wrapped(text.replace(report.NARROW, " "), font, width):  # which the font does not have
            draw.text((left, top), part, INK if strong else QUIET, font=font)
            top += 20 if strong else 17
        top += 3


def heat_sheet(pixels: render.Pixels, heat: Tensor, margin: Sequence[tuple[str, bool]], *, columns: int = 8,
               gap: int = 3) -> render.Pixels:
    """All frames of a clip, in rows of frames above and the same with heat below, and words in the left margin.

    Args:
        pixels: (T, H', W', 3).
        heat: (T, H, W).
        margin: lines of text, and whether each stands out.
    Returns:
        (1, height, width, 3).
    """
    n, height, width, _ = pixels.shape
    cell = (CELL, max(1, round(CELL * width / height)))
    columns = min(columns, n)
    rows, words = -(-n // columns), 190
    pairs = render.resize(pixels, cell), render.resize(render.overlay(pixels, drawn(heat)), cell)
    block = 2 * (CELL + gap) + 6
    sheet = np.empty((max(rows * block, 190), words + columns * (cell[1] + gap), 3), dtype=np.uint8)
    sheet[:] = PAPER
    for i in range(n):
        left = words + i % columns * (cell[1] + gap)
        for half, frames in enumerate(pairs):
            top = i // columns * block + half * (CELL + gap)
            sheet[top:top + CELL, left:left + cell[1]] = frames[i]
    image = Image.fromarray(sheet)
    _write_margin(ImageDraw.Draw(image), margin, 10, 8, words - 20)
    return np.asarray(image)[None]


@dataclass(frozen=True)
class PyramidRow:
    """A layer of a pyramid as it is drawn: its tube, and those of its strongest channels."""

    title: str
    note: str
    tube: Tensor  # (T, H, W)
    channels: list[int]
    tubes: Tensor  # (n, T, H, W), of those channels
    above: list[tuple[int, int, int]] = field(default_factory=list)  # row, place in it, place here: what leads there


def pyramid_picture(pixels: render.Pixels, rows: Sequence[PyramidRow], *, gap: int = 12) -> render.Pixels:
    """One row a layer, from the class to shallow layers, each picture at the frame where its tube is hottest.

    Lines join a channel with those above that it leads to.

    Args:
        pixels: (T, H', W', 3). rows: from the class downwards.
    Returns:
        (1, height, width, 3).
    """
    _, height, width, _ = pixels.shape
    cell = (CELL, max(1, round(CELL * width / height)))
    small = render.resize(pixels, cell)
    words, between = 200, 44
    most = max((len(row.channels) for row in rows), default=0)
    pitch = CELL + 18 + between
    image = Image.new("RGB", (words + (most + 1) * (cell[1] + gap) + 24, len(rows) * pitch - between + 16), PAPER)
    draw = ImageDraw.Draw(image)

    def left(place: int) -> int:  # the tube of the whole layer stands first, and apart
        return words + place * (cell[1] + gap) + (24 if place else 0)

    for i, row in enumerate(rows):
        for other, there, here in row.above:
            draw.line((left(there + 1) + cell[1] // 2, other * pitch + 8 + CELL + 16,
                       left(here + 1) + cell[1] // 2, i * pitch + 8), LINK, 1)
    for i, row in enumerate(rows):
        top = i * pitch + 8
        _write_margin(draw, [(row.title, True), (row.note, False)], 10, top, words - 24)
        for place, (heat, label) in enumerate([(row.tube, "all of them"),
                                               *zip(row.tubes, map(str, row.channels), strict=True)]):
            frame = int(heat.amax((1, 2)).argmax())
            shown = render.overlay(small, drawn(heat))[frame]
            image.paste(Image.fromarray(shown), (left(place), top))
            words_at, text = (left(place) + 2, top + CELL + 2), f"{label} · frame {frame}" if place == 0 else label
            draw.rectangle(draw.textbbox(words_at, text, font=_font(12)), PAPER)  # lines would cross the words
            draw.text(words_at, text, QUIET, font=_font(12))
    return np.asarray(image)[None]


@dataclass(frozen=True)
class Panel:
    """A picture of the page: a clip, or a method's heat on it."""

    title: str
    note: str
    moving: bytes  # WebP
    still: bytes
    sheet: bytes | None = None
    pyramid: bytes | None = None


@dataclass(frozen=True)
class Entry:
    """A clip of the page."""

    name: str
    target: str  # what was explained
    facts: list[tuple[str, str]]
    panels: list[Panel]


def write_page(target: Path, title: str, entries: Sequence[Entry]) -> None:
    """Write one page that needs no other file: the methods side by side, clip by clip."""
    report.write_template(target, "attribution.html", title=title, entries=entries)

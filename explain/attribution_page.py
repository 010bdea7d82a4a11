"""Pictures and the page of attribution methods: heat on all frames, and pyramids of the channels that lead there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from explain import pages, render
from hierarchy.lettering import lettered

SHARPEST = 0.995  # share of the voxels that is drawn below full heat: a few hot ones would hide the rest
CELL = 104  # pixels of a frame's height on a sheet
TOP = 12  # pixels above the first row
PAPER, INK, QUIET = (250, 250, 248), (28, 34, 36), (96, 104, 109)
# of the class's channels on a pyramid and all that leads to them: Okabe and Ito's, readable without colour vision
TRACES = [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (120, 84, 52),
          (70, 70, 70)]


def drawn(heat: Tensor) -> Tensor:
    """Heat (T, H, W) as it is drawn: what is hotter than all but a few voxels counts as hottest."""
    heat = heat.detach().float().cpu()
    top = float(np.quantile(heat.numpy(), SHARPEST))
    return heat.clamp(max=top) if top > heat.amin() else heat


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces, and within words where a word alone is too long."""
    text, font = lettered(text, size)
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


def _margin(lines: Sequence[tuple[str, bool]], width: int) -> list[tuple[int, str, bool]]:
    """Lines of at most `width` pixels as (pixels from the top, words, whether it stands out); the last is the end."""
    placed, top = [], 0
    for text, strong in lines:
        for part in _wrapped(text.replace(pages.NARROW, " "), 15 if strong else 13, width):  # the font lacks it
            placed.append((top, part, strong))
            top += 20 if strong else 17
        top += 3
    return [*placed, (top, "", False)]


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[tuple[int, str, bool]], left: int, top: int) -> None:
    for below, text, strong in lines:
        shown, font = lettered(text, 15 if strong else 13)
        draw.text((left, top + below), shown, INK if strong else QUIET, font=font)


def heat_sheet(pixels: render.Pixels, overlay: render.Pixels, margin: Sequence[tuple[str, bool]], *, columns: int = 8,
               gap: int = 3) -> render.Pixels:
    """All frames of a clip, in rows of frames above and the same with heat below, and words in the left margin.

    Args:
        pixels: (T, H', W', 3).
        overlay: (T, H', W', 3), the same with heat.
        margin: lines of text, and whether each stands out.
    Returns:
        (1, height, width, 3).
    """
    n, height, width, _ = pixels.shape
    cell = (CELL, max(1, round(CELL * width / height)))
    columns = min(columns, n)
    rows, words = -(-n // columns), 190
    pairs = render.resize(pixels, cell), render.resize(overlay, cell)
    block = 2 * (CELL + gap) + TOP
    lines = _margin(margin, words - 20)
    size = TOP + max(rows * block, lines[-1][0]), words + columns * (cell[1] + gap) + TOP - gap
    sheet = np.empty((*size, 3), dtype=np.uint8)
    sheet[:] = PAPER
    for i in range(n):
        left = words + i % columns * (cell[1] + gap)
        for half, frames in enumerate(pairs):
            top = TOP + i // columns * block + half * (CELL + gap)
            sheet[top:top + CELL, left:left + cell[1]] = frames[i]
    image = Image.fromarray(sheet)
    _write(ImageDraw.Draw(image), lines, 10, TOP - 2)
    return np.asarray(image)[None]


@dataclass(frozen=True)
class PyramidRow:
    """A layer of a pyramid as it is drawn: its tube, and those of its strongest channels."""

    title: str
    note: str
    tube: Tensor  # (T, H, W)
    channels: list[int]
    tubes: Tensor  # (n, T, H, W), of those channels
    above: list[tuple[int, int, int]] = field(default_factory=list)  # row, place in it, place here: what leads there,
    # of each place the strongest first


def pyramid_picture(pixels: render.Pixels, rows: Sequence[PyramidRow], *, gap: int = 24) -> render.Pixels:
    """One row a layer, from the class to shallow layers, each picture at the frame where its tube is hottest.

    Lines join a channel with those above that it leads to, in their colour, and pass other rows between the pictures;
    the first of each channel is the thickest. A channel has a colour of its own in the first row, and below that of
    the channel that it leads to most. Below a picture stand the channel and the frame, counted from 1.

    Args:
        pixels: (T, H', W', 3). rows: from the class downwards.
    Returns:
        (1, height, width, 3).
    """
    _, height, width, _ = pixels.shape
    cell = (CELL, max(1, round(CELL * width / height)))
    small = render.resize(pixels, cell)
    words, between, label = 220, 64, 18
    most = max((len(row.channels) for row in rows), default=0)
    notes = [_margin([(row.title, True), (row.note, False)], words - 24) for row in rows]
    pitches = [max(CELL + label, lines[-1][0]) + between for lines in notes]
    tops = [TOP + sum(pitches[:i]) for i in range(len(rows))]
    size = (words + (most + 1) * (cell[1] + gap) + gap, TOP + sum(pitches) - between + TOP)

    def left(place: int) -> int:  # the tube of the whole layer stands first, and apart
        return words + place * (cell[1] + gap) + (gap if place else 0)

    colours: list[list[tuple[int, int, int]]] = []
    for i, row in enumerate(rows):
        own = [TRACES[place % len(TRACES)] if i == 0 else QUIET for place in range(len(row.channels))]
        for other, there, here in reversed(row.above):
            own[here] = colours[other][there]
        colours.append(own)

    fine = 3  # lines are drawn larger and made smaller, for PIL's have stairs
    image = Image.new("RGB", (size[0] * fine, size[1] * fine), PAPER)
    draw = ImageDraw.Draw(image)
    lanes: dict[tuple[int, int], int] = {}  # lines that pass a row left of a place
    for i, row in enumerate(rows):
        into = [here for _, _, here in row.above]
        for number, (other, there, here) in enumerate(row.above):
            mine, of_all = into[:number].count(here), into.count(here)
            start = left(there + 1) + cell[1] * 0.8, tops[other] + CELL + label
            end = left(here + 1) + cell[1] * (mine + 1) / (of_all + 1), tops[i] - 2
            points = [(start[0], tops[other] + CELL), start]  # down past the words first
            if other < i - 1:
                lane = max(lanes.get((passed, here), 0) for passed in range(other + 1, i))
                lanes |= {(passed, here): lane + 1 for passed in range(other + 1, i)}
                x = left(here + 1) - 4 - 4 * lane % (gap - 4)
                points += [(x, tops[other + 1] - 6), (x, tops[i - 1] + CELL + label + 6)]
            points = [(round(x * fine), round(y * fine)) for x, y in [*points, end]]
            draw.line(points, colours[other][there], (2 if mine == 0 else 1) * fine, joint="curve")
    image = image.resize(size, Image.Resampling.BOX)
    draw = ImageDraw.Draw(image)
    for i, row in enumerate(rows):
        _write(draw, notes[i], 10, tops[i])
        for place, (heat, name) in enumerate([(row.tube, "all chosen"),
                                              *zip(row.tubes, map(str, row.channels), strict=True)]):
            frame = int(heat.amax((1, 2)).argmax())
            shown = render.overlay(small, drawn(heat))[frame]
            image.paste(Image.fromarray(shown), (left(place), tops[i]))
            if place:
                draw.rectangle((left(place) - 2, tops[i] - 2, left(place) + cell[1] + 1, tops[i] + CELL + 1),
                               outline=colours[i][place - 1], width=2)
            words_below, font = lettered(f"{name} · {frame + 1}/{len(heat)}", 11)
            draw.text((left(place) + 2, tops[i] + CELL + 2), words_below, QUIET, font=font)
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
    predictions: list[tuple[str, float]] = field(default_factory=list)  # most probable classes of the video
    heading: str = "Most probable in the whole video"  # of the predictions
    verdict: str = ""  # right, wrong, or nothing where the true class is not known


def write_page(target: Path, title: str, source: str, entries: Sequence[Entry]) -> None:
    """Write one page that needs no other file: the methods side by side, clip by clip.

    Args:
        source: which weights, from where, and their licence.
    """
    pages.write_template(target, "attribution.html", title=title, source=source, entries=entries)

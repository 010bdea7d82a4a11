"""Explanations as pieces of HTML that a notebook shows and keeps: stills, words and numbers, tens of kilobytes each."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from explain import pages, render
from explain.attribution_page import drawn
from explain.explainer import Explained, Explainer
from models.geometry import smoothed

HEIGHT = 96  # pixels of a still
CARDS = 1  # prototypes of a level that are shown
FRAMES = 6  # of a strip of heat


def explanation_cell(explainer: Explainer, explained: Explained) -> str:
    """A video's prediction, and of every level the first prototypes, from the top down."""
    pixels, levels = explainer.pixels_of(explained), []
    stories = zip(explained.matches, explained.content["levels"], strict=True)
    for match, level in sorted(stories, key=lambda pair: -pair[0].level):
        stills = [{kind: render.jpeg(still, HEIGHT) for kind, still in explainer.painter.stills(pixels, one).items()}
                  for one in match.matches[:CARDS]]
        levels.append({**level, "cards": list(zip(level["prototypes"], stills, strict=False))})
    return pages.render_template("cell.html", explanation=explained.content, levels=levels)


def heat_cell(pixels: render.Pixels, heat: Tensor, *, title: str, note: str, voxelwise: bool,
              predictions: Sequence[tuple[str, float]]) -> str:
    """Heat on a few frames of a clip, below the same frames without, and the most probable classes.

    Args:
        pixels: (T, H', W', 3). heat: (T, H, W). voxelwise: whether it is scattered over single voxels, and is smoothed.
    """
    places = np.linspace(0, len(pixels) - 1, min(FRAMES, len(pixels))).round().astype(int)
    heated = render.overlay(pixels, drawn(smoothed(heat) if voxelwise else heat))
    rows = [np.concatenate(list(shown[places]), 1) for shown in (pixels, heated)]
    strip = render.jpeg(np.concatenate(rows, 0)[None], 2 * HEIGHT)
    return pages.render_template("heat_cell.html", title=title, note=note, strip=strip, predictions=predictions)


def outcome_cell(title: str, rows: Sequence[Mapping[str, object]]) -> str:
    """Probabilities before and after.

    Args:
        rows: "node", "before", "after" and "chosen", whether it is predicted now.
    """
    return pages.render_template("outcome_cell.html", title=title, rows=rows)

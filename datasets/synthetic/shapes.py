"""Outlines and marks of the objects.

A shape maps coordinates in units of its radius (x to the right, y down) to two signed distances in the same unit,
negative inside: of its outline, and of the mark painted on it, which shows rotation.
"""

from collections.abc import Callable

import numpy as np


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _ball(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.hypot(x, y) - 0.95, np.abs(y) - 0.24


def _book(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _box(x, y, 0.68, 0.92), _box(x - 0.4, y, 0.16, 2.0)


def _cross(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(_box(x, y, 0.95, 0.34), _box(x, y, 0.34, 0.95)), y + 0.45


def _hoop(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.abs(np.hypot(x, y) - 0.72) - 0.24, np.maximum(-y, np.abs(x) - 0.3)


def _kite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.56 * (np.abs(x) / 0.68 + np.abs(y) - 1.0), x


def _points(x: np.ndarray, y: np.ndarray, n: int, depth: float) -> np.ndarray:
    sector = 2 * np.pi / n
    angle = np.abs((np.arctan2(x, -y) + sector / 2) % sector - sector / 2)  # from the nearest tip
    r = np.hypot(x, y)
    # distance to the line from a tip at radius 1 to the notch at radius `depth`, half a sector away
    notch = depth * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    normal = np.array([notch[1], 1.0 - notch[0]]) / np.hypot(notch[1], 1.0 - notch[0])
    return (r * np.cos(angle) - 1.0) * normal[0] + r * np.sin(angle) * normal[1]


def _star(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _points(x, y, 5, 0.48), y + 0.3


def _rugby_ball(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # where two discs meet: 1.96 long, 1.32 high
    return np.hypot(x, np.abs(y) + 0.3975) - 1.0575, np.abs(np.abs(x) - 0.5) - 0.11


def _four_pointed_star(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _points(x, y, 4, 0.44), y + 0.1


def _latin_cross(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(_box(x, y, 0.24, 0.97), _box(x, y + 0.3, 0.72, 0.24)), 0.4 - y


def _square_hoop(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.abs(_box(x, y, 0.5, 0.5)) - 0.2, y + 0.36


def _open_book(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # two pages that rise from the spine
    return _box(x, y - 0.24 + 0.45 * np.abs(x), 0.8, 0.48), np.abs(x) - 0.14


def _delta_kite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # distances to the base and to the sides that meet in the tip at (0, -1)
    return np.maximum(y - 0.5, (1.5 * np.abs(x) - 0.86 * (y + 1.0)) / 1.729), 0.2 - y


def _blob(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.hypot(x, y / 0.7) - 0.9, y


def _bar(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _box(x, y, 0.22, 0.95), y


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "Ball": _ball, "Book": _book, "Cross": _cross, "Hoop": _hoop, "Kite": _kite, "Star": _star,
    "Rugby Ball": _rugby_ball, "Four-pointed Star": _four_pointed_star, "Latin Cross": _latin_cross,
    "Square Hoop": _square_hoop, "Open Book": _open_book, "Delta Kite": _delta_kite,
    "Blob": _blob, "Bar": _bar,
}
MOVERS = ("Blob", "Bar")

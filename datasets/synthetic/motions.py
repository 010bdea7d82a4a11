"""Courses of an object through an event.

A motion maps the event's time (n,) from 0 to DESIGN_EVENT, the frame size over DESIGN_SIZE, the actor's speed and a
generator to the course of the object: centre (n, 2) relative to any point, radius as a factor (n,), angle (n,).
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

Course = tuple[np.ndarray, np.ndarray, np.ndarray]


def _course(time: np.ndarray, *, y=0.0, x=0.0, radius=1.0, angle=0.0) -> Course:
    y, x, radius, angle = (np.broadcast_to(np.asarray(v, np.float64), time.shape) for v in (y, x, radius, angle))
    return np.stack([y, x], axis=-1), radius, angle


def _sign(rng: Generator) -> float:
    return float(rng.choice((-1.0, 1.0)))


def _travel(time: np.ndarray, scale: float, speed: float) -> np.ndarray:
    return time * (34.0 * scale * speed / max(1.0, time[-1]))


def _falling(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    return _course(time, y=_travel(time, scale, speed))


def _rising(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    return _course(time, y=-_travel(time, scale, speed))


def _sliding(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    return _course(time, x=_sign(rng) * _travel(time, scale, speed))


def _bouncing(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    phase = np.pi * (speed * time / 8.5 + rng.uniform())
    return _course(time, y=-16.0 * scale * np.abs(np.sin(phase)))


def _swinging(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    # a pendulum of 20 pixels that swings by 35 degrees to both sides
    swing = 0.6 * np.sin(2 * np.pi * (speed * time / 12.0 + rng.uniform()))
    return _course(time, y=20.0 * scale * np.cos(swing), x=20.0 * scale * np.sin(swing), angle=-swing)


def _circling(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    phase = 2 * np.pi * _sign(rng) * (speed * time / 12.0 + rng.uniform())
    return _course(time, y=9.0 * scale * np.sin(phase), x=9.0 * scale * np.cos(phase))


def _spinning(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    return _course(time, radius=1.15, angle=2 * np.pi * (_sign(rng) * speed * time / 18.0 + rng.uniform()))


def _pulsing(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    phase = 2 * np.pi * (speed * time / 9.0 + rng.uniform())
    return _course(time, radius=0.92 + 0.36 * np.sin(phase))


MOTIONS: dict[str, Callable[[np.ndarray, float, float, Generator], Course]] = {
    "Falling": _falling, "Rising": _rising, "Sliding": _sliding, "Bouncing": _bouncing, "Swinging": _swinging,
    "Circling": _circling, "Spinning": _spinning, "Pulsing": _pulsing,
}

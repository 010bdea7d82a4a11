"""Numbers in a range, as argparse types: a value outside is an error that names the flag."""

import argparse
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """An argparse type: finite numbers of a kind between two bounds.

    Args:
        kind: int or float. low, high: bounds, both included. above, below: leave `low`, or `high`,
            out. odd: odd numbers alone.
    """

    kind: type
    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    odd: bool = False

    def __call__(self, text: str) -> float:
        try:
            value = self.kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be a number, {self}, not {text}") from error
        outside = (not self.low <= value <= self.high or not math.isfinite(value) or (self.above and value == self.low)
                   or (self.below and value == self.high) or (self.odd and value % 2 == 0))
        if outside:
            raise argparse.ArgumentTypeError(f"must be {self}, not {text}")
        return value

    def __str__(self) -> str:
        least = f"{'above' if self.above else 'at least'} {self.low:g}"
        most = "" if math.isinf(self.high) else f" and {'below' if self.below else 'at most'} {self.high:g}"
        return f"{'odd and ' if self.odd else ''}{least}{most}" + (" and finite" if self.above and not most else "")


COUNT = Range(int, 1)
AMOUNT = Range(int, 0)
POSITIVE = Range(float, 0, above=True)
WEIGHT = Range(float, 0)
SHARE = Range(float, 0, 1, above=True)
PROBABILITY = Range(float, 0, 1)
MOMENTUM = Range(float, 0, 1, below=True)
ODD = Range(int, 1, odd=True)

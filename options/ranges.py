"""Numbers in a range, as argparse types: a value outside is an error that names the flag."""

import argparse
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """An argparse type: numbers of a kind between two bounds.

    Args:
        kind: int or float. low, high: bounds, both included. above, below: leave `low`, or `high`,
            out. odd: odd numbers alone. infinite: infinity, too.
    """

    kind: type
    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    odd: bool = False
    infinite: bool = False

    def __call__(self, text: str) -> float:
        try:
            value = self.kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be a number, {self}, not {text}") from error
        infinite = self.kind is float and math.isinf(value) and not self.infinite
        outside = (not self.low <= value <= self.high or infinite or (self.above and value == self.low)
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
SEED = Range(int, 0, 2 ** 63 - 1)
GIGABYTES = Range(float, 0, infinite=True)
POSITIVE = Range(float, 0, above=True)
WEIGHT = Range(float, 0)
SHARE = Range(float, 0, 1, above=True)
PROBABILITY = Range(float, 0, 1)
MOMENTUM = Range(float, 0, 1, below=True)
ODD = Range(int, 1, odd=True)

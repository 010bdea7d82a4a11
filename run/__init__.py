"""One run: its files, data and model, how it resumes, and the loop that trains it; and `load`, for notebooks.

from run import load
model = load("results/save_30.pth")
explanation = model.explain("clip.mp4")

Names are imported when they are asked for: --help needs no PyTorch.
"""

import importlib

_HOMES = {"load": "run.loaded", "HipeModel": "run.loaded", "HeadModel": "run.loaded", "Explanation": "run.explanation",
          "Level": "run.explanation", "Prototype": "run.explanation", "WhatIf": "run.explanation",
          "HeatMap": "run.heat_map"}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

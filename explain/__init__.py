"""Explanations: which prototypes speak for a prediction (match), as pictures (render), as pages (report)."""

from explain.explainer import explain_videos
from explain.pictures import prototype_pictures

__all__ = ["explain_videos", "prototype_pictures"]

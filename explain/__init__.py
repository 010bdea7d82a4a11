"""Explanations: which prototypes speak for a prediction (match), as pictures (render), as pages (pages, report)."""

from explain.explainer import ExplanationSettings, Sources, explain_videos, fingerprint
from explain.pictures import patch_sheet, prototype_pictures
from explain.report import write_report

__all__ = ["ExplanationSettings", "Sources", "explain_videos", "fingerprint", "patch_sheet", "prototype_pictures",
           "write_report"]

"""Explanations: the prototypes behind a prediction (match), as pictures (render) and pages (pages, report)."""

from explain.explainer import explain_videos, fingerprint
from explain.pictures import patch_sheet, prototype_pictures
from explain.report import write_report

__all__ = ["explain_videos", "fingerprint", "patch_sheet", "prototype_pictures", "write_report"]

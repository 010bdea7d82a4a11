"""A study with people: pages with questions about explained videos, and what their answers come to."""

from explain.study.answers import read_answers, read_key
from explain.study.questions import Study, StudySettings, make_study
from explain.study.results import score, write_scores

__all__ = ["Study", "StudySettings", "make_study", "read_answers", "read_key", "score", "write_scores"]

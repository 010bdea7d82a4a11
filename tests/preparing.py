"""What the tests of the preparing scripts share: films, calls of the scripts, and how they end on bad input."""

import re
from pathlib import Path

import pytest
from media import shades, write_video

from util_scripts import generate_video_jpgs, ucf101_json

CLASSES = ["YoYo", "HandstandPushups", "PlayingGuitar"]  # not in alphabetical order
ROWS = [["HandstandPushups", "Body", "Alone"], ["YoYo", "Body", "Alone"], ["PlayingGuitar", "Music", "Together"]]


def quits(capsys, call, *argv) -> str:
    """The error line of a script that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call([str(arg) for arg in argv])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def numbers(text: str) -> list[int]:
    """The whole numbers in a text, without those in paths and names."""
    return [int(word) for word in re.findall(r"(?<![\w./-])\d+(?![\w./-])", text)]


def jpgs(*argv) -> None:
    """Run generate_video_jpgs on UCF-101's layout."""
    generate_video_jpgs.main([str(arg) for arg in (*argv, "ucf101", "--n_jobs", 1)])


def annotations(*argv) -> None:
    """Run ucf101_json."""
    ucf101_json.main([str(arg) for arg in argv])


def write_films(folder: Path) -> Path:
    """Three films of two classes, of 9, 12 and 5 frames."""
    write_video(folder / "YoYo" / "v_YoYo_g01_c01.avi", shades(9))
    write_video(folder / "YoYo" / "v_YoYo_g02_c01.mp4", shades(12), fps=30)
    write_video(folder / "PlayingGuitar" / "v_PlayingGuitar_g01_c01.avi", shades(5))
    return folder

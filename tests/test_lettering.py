"""hierarchy/lettering.py: no name is drawn as boxes."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from explain.attribution_page import heat_sheet
from hierarchy import lettering
from hierarchy.lettering import lettered
from hierarchy.picture import draw_tree
from hierarchy.tree import Hierarchy

NAMES = ("Bend", "Größe é ł", "Gro\u0308ße", "跑步", "ダンス", "Прыжок", "جري", "दौड़ना", "달리기", "🏃 Run 😀", "ภาษา",
         "\ue000")


@pytest.fixture(params=["these fonts", "no fonts"])
def fonts(request, monkeypatch):
    if request.param == "no fonts":
        monkeypatch.setattr(lettering, "_system_fonts", tuple)
    lettering._choice.cache_clear()
    yield
    lettering._choice.cache_clear()


def pixels(text, font):
    image = Image.new("L", (400, 40))
    ImageDraw.Draw(image).text((4, 4), text, 255, font)
    return np.asarray(image)


@pytest.mark.parametrize("name", NAMES)
def test_every_letter_is_one_that_the_font_has(fonts, name):
    shown, font = lettered(name, 20)
    assert shown.strip()
    box = pixels("\U0010fffe", font)  # which no font has
    for letter in shown:
        drawn = pixels(letter, font.font_variant(layout_engine=0))
        assert letter.isspace() or (drawn.any() and not np.array_equal(drawn, box))


def test_latin_names_keep_the_font_and_their_letters(fonts):
    shown, font = lettered("ApplyEyeMakeup (12 %)", 15)
    assert shown == "ApplyEyeMakeup (12 %)" and font.getname()[0] == lettering._font(None, 15).getname()[0]


def test_without_fonts_names_are_in_latin_letters(monkeypatch):
    monkeypatch.setattr(lettering, "_system_fonts", tuple)
    lettering._choice.cache_clear()
    assert [lettered(name, 15)[0] for name in ("跑步", "Прыжок", "Größe", "달리기 run")] == [
        "PaoBu", "Pryzhok", "Grosse", "DalLiGi run"]
    lettering._choice.cache_clear()


def test_sheets_and_trees_with_such_names_are_drawn(fonts):
    clip = np.zeros((4, 24, 32, 3), np.uint8)
    plain = heat_sheet(clip, clip, [("", True)])
    for name in NAMES:
        sheet = heat_sheet(clip, clip, [(20 * name, True), (name, False)])
        assert sheet.shape[2] == plain.shape[2]
    draw_tree(Hierarchy([[name, "身体"] for name in NAMES]), size=300)

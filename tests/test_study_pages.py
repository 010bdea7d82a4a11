"""The pages of a study in a browser: filled in by keyboard and by mouse, kept, downloaded, and scored."""

import json
import time

import browser
import pytest
from studied import explained_videos

from explain.study import StudySettings, make_study, read_answers, read_key, score

TASKS = {"agreement": ["1", "2", "3", "4"], "distinction": ["A", "B", "C", "D"]}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    explained = explained_videos(tmp_path_factory.mktemp("explained"))
    make_study([explained], StudySettings(n_questions=4, pool=7)).write(out)
    return out


def start(page, study, task, who, **screen):
    """Open a page anew and begin as a participant."""
    page.open(study / f"{task}.html", **screen)
    page.run(f"document.getElementById('participant').value = '{who}'")
    page.run("document.getElementById('who').requestSubmit()")
    page.wait("!document.getElementById('asking').hidden || !document.getElementById('done').hidden")


def count(page):
    return page.run("document.getElementById('count').textContent")


def choose(page, letter, value):
    page.press(letter, code=ord(letter), text=letter)
    assert page.run("document.querySelector('#choices input:checked').value") == value


@pytest.mark.parametrize("task", TASKS)
def test_filled_in_by_keyboard_kept_downloaded_and_scored(page, study, task, tmp_path):
    key = read_key(study / "key.json")
    start(page, study, task, f"p-1_{task}")
    n = page.run(f"study.draw('p-1_{task}').length")
    assert n == 6 and count(page) == f"Question 1 of {n}"
    given = []
    for i in range(n):
        if i == 3:  # close the page and come back
            start(page, study, task, f"p-1_{task}")
            assert count(page) == f"Question 4 of {n}"
        page.wait("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        assert page.run("document.getElementById('next').disabled")
        page.press("Enter", code=13, text="\r")  # without an answer
        assert count(page) == f"Question {i + 1} of {n}"
        question = page.run(f"study.draw('p-1_{task}')[{i}]")
        values = page.run("[...document.querySelectorAll('#choices input')].map(one => one.value)")
        known = key[task][question]
        wanted = known["check"][0] if "check" in known else known["answer"] if task == "distinction" else "2"
        choose(page, TASKS[task][values.index(wanted)], wanted)
        given.append((question, wanted))
        page.press("Enter", code=13, text="\r")
    page.wait("!document.getElementById('done').hidden")
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.run("document.getElementById('download').click()")
    file = tmp_path / f"{task}_p-1_{task}.csv"
    until = time.monotonic() + browser.PATIENCE
    while not file.is_file():
        assert time.monotonic() < until, "nothing was downloaded"
        time.sleep(0.05)
    assert file.read_text() == page.run("study.csv()")
    answers = read_answers([file], key)
    assert [(one.question, one.answer) for one in answers] == given and all(one.seconds >= 0 for one in answers)
    scores = score(answers, key)
    assert scores.excluded[task] == [] and scores.tables[task].iloc[0]["answers"] == 4
    if task == "distinction":
        assert scores.tables[task].iloc[0]["accuracy"] == 1
    assert page.complaints == [] and all(request.startswith(("file:", "data:", "blob:")) for request in page.requests)


def test_draws_depend_on_the_participant_and_no_check_comes_first(page, study):
    page.open(study / "agreement.html")
    key = json.loads((study / "key.json").read_text())["agreement"]
    draws = {who: page.run(f"study.draw('{who}')") for who in ("1", "2", "3", "anna", "bo")}
    assert draws["1"] == page.run("study.draw('1')") and len({tuple(draw) for draw in draws.values()}) == 5
    for draw in draws.values():
        assert len(set(draw)) == 6 and "check" not in key[draw[0]]
        assert sum("check" in key[one] for one in draw) == 2


def test_mouse_back_and_a_changed_mind(page, study):
    start(page, study, "distinction", "mouse")
    page.run("document.querySelectorAll('#choices input')[1].click()")
    first = page.run("document.querySelector('#choices input:checked').value")
    page.run("document.getElementById('next').click()")
    assert count(page).startswith("Question 2") and page.run("document.getElementById('next').disabled")
    page.run("document.getElementById('back').click()")
    assert count(page).startswith("Question 1")
    assert page.run("document.querySelector('#choices input:checked').value") == first
    page.run("document.querySelectorAll('#choices input')[2].click()")
    assert page.run("study.csv().trim().split('\\n').length") == 2 and first not in page.run("study.csv()")


def test_a_name_is_needed_and_others_do_not_see_the_answers(page, study):
    page.open(study / "agreement.html")
    for wrong in ("", "a b", "=1", "a,b"):
        page.run(f"document.getElementById('participant').value = '{wrong}'")
        page.run("document.getElementById('who').requestSubmit()")
        assert page.run("document.getElementById('asking').hidden"), wrong
    start(page, study, "agreement", "one")
    choose(page, "3", "3")
    start(page, study, "agreement", "other")
    assert page.run("document.querySelector('#choices input:checked')") is None


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("width", [1200, 390])
def test_pages_fit_the_screen_and_can_stand_still(page, study, task, width):
    start(page, study, task, f"wide{width}", width=width, dark=width == 390, still=width == 390)
    page.wait("[...document.images].every(one => one.complete)")
    assert page.run("document.documentElement.scrollWidth") <= width
    shown = "document.querySelector('[data-picture]').src"
    before = page.run(shown)
    page.press("m", code=77, text="m")
    after = page.run(shown)
    assert before != after and ("Start" if width == 1200 else "Stop") in page.run(
        "document.getElementById('motion').textContent")
    assert (len(before) > len(after)) == (width == 1200)
    assert page.run("[...document.images].every(one => one.alt)")
    assert page.run("document.querySelectorAll('#choices input').length") == 4 and page.complaints == []

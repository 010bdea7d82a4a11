"""The report and the pages of explanations in a browser: no complaints, no network, any reader, any screen."""

import os
import time

import browser
import pytest
from reported import EVIL, results_folder

from explain.names import file_name
from explain.summary import write_report


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if browser.find() is None:
        assert os.environ.get("CI") != "true", "no Chromium; apt-get install chromium"
        pytest.skip("no Chromium on this machine (apt-get install chromium), so pages are not looked at")
    opened = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = results_folder(tmp_path_factory.mktemp("reported"), n_more=45)
    write_report(folder)
    return folder


UNFOLD = "for (const part of document.querySelectorAll('details')) part.open = true"
VISIBLE = """[...document.querySelectorAll('#forest .node')].filter(node => node.checkVisibility())
             .map(node => node.querySelector('.name').textContent)"""


def search(page, field, text):
    page.run(f"document.getElementById('{field}').value = {text!r}")
    page.run(f"document.getElementById('{field}').dispatchEvent(new Event('input', {{bubbles: true}}))")


@pytest.mark.parametrize("name", ["report.html", "local_analysis/index.html", "story"])
@pytest.mark.parametrize("width", [1200, 390])
def test_pages_load_in_peace_and_fit_the_screen(page, results, name, width):
    path = results / (f"local_analysis/{file_name(EVIL)}/story.html" if name == "story" else name)
    page.open(path, width=width, dark=width == 390)
    page.run(UNFOLD)
    page.wait("[...document.images].filter(one => one.loading !== 'lazy').every(one => one.complete)")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("typeof hit") == "undefined"
    light = page.run("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert light < 60 if width == 390 else light > 200
    assert page.complaints == []
    assert page.requests and all(request.startswith(("file:", "data:")) for request in page.requests)


def test_measures_stand_below_one_another_on_a_narrow_screen(page, results):
    page.open(results / "report.html", width=390)
    page.run(UNFOLD)
    cells = page.run("""[...document.querySelectorAll('.measured td')].map(one => ({
        right: one.getBoundingClientRect().right, of: one.dataset.of,
        said: getComputedStyle(one, '::before').content}))""")
    assert cells and max(cell["right"] for cell in cells) <= 390
    assert all(cell["of"] and cell["said"] == f'"{cell["of"]}"' for cell in cells)
    page.open(results / "report.html")
    page.run(UNFOLD)
    assert page.run("getComputedStyle(document.querySelector('.measured td')).display") == "table-cell"


def test_the_tree_filters(page, results):
    page.open(results / "report.html")
    everything = page.run(VISIBLE)
    assert len(everything) == 10
    search(page, "find-node", "MUSIC")
    assert page.run(VISIBLE) == ["Thing", "Music", 'Drum "fast"']
    search(page, "find-node", "other thing")
    assert page.run(VISIBLE) == ["Thing", "Other", "Saw"]
    search(page, "find-node", "train_2")  # the second class's first prototype
    assert page.run(VISIBLE) == ["Body", "Arms", "Wave"]
    assert page.run("[...document.querySelectorAll('.proto')].filter(one => one.checkVisibility()).length") == 1
    assert page.run("document.querySelector('[data-for=forest] [role=status]').textContent") == "1 of 10 nodes"
    search(page, "find-node", "nothing like it")
    assert page.run(VISIBLE) == []
    search(page, "find-node", "")
    assert set(page.run(VISIBLE)) == set(everything)
    assert page.complaints == []


def test_stories_filter_and_unfold(page, results):
    shown = "[...document.querySelectorAll('.story')].filter(one => !one.hidden).length"
    page.open(results / "report.html")
    assert page.run(shown) == 40
    page.run("document.querySelector('[data-more]').click()")
    assert page.run(shown) == 48 and page.run("document.activeElement.tagName") == "SUMMARY"
    page.run("document.querySelector('[data-only]').click()")
    assert page.run(shown) == 2
    search(page, "find-video", "saw_g01")
    assert page.run(shown) == 1


def test_gifs_are_loaded_when_they_are_looked_at_and_play(page, results):
    page.open(results / "report.html")
    assert not [request for request in page.requests if request.endswith(".gif")]
    page.run("document.querySelector('#node-0 > details').open = true")
    page.run("document.getElementById('node-0').scrollIntoView()")
    first = "document.querySelector('#node-0 .proto img')"
    page.wait(f"{first}.complete && {first}.naturalWidth > 0")
    assert page.run(f"{first}.currentSrc").endswith(".gif")
    assert [request for request in page.requests if request.endswith(".gif")]
    looks = {page.picture(first)}
    until = time.monotonic() + browser.PATIENCE
    while len(looks) < 3:  # frames that differ
        assert time.monotonic() < until, "it stands still"
        looks.add(page.picture(first))


def test_nothing_moves_for_those_who_ask_for_that(page, results):
    page.open(results / "report.html", still=True)
    page.run("document.querySelector('#node-0 > details').open = true")
    page.run("document.getElementById('node-0').scrollIntoView()")
    page.wait("document.querySelector('#node-0 .proto img').currentSrc.endsWith('_patch.png')")


def test_the_keyboard_reaches_everything(page, results):
    page.open(results / "report.html")
    node = "document.querySelector('#node-0 > details')"
    page.run(f"{node}.querySelector('summary').focus()")
    page.press("Enter", code=13, text="\r")
    assert page.run(f"{node}.open") is True
    page.run("document.querySelector('nav a').focus()")
    for _ in range(5):  # the links of the navigation, and then the first region that scrolls
        page.press("Tab", code=9)
    assert page.run("document.activeElement.getAttribute('role')") == "region"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_screen_reader_hears_names(page, results):
    page.open(results / "report.html")
    page.run(UNFOLD)
    page.call("Accessibility.enable")
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    page.call("Accessibility.disable")
    heard = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in tree if not one.get("ignored")]
    roles = {role for role, _ in heard}
    assert {"image", "searchbox", "checkbox", "button", "table", "rowheader", "navigation", "main"} <= roles
    for role in ("image", "searchbox", "checkbox", "button", "link", "region", "columnheader"):
        assert all(name.strip() for other, name in heard if other == role), role
    levels = page.run("[...document.querySelectorAll('h1, h2, h3, h4')].map(one => Number(one.tagName[1]))")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))

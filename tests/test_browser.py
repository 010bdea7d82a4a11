"""The report and the pages of explanations in a browser: no complaints, no network, any reader, any screen."""

import time

import browser
import pytest
import torch
from reported import EVIL, explained, results_folder

from explain.names import file_name
from explain.report import write_report


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
    for _ in range(page.run("document.querySelectorAll('nav a').length")):  # and then the first region that scrolls
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


@pytest.fixture(scope="module", params=["tree", "tree_hyperbolic"])
def asked(request, tmp_path_factory):
    """A story that can be asked, and the score and activations behind it."""
    folder, model, activations = explained(tmp_path_factory.mktemp(request.param), request.param)
    return folder / "story.html", model, activations


def tab_to(page, script):
    """Press Tab until the focused element, `at`, is as wanted."""
    for _ in range(300):
        page.press("Tab", code=9)
        if page.run(f"(at => {script})(document.activeElement)"):
            assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            return
    raise AssertionError(f"the keyboard does not reach {script}")


def check_probabilities(page, asked):
    """The page's probabilities are the program's, of the same activations without those switched off."""
    _, model, activations = asked
    off = page.run("[...whatIf.off]")
    activations = activations.double().clone()
    activations[off] = 0
    with torch.no_grad():
        expected = model.score(activations[None])[0][0].exp()
    torch.testing.assert_close(torch.tensor(page.run("whatIf.probabilities()"), dtype=torch.float64), expected,
                               rtol=0, atol=1e-6)
    return off


STATUS = "document.getElementById('what-if-status').textContent"


def test_prototypes_are_switched_off_by_keyboard_and_probabilities_are_the_programs(page, asked):
    page.open(asked[0])
    assert check_probabilities(page, asked) == []
    assert page.run(STATUS) == "Every prototype is on." and page.run("document.getElementById('what-if-bar').hidden")
    seen = []
    for _ in range(2):  # on cards
        tab_to(page, "at.dataset.silence !== undefined && !at.checked")
        page.press(" ", code=32, text=" ")
        off = check_probabilities(page, asked)
        assert len(off) == len(seen) + 1 and str(off[-1]) in page.run(STATUS)
        assert page.run("document.activeElement.closest('.card').classList.contains('off')")
        seen = off
    tab_to(page, "at.tagName === 'SUMMARY' && at.closest('#what-if-lists') !== null")
    page.press("Enter", code=13, text="\r")
    for _ in range(2):  # in the list of all prototypes
        tab_to(page, "at.dataset.silence !== undefined && !at.checked")
        number = int(page.run("document.activeElement.dataset.silence"))
        page.press(" ", code=32, text=" ")
        assert check_probabilities(page, asked)[-1] == number
        assert page.run("Number(document.activeElement.dataset.silence)") == number  # where one was
    off = sorted(check_probabilities(page, asked))
    command = page.run("document.getElementById('what-if-command').textContent")
    assert command == ("python -m util_scripts.prune --resume_path 'my results/save_14.pth' --forbid "
                       + " ".join(map(str, off)))
    assert page.run("document.getElementById('what-if-status').getAttribute('aria-live')") == "polite"
    tab_to(page, "at.dataset.reset !== undefined")
    page.press("Enter", code=13, text="\r")
    assert check_probabilities(page, asked) == [] and page.run(STATUS) == "Every prototype is on."
    assert not page.run("document.querySelectorAll('.card.off, [data-silence]:checked').length")
    assert page.complaints == [] and all(request.startswith(("file:", "data:")) for request in page.requests)
    assert page.run("typeof hit") == "undefined"


def test_why_not_another_shows_what_would_have_to_go(page, asked):
    page.open(asked[0])
    asks = page.run("[...document.querySelectorAll('[data-why]')].map(one => [one.dataset.level, one.dataset.why])")
    assert {int(level) for level, _ in asks} == {0, 1, 2}
    for level, other in ((int(level), int(other)) for level, other in asks):
        page.run("document.querySelector('[data-reset]').click()")
        button = f"document.querySelector('[data-why=\"{other}\"]')"
        page.run(f"{button}.focus()")
        page.press("Enter", code=13, text="\r")
        answer = f"document.getElementById('answer-{level}')"
        assert not page.run(f"{answer}.hidden") and page.run(f"{answer}.contains(document.activeElement)")
        assert "nats" in page.run(f"{answer}.textContent")
        wanted = page.run(f"whatIf.toWin({other})")
        if wanted:
            tab_to(page, "(at.dataset.key || '').startsWith('win')")
            page.press("Enter", code=13, text="\r")
            assert check_probabilities(page, asked) == wanted
            found = torch.tensor(page.run("whatIf.probabilities()"))
            assert int(found.masked_fill(asked[1].level_of != level, 0).argmax()) == other
        tab_to(page, "(at.dataset.key || '').startsWith('close')")
        page.press("Enter", code=13, text="\r")
        assert page.run(f"{answer}.hidden") and page.run(f"document.activeElement === {button}")
    assert page.complaints == []


@pytest.mark.parametrize("width", [1200, 390])
def test_a_page_that_can_be_asked_fits_the_screen(page, asked, width):
    page.open(asked[0], width=width, dark=width == 390)
    page.run(UNFOLD)
    page.run("document.querySelectorAll('.card [data-silence]').forEach(one => one.click())")
    page.run("document.querySelectorAll('[data-why]').forEach(one => one.click())")
    assert page.run("document.documentElement.scrollWidth") <= width
    bar = page.run("(({top, bottom}) => [top, bottom])(document.getElementById('what-if-bar').getBoundingClientRect())")
    assert 0 < bar[0] < bar[1] <= 900 + 1
    assert page.complaints == []


def test_a_score_without_a_formula_is_not_asked(page, tmp_path):
    folder, _, _ = explained(tmp_path, "hyperbolic")
    assert not (folder / "what_if.json").exists()
    for name in ("index.html", "story.html"):
        page.open(folder / name)
        assert page.run("document.querySelectorAll('#what-if, script, [data-silence], [data-why]').length") == 0
        assert page.run("document.querySelectorAll('.card').length") > 0 and page.complaints == []

"""The report of a results folder: its figures, its words where something is missing, names that stay text."""

import json
import os
import re
import shutil
import sys
from urllib.parse import unquote

import pytest
from reported import EVIL, MODEL, TREE, explanation, results_folder
from test_report import Page

from explain import report
from explain.summary import Plot, write_report
from util_scripts import make_report
from util_scripts.errors import user_errors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return results_folder(tmp_path_factory.mktemp("reported"))


@pytest.fixture
def results(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "results")


def page_of(results):
    return Page(write_report(results))


def test_figures_are_those_of_the_files(results):
    words = page_of(results).words().replace(report.NARROW, " ")
    for said in ("Measured on 20 videos of the subset val (60 clips)", "right class62.5 %", "right grandparent87.5 %",
                 "right after back-off, which names the class of 75 %98 %",
                 "wrong on 2.50 levels on average", "0.123", "names the class in 75 %",
                 "2 videos are taken for something else", "15 of 20 prototypes come from a training video"):
        assert said in words, said
    assert "train with --calibrate" in words


def test_nodes_of_the_same_name_stay_two_nodes(results):
    page = page_of(results)
    shown = re.findall(r'data-find="([^"]*)">\s*<details[^>]*>\s*<summary><span class="name">Other<', page.source)
    assert shown == ["other body", "other thing"]
    assert "Other / Thing" in page.words()  # as explanations call it


def test_links_and_pictures_are_there(results):
    page = page_of(results)
    ids = set(re.findall(r'\bid="([^"]+)"', page.source))
    assert len(ids) == len(re.findall(r'\bid="', page.source))
    for link in page.links:
        assert link[1:] in ids if link.startswith("#") else (results / unquote(link)).is_file(), link
    stills = re.findall(r'srcset="([^"]+)"', page.source)
    assert len(page.images) == len(stills) > 12
    assert all((results / unquote(address)).is_file() for address in [*page.images, *stills])
    assert not re.search(r"""(https?:)?//[a-z]|@import|url\(""", page.source)
    assert page.source.count("<img") == page.source.count('loading="lazy"')


def test_names_stay_text(results):
    page = page_of(results)
    assert EVIL in page.words() and "Run & <b>jump</b>" in page.words() and "<i>x</i>" in page.words()
    assert "<b>jump" not in page.source and "<img src=x" not in page.source and 'Drum "fast"' not in page.source


def test_pictures_say_how_many_merged_prototypes_they_stand_for(results):
    """Prototype 2 of the folder for three, 4 for two, 6 for one; of 0 nothing is written."""
    source = page_of(results).source
    for number, said in ((0, None), (2, 3), (4, 2), (6, None)):
        (shown,) = re.findall(rf'<img [^>]*alt="(Training video train_{number} [^"]*)"', source)
        (caption,) = re.findall(rf"<b>Prototype {number}</b><span>(.*?)</span>", source)
        for text in (shown, caption):
            assert ("merged" in text) == (said is not None) and (said is None or f"for {said} merged" in text)
    told = re.search(r'data-verdict="wrong".*?</ol>', source, re.S)[0]
    assert told.count("for 2 merged") == 2 * 3  # below and in the picture's words, at each level


def test_stories_go_from_the_top_down_and_say_whether_boxes_hold(results):
    page = page_of(results)
    story = page.source[page.source.index('id="videos"'):]
    told = re.search(r'data-verdict="wrong".*?</ol>', story, re.S)[0]
    assert re.findall(r"<p class=\"kicker\">(\w+)<", told) == ["grandparent", "parent", "class"]
    assert told.count("The box does not hold") == 1 and told.count("Its box alone keeps 90") == 2
    assert told.count("Similarity 92") == 3 and told.count("evidence 2.76") == 3
    assert page.source.index('data-verdict="wrong"') < page.source.index('data-verdict="right"')


def test_what_first_prototypes_resemble_and_decide_is_told_of_every_level(results):
    page = page_of(results)
    table = page.source[page.source.index('id="decide"'):page.source.index('id="good"')]
    rows = [re.findall(r">([^<>]+)</t[hd]>", row) for row in table.replace(report.NARROW, " ").split("<tr>")[2:]]
    assert [row[1:] for row in rows] == [
        ["3", "3", "3"], ["92 %"] * 3, ["99.8 %"] * 3, ["33.3 %", "33.3 %", "66.7 %"],
        ["77.9 %"] * 3, ["30.1 %"] * 3,  # exp -.25, exp -1.2
        ["100 %", "0 %", "0 %"], ["100 %"] * 3,
        ["62.5 %"] * 3, ["31.2 %"] * 3, ["6.3 %"] * 3]  # 1, .5 and .1 of 1.6 nats
    assert 'href="#decide"' in page.source
    for path in results.glob("local_analysis*/*/explanation.json"):  # as of before they told what decides
        path.write_text(path.read_text().replace('"decision"', '"was"'))
    assert "#decide" not in page_of(results).source


def test_mistakes_say_where_the_paths_part(results):
    words = page_of(results).words()
    assert "Body › Other › Run & <b>jump</b>, not Thing › Other › Saw: nothing in common but the root." in words
    assert 'Wrong below Thing: Other › Saw, not Music › Drum "fast".' in words


@pytest.mark.parametrize(("missing", "said"), [
    ("metrics.json", "Nothing was measured yet"), ("img", "Every explained video"), ("opts.json", "How it was made"),
    ("val.json", "The tree and its prototypes"), ("prototypes.json", "No prototypes yet"),
    ("local_analysis", "from the top down"), ("explanations", "holds the prototypes against attribution methods")])
def test_what_is_missing_is_said(results, missing, said):
    path = results / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert said in page_of(results).words()


def test_measures_of_explanations_are_shown_with_the_best_of_each_row(results):
    source = page_of(results).source
    table = source[source.index("Against other explanations"):source.index('id="tree"')]
    assert "Explanations of a &amp; b, 2 videos" in table and 'href="explanations/measures.html"' in table
    rows = {re.match(r"[\w ]+", row)[0].strip(): re.findall(r'<td data-of="[^"]+">(.*?)</td>', row)
            for row in table.split('<th scope="row">')[1:]}
    assert list(rows) == ["insertion", "deletion", "box volume", "purity"]
    means = {name: [re.sub(r"<.*?>", " ", cell).split()[0] for cell in cells] for name, cells in rows.items()}
    assert means["insertion"] == ["0.850", "0.350", "0.550"] and means["deletion"] == ["0.100", "0.400", "\N{EN DASH}"]
    best = {name: ['class="best"' in cell for cell in cells] for name, cells in rows.items()}
    assert best["insertion"] == best["deletion"] == [True, False, False] and not any(best["box volume"])
    assert "Prototypes as such, parent" in table and "0.800 to 0.900" in table


def test_a_calibrated_model_has_a_second_line(results):
    assert 'class="series second" points' not in page_of(results).source.partition("Saying less")[0]
    path = results / "metrics.json"
    content = json.loads(path.read_text())
    content["calibrated"] = True
    for level in content["levels"]:
        level["reliability_calibrated"] = [{"confidence": 0.7, "accuracy": 0.75, "count": 20}]
    path.write_text(json.dumps(content))
    source = page_of(results).source.partition("Saying less")[0]
    assert source.count('class="series second" points') == len(content["levels"])


def test_pictures_of_an_earlier_push_are_not_shown(results):
    log = results / "metrics.jsonl"
    pushed = '{"event": "push", "epoch": %d, "matched": 1}\n{"event": "val", "epoch": 90, "done": ["push", 90, 0]}\n'
    log.write_text(pushed % 20)
    assert page_of(results).source.count("img/epoch_20/") > 12
    log.write_text(log.read_text() + pushed % 30)
    assert "img/epoch_" not in page_of(results).source


def test_without_explanations_it_says_how_to_make_them(results):
    for name in ("local_analysis", "local_analysis_parents"):
        shutil.rmtree(results / name)
    words = page_of(results).words()
    assert "No video was explained yet" in words and "No explanation here was put to the test yet" in words


def test_a_fresh_run_has_a_report(results):
    """Before inference and before a push: with prototypes of no video, and with nothing measured."""
    for path in results.iterdir():
        if path.name != "prototypes.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    rows = [{"prototype": i, "node": list(TREE.path(i)), "video": None} for i in range(len(TREE))]
    (results / "prototypes.json").write_text(json.dumps(rows))
    assert "0 of 10 prototypes come from a training video" in page_of(results).words()


def test_other_models_explanations_are_left_out(results):
    other = explanation("of_another_model", [0], truth=0, said=0) | {"model": "ffffffff"}
    folder = results / "local_analysis" / "of_another_model"
    report.start_folder(folder, other)
    newest = results / "local_analysis" / "v_Wave_g01" / report.EXPLANATION
    os.utime(newest, (2e9, 2e9))
    assert "of_another_model" not in page_of(results).source
    assert json.loads(newest.read_text())["model"] == MODEL


def test_explanations_are_of_the_model_that_was_measured(results):
    path = results / "metrics.json"
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps(metrics | {"model": MODEL}))
    source = page_of(results).source
    assert "v_Wave_g01" in source.partition('id="stories"')[2]
    path.write_text(json.dumps(metrics | {"model": "ffffffff"}))
    source = page_of(results).source
    assert "v_Wave_g01" not in source.partition('id="stories"')[2] and "Why it says so" not in source
    title = results / "explanations" / "measures.md"
    for named, shown in (("00000000", False), ("ffffffff", True)):
        title.write_text(f"# Explanations of a & b, 2 videos, model {named}\n")
        assert ("Prototypes as such, parent" in page_of(results).source) == shown


def test_a_threshold_that_nothing_reaches_is_told(results):
    path = results / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibrated": True, "threshold": 1.0000000000000002}))
    words = page_of(results).words()
    assert "every answer is the root of the tree" in words and "climbs the tree until" not in words


def test_undefined_figures_are_dashes(results):
    metrics = json.loads((results / "metrics.json").read_text())
    metrics |= {"severity": None, "hierarchical": {"precision": None, "recall": None, "f": None}, "mistakes": []}
    for level in metrics["levels"]:
        level |= {"nll": None, "ece": None, "reliability": []}
    metrics["backoff"] |= {"accuracy": None, "coverage_leaf": None, "information": None, "area": None}
    (results / "metrics.json").write_text(json.dumps(metrics))
    words = page_of(results).words()
    assert "None" not in words.replace("None: every video was recognised", "") and "\N{EN DASH}" in words


def called(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["make_report", *map(str, words)])
    with user_errors():
        make_report.main()


def test_the_command_writes_it_anew(results, monkeypatch, capsys):
    called(monkeypatch, "--result_path", results)
    assert capsys.readouterr().out.strip() == str(results / "report.html")


@pytest.mark.parametrize(("file", "content", "said"), [
    ("explanations/measures.csv", "table,level\nx,y\n", "not what evaluate_explanations.py writes"),
    ("metrics.json", "{", "not JSON"), ("metrics.json", '{"subset": "val"}', "not as this version writes it"),
    (None, None, "holds no predictions"), ("gone", None, "no such folder")])
def test_bad_folders_are_one_sentence(results, monkeypatch, capsys, file, content, said):
    if content is None:
        shutil.rmtree(results)
        if file is None:
            results.mkdir()
    else:
        (results / file).write_text(content)
    with pytest.raises(SystemExit) as ended:
        called(monkeypatch, "--result_path", results)
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(lines) == 1 and said in lines[0]


def test_plots_put_their_corners_in_the_corners():
    plot = Plot(0.2)
    assert plot.line([(0, 0), (1, 0.2), (None, 0.1)]) == f"{plot.left}.0,{plot.height - plot.bottom}.0 " \
        f"{plot.width - plot.margin}.0,{plot.margin}.0"

"""A study: questions whose answers only the key tells, and scores of answers that are known."""

import base64
import csv
import json
import math
import re

import numpy as np
import pytest
from program import explain_ancestors, explain_classes, refused
from studied import NODES, explained_video, explained_videos, frames

from explain import render
from explain.study import StudySettings, make_study
from explain.study.answers import Answer
from explain.study.clips import FRAMES, Moving
from explain.study.results import agreement_row, distinction_row
from options.errors import user_errors
from util_scripts import study as script

SETTINGS = StudySettings(n_questions=5, pool=9)


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    return explained_videos(tmp_path_factory.mktemp("explained"))


@pytest.fixture(scope="module")
def made(explained):
    return make_study([explained], SETTINGS)


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    made.write(out)
    return out


def call(*words):
    with user_errors():
        script.main([str(word) for word in words])


# --- pictures


def test_a_moving_picture_is_small_and_keeps_its_time(tmp_path):
    (tmp_path / "clip.webp").write_bytes(render.webp(np.concatenate([frames(i) for i in range(3)]), 0.05))
    moving = Moving.read(tmp_path / "clip.webp")
    assert len(moving.pixels) == 60 and sum(moving.seconds) == pytest.approx(3.0)
    shown = moving.encoded(moving.frame(99))
    assert set(shown) == {"moving", "still"} and len(shown["still"]) < len(shown["moving"]) < 60_000
    (tmp_path / "again.webp").write_bytes(base64.b64decode(shown["moving"].partition(",")[2]))
    again = Moving.read(tmp_path / "again.webp")
    assert len(again.pixels) <= FRAMES and sum(again.seconds) == pytest.approx(3.0)


def test_a_box_of_the_video_is_found_in_the_picture_of_its_clip():
    """A picture of frames 10, 12, ... 48, half as large as the video's region, which begins at (20, 40)."""
    moving = Moving(frames(0), [0.04] * 20)
    place = moving.place([14, 40, 60, 31, 60, 80], [10, 49], [20, 40, 100, 120])
    assert place == (2, 10, 10, 11, 20, 20)
    merged = Moving(moving.pixels[[0, 2, 4, *range(5, 20)]], [0.08, 0.08, *[0.04] * 16])  # frames 0, 2 were shown twice
    assert merged.place([14, 40, 60, 31, 60, 80], [10, 49], [20, 40, 100, 120])[::3] == (1, 9)
    assert moving.place([0, 0, 0, 500, 500, 500], [10, 49], [20, 40, 100, 120]) == (0, 0, 0, 20, 40, 40)
    assert moving.cut(place).pixels.shape == (9, 10, 10, 3)
    assert np.array_equal(moving.boxed(place).pixels[0], moving.pixels[0])
    assert not np.array_equal(moving.boxed(place).pixels[5], moving.pixels[5])


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "clip.webp").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"clip\.webp"):
        Moving.read(tmp_path / "clip.webp")


# --- questions


def test_questions_are_drawn_over_the_videos_and_the_key_knows_them(made):
    for task, n in (("agreement", 9), ("distinction", 7)):  # one video's class is not known
        asked = [one for one in made.questions[task] if not one["check"]]
        assert len(asked) == n and len(made.questions[task]) == n + 2
        assert {one["id"] for one in made.questions[task]} == made.key[task].keys()
        videos = [made.key[task][one["id"]]["video"] for one in asked]
        assert len(set(videos)) == min(n, 8)
    for entry in made.key["distinction"].values():
        if "check" in entry:
            assert set(entry["check"]) <= set(entry["options"])
            continue
        i = int(entry["video"][-1])
        assert entry["options"][entry["answer"]] == NODES[i % 6] and len(set(entry["options"].values())) == 4
        assert entry["right"] == (i not in (1, 2)) == (entry["predicted"] == entry["answer"])
    right = {entry["video"]: entry["right"] for entry in made.key["agreement"].values() if "video" in entry}
    assert right["v_secret_0"] is True and right["v_secret_1"] is False and right["v_secret_7"] is None


def test_checks_are_what_they_say(made):
    same = [one for one in made.questions["agreement"] if one["check"] and "prompt" not in one]
    told = [one for one in made.questions["agreement"] if "prompt" in one]
    assert [one["parts"][0] == one["parts"][1] for one in same + told] == [True, True]
    assert made.key["agreement"][same[0]["id"]]["check"] == ["3", "4"]
    (wanted,) = made.key["agreement"][told[0]["id"]]["check"]
    assert f"answer {wanted}," in told[0]["prompt"]
    for one in (one for one in made.questions["distinction"] if one["check"]):
        (wanted,) = made.key["distinction"][one["id"]]["check"]
        here, there = one["parts"][one["options"].index(wanted)]
        assert (here == there) == ("prompt" not in one)
        if "prompt" in one:
            assert one["fixed"] and wanted == one["options"][-1]


def test_a_study_depends_on_its_seed_alone(tmp_path):
    for i in range(2):
        explained_video(tmp_path, f"v_{i}", truth=i, said=i, k=1)
    one, again, other = (make_study([tmp_path], StudySettings(seed=seed)) for seed in (1, 1, 2))
    assert again.id == one.id and again.questions == one.questions and again.key == one.key
    assert other.id != one.id and other.questions != one.questions


def test_no_answer_can_be_read_from_a_page(written, made):
    """Neither names nor places: no video, no class, no word of the key, and the right option anywhere."""
    for task in ("agreement", "distinction"):
        text = (written / f"{task}.html").read_text()
        assert "http:" not in text and "https:" not in text and "src=\"" not in text
        assert not re.search(r"secret|train_|Class [P-U]|local_analysis|prototype_|level0", text)
        data = json.loads(re.search(r'id="study-data">(.*?)</script>', text, re.DOTALL)[1])
        allowed = {"id", "check", "level", "parts", "clip", "options", "prompt", "fixed"}
        assert all(set(one) <= allowed for one in data["questions"])
        shown = {name for one in data["questions"] for part in one["parts"] for name in part}
        assert set(data["pictures"]) == shown | {one["clip"] for one in data["questions"] if "clip" in one}
    places = {one["options"].index(made.key["distinction"][one["id"]]["answer"])
              for one in made.questions["distinction"] if not one["check"]}
    assert len(places) > 1
    assert sorted(path.name for path in written.iterdir()) == ["agreement.html", "distinction.html", "key.json"]


def test_folders_that_cannot_be_asked_about_are_named(tmp_path, capsys, explained):
    out = ["--out", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(capsys, tmp_path / "empty", *out, caller=call)
    assert "folder" in refused(capsys, *out, caller=call)
    assert "--key" in refused(capsys, explained, "--key", "key.json", *out, caller=call)
    assert "--pool" in refused(capsys, explained, "--pool", "0", *out, caller=call)
    old = explained_video(tmp_path / "old", "v", truth=0, said=0) / "explanation.json"
    content = json.loads(old.read_text())
    del content["levels"][0]["contrast"]
    old.write_text(json.dumps(content))
    assert "earlier version" in refused(capsys, tmp_path / "old", *out, caller=call)
    old.write_text("{")
    assert "not JSON" in refused(capsys, tmp_path / "old", *out, caller=call)
    explained_video(tmp_path / "two", "v", truth=0, said=0)
    explained_video(tmp_path / "two", "w", truth=0, said=0, model="other")
    assert "2 models" in refused(capsys, tmp_path / "two", *out, caller=call)
    bare = explained_video(tmp_path / "bare", "v", truth=0, said=0)
    (bare / "webp" / "clip.webp").unlink()
    assert "--no_img" in refused(capsys, tmp_path / "bare", *out, caller=call)
    assert not (tmp_path / "out").exists()


# --- answers


def answer(task, participant, known, value, question="q"):
    return Answer(task, participant, question, value, 1.0, known)


def test_mean_agreement_is_over_participants():
    rows = [answer("agreement", who, {}, value) for who, values in (("a", "1 2 3"), ("b", "4 4"), ("c", "3"))
            for value in values.split()]
    found = agreement_row(rows)
    means = np.array([2.0, 4.0, 3.0])
    half = 4.302653 * means.std(ddof=1) / math.sqrt(3)  # Student's t of two degrees of freedom
    assert found["mean"] == pytest.approx(3.0)
    assert (found["low"], found["high"]) == (pytest.approx(max(1, 3 - half)), pytest.approx(min(4, 3 + half)))
    one = agreement_row(rows[:3])
    assert one["mean"] == 2 and one["low"] == pytest.approx(max(1, 2 - 4.302653 / math.sqrt(3)), abs=1e-4)
    assert math.isnan(agreement_row(rows[:1])["low"])


def test_distinction_is_tested_exactly():
    """Of ten questions seven right by a chance of one in four: the sum of all outcomes that are no more probable."""
    rows = [answer("distinction", "a", {"answer": "x", "predicted": "x" if i < 8 else "y"}, "x" if i < 7 else "y")
            for i in range(10)]
    found = distinction_row(rows)
    outcomes = [math.comb(10, k) * 0.25 ** k * 0.75 ** (10 - k) for k in range(11)]
    assert found["p"] == pytest.approx(sum(p for p in outcomes if p <= outcomes[7] * (1 + 1e-9)))
    assert (found["right"], found["accuracy"], found["chance"]) == (7, 0.7, 0.25)
    assert found["low"] == pytest.approx(0.3475, abs=1e-4) and found["high"] == pytest.approx(0.9333, abs=1e-4)
    assert found["as_model"] == pytest.approx(0.9)


def write_answers(path, key, participant, choose, *, separator=","):
    """All questions of both tasks, answered by choose(task, entry)."""
    rows = [["study", "task", "participant", "position", "question", "answer", "seconds"]]
    for task in ("agreement", "distinction"):
        rows += [[key["study"], task, participant, i, name, choose(task, entry), "2.5"]
                 for i, (name, entry) in enumerate(key[task].items(), 1)]
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows))
    return path


def perfect(task, entry):
    if "check" in entry:
        return entry["check"][-1]
    return "4" if task == "agreement" else entry["answer"]


def wrong(task, entry):
    """Awake, but agrees with nothing and always takes another option than the right one."""
    if "check" in entry:
        return entry["check"][-1]
    return "1" if task == "agreement" else next(one for one in entry["options"] if one != entry["answer"])


def asleep(task, entry):
    return "1" if task == "agreement" else next(iter(entry["options"]))


def rows_of(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_answers_come_to_what_they_are(written, tmp_path, capsys):
    key = json.loads((written / "key.json").read_text())
    files = [write_answers(tmp_path / "a.csv", key, "anna", perfect),
             write_answers(tmp_path / "b.csv", key, "bo", wrong, separator=";"),
             write_answers(tmp_path / "c.csv", key, "cleo", asleep)]
    call("--score", *files, "--key", written / "key.json", "--out", tmp_path / "scores")
    printed = capsys.readouterr().out
    assert "agreement: 2.50 of 4, 18 answers, 2 people" in printed and "p = " in printed
    agreement = {(row["participant"], row["level"], row["prediction"]): row
                 for row in rows_of(tmp_path / "scores" / "agreement.csv")}
    assert float(agreement["all", "all", "all"]["mean"]) == 2.5
    assert float(agreement["anna", "all", "wrong"]["mean"]) == 4
    assert float(agreement["bo", "class", "right"]["mean"]) == 1
    n = {name: int(agreement["anna", "all", name]["answers"]) for name in ("all", "right", "wrong")}
    assert n["all"] == 9 > n["right"] + n["wrong"] > n["wrong"] > 0  # of one video the truth is not known
    distinction = {(row["participant"], row["level"], row["prediction"]): row
                   for row in rows_of(tmp_path / "scores" / "distinction.csv")}
    assert float(distinction["anna", "all", "all"]["accuracy"]) == 1
    assert float(distinction["anna", "all", "all"]["p"]) == pytest.approx(0.25 ** 7)
    assert float(distinction["bo", "all", "all"]["accuracy"]) == 0
    assert float(distinction["anna", "all", "wrong"]["as_model"]) == 0
    assert "cleo" not in {row["participant"] for row in rows_of(tmp_path / "scores" / "agreement.csv")}
    text = (tmp_path / "scores" / "study.md").read_text()
    assert text.count("Left out for a failed or missing attention check: cleo.") == 2
    assert "| anna | all | all | 9 | 4.00" in text


def test_who_leaves_out_the_checks_is_left_out(written, tmp_path, capsys):
    key = json.loads((written / "key.json").read_text())
    path = write_answers(tmp_path / "a.csv", key, "anna", perfect)
    checks = {name for task in ("agreement", "distinction") for name, of in key[task].items() if "check" in of}
    lines = [line for line in path.read_text().splitlines() if not checks & set(line.split(","))]
    assert len(lines) < len(path.read_text().splitlines())
    path.write_text("\n".join(lines))
    call("--score", path, "--key", written / "key.json", "--out", tmp_path / "scores")
    assert "left one out" in capsys.readouterr().out and "anna" in (tmp_path / "scores" / "study.md").read_text()


@pytest.mark.parametrize(("line", "field", "value", "word"), [
    (3, "answer", "5", "'5'"), (3, "answer", "", "''"), (4, "question", "0000", "no question"),
    (5, "study", "beef", "beef"), (2, "task", "taste", "taste"), (6, "participant", "=1+1", "participant"),
    (3, "seconds", "soon", "seconds"), (3, "seconds", "nan", "seconds"), (3, "seconds", "-5", "seconds")])
def test_a_bad_line_is_one_sentence_with_file_and_line(written, tmp_path, capsys, line, field, value, word):
    key = json.loads((written / "key.json").read_text())
    path = write_answers(tmp_path / "bad.csv", key, "anna", perfect)
    rows = [row.split(",") for row in path.read_text().splitlines()]
    rows[line - 1][rows[0].index(field)] = value
    path.write_text("\n".join(map(",".join, rows)))
    error = refused(capsys, "--score", path, "--key", written / "key.json", caller=call)
    assert f"bad.csv, line {line}:" in error and word in error
    assert not (written / "study.md").exists()


def test_bad_files_are_one_sentence(written, tmp_path, capsys):
    key = json.loads((written / "key.json").read_text())
    good = write_answers(tmp_path / "good.csv", key, "anna", perfect)
    of_key = ["--key", written / "key.json"]
    again = write_answers(tmp_path / "again.csv", key, "anna", wrong)
    error = refused(capsys, "--score", good, again, *of_key, caller=call)
    assert "again.csv, line 2" in error and "good.csv, line 2" in error
    good.write_text(good.read_text() + "1,2\n")
    assert "good.csv, line 22: 2 fields" in refused(capsys, "--score", good, *of_key, caller=call)
    good.write_text("question,answer\n")
    assert "line 1: no column study" in refused(capsys, "--score", good, *of_key, caller=call)
    good.write_text("study,task,participant,position,question,answer,seconds\n\n")
    assert "no answer" in refused(capsys, "--score", good, *of_key, caller=call)
    good.write_bytes(b"\xff\xfe\x00")
    assert "good.csv" in refused(capsys, "--score", good, *of_key, caller=call)
    assert "none.csv" in refused(capsys, "--score", tmp_path / "none.csv", *of_key, caller=call)
    assert "--key" in refused(capsys, "--score", good, "--key", tmp_path / "none.json", caller=call)
    (tmp_path / "list.json").write_text("[]")
    assert "list.json" in refused(capsys, "--score", good, "--key", tmp_path / "list.json", caller=call)
    (tmp_path / "list.json").write_text(json.dumps(key | {"agreement": []}))
    assert "list.json" in refused(capsys, "--score", good, "--key", tmp_path / "list.json", caller=call)
    assert "contradict" in refused(capsys, written, "--score", good, caller=call)
    assert "--seed" in refused(capsys, "--score", good, "--seed", "3", caller=call)


@pytest.mark.slow
def test_explain_ask_and_score_over_the_command_line(whole, tmp_path, capsys):
    """From a trained model to tables, and what it asks is what its explanations hold."""
    line = ["--resume_path", whole / "save_3.pth", "--n_videos", 2, "--k", 1, "--heat", "upsample"]
    explain_classes(*line, "--out", tmp_path / "local_analysis")
    explain_ancestors(*line, "--out", tmp_path / "local_analysis_parents")
    out = tmp_path / "study"
    call(tmp_path / "local_analysis", tmp_path / "local_analysis_parents", "--out", out, "--n_questions", 3)
    assert "agreement.html: 6 questions" in capsys.readouterr().out
    key = json.loads((out / "key.json").read_text())
    assert {entry["level"] for entry in key["agreement"].values() if "level" in entry} == {0, 1, 2}
    for entry in (entry for entry in key["distinction"].values() if "check" not in entry):
        found = json.loads((tmp_path / "local_analysis" / entry["video"] / "explanation.json").read_text())
        assert entry["options"][entry["answer"]] == found["truth"]
    write_answers(tmp_path / "a.csv", key, "7", perfect)
    call("--score", tmp_path / "a.csv", "--out", out)
    assert float(rows_of(out / "agreement.csv")[0]["mean"]) == 4
    assert (out / "study.md").is_file()

"""hierarchy/texts.py: text, CSV and JSON in any usual encoding; errors name file, line and what was expected."""

import codecs
import json

import pytest

from datasets.annotation import read_annotation
from evaluation.localisation import read_truth
from hierarchy.texts import read_json, read_lines, read_table, read_text
from hierarchy.tree import Hierarchy
from util_scripts.hmdb51_json import read_splits
from util_scripts.ucf101_json import read_classes, read_list

ENCODINGS = {
    "plain": lambda text: text.encode(),
    "marked": lambda text: text.encode("utf-8-sig"),
    "utf-16-le": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16-be": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-32": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "mac": lambda text: text.replace("\n", "\r").encode(),
    "blank lines": lambda text: ("\n\n" + text.replace("\n", " \t\n \n")).encode(),
}


@pytest.fixture(params=ENCODINGS)
def write(request, tmp_path):
    def written(name, text):
        (tmp_path / name).write_bytes(ENCODINGS[request.param](text))
        return tmp_path / name
    return written


def test_lists_of_any_encoding(write, tmp_path):
    classes = read_classes(write("classInd.txt", "1 Größe\n2\tPing-pong\n10  Two words\n"))
    assert classes == ["Größe", "Ping-pong", "Two words"]
    listed = read_list(write("trainlist01.txt", "Größe/a b.avi 1\nping_pong/-x.avi\t2\nTwo words\\c.avi\n"), classes)
    assert listed == [("Größe", "a b"), ("Ping-pong", "-x"), ("Two words", "c")]
    write("run_test_split1.txt", "a b.avi 1\n-x.avi\t2\nc.avi 0\n")
    assert [video.place for video in read_splits(tmp_path)[1]] == ["run/a b", "run/-x"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_trees_and_tables_of_any_encoding_and_separator(write, mark):
    text = "Größe,A,Root\nPing-pong , A, Root\n".replace(",", mark)
    assert Hierarchy.from_csv(write("tree.csv", text)).rows == [["Größe", "A"], ["Ping-pong", "A"]]
    rows = read_table(write("train.csv", "label,youtube_id,time_start\nrun,-x,1\nride,_y,2\n".replace(",", mark)))
    assert [row for _, row in rows] == [{"label": "run", "youtube_id": "-x", "time_start": "1"},
                                        {"label": "ride", "youtube_id": "_y", "time_start": "2"}]
    rows = read_table(write("set.csv", "run/a.mp4,run,3,0\n".replace(",", mark)), ("video", "label", "yes", "no"))
    assert [row["label"] for _, row in rows] == ["run"]


def test_a_spreadsheet_s_empty_cells_and_commas_in_quotes(tmp_path):
    (tmp_path / "tree.csv").write_text('"eating, alone",A,Root,,\nrun,A,Root,,\n,,,,\n')
    assert Hierarchy.from_csv(tmp_path / "tree.csv").names[:2] == ("eating, alone", "run")


def test_json_of_any_encoding(write):
    entry = {"subset": "train", "annotations": {"label": "Größe", "segment": [1, 5]}}
    path = write("a.json", json.dumps({"labels": [], "database": {"v": entry}}, ensure_ascii=False, indent=1))
    assert read_annotation(path)["v"].label == "Größe"
    tube = {"first_frame": 0, "last_frame": 1, "boxes_x_y_w_h": [[0, 0, 1, 1]]}
    assert list(read_truth(write("truth.json", json.dumps({"Größe": {"tubes": [tube]}}, ensure_ascii=False))))


@pytest.mark.parametrize(("content", "line"), [
    (b'{\n "a": 1,\n "b" 2}', 3), (b'{\r "a": 1,\r\r "b" 2}', 4), (b"", 1), (b'{"a":\n "\xff"}', 2),
    (b'{"a":\n 1}\n}', 3), (codecs.BOM_UTF16_LE + '{\n"a" 1}'.encode("utf-16-le"), 2)])
def test_what_is_no_json_is_one_sentence_with_its_line(tmp_path, content, line):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json:{line}: .*again$"):
        read_json(tmp_path / "a.json", remedy="write it again")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[" + b"9" * 10_000 + b"]"])
def test_json_that_python_refuses(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_what_is_no_text_is_one_sentence_with_its_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("Größe\nGröße".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt:1: .*UTF-8"):
        read_text(path)
    path.write_bytes("a\nGroße".encode("utf-16-le").replace(b"\xdf", b"s"))  # without a mark
    with pytest.raises(ValueError, match=r"a\.txt:1: .*UTF-8"):
        read_lines(path)
    with pytest.raises(FileNotFoundError, match=r"b\.txt: no such list"):
        read_text(tmp_path / "b.txt", missing="no such list")
    path.write_text("label,id\nrun,1\nrun\n")
    with pytest.raises(ValueError, match=r"a\.txt:3: .*label,id"):
        read_table(path)


def test_a_form_feed_ends_no_line(tmp_path):
    (tmp_path / "a.txt").write_text("a\x0cb\x85c\u2028d\ne\n", encoding="utf-8")
    assert read_lines(tmp_path / "a.txt") == [(1, "a\x0cb\x85c\u2028d"), (2, "e")]

"""hierarchy/names.py: one function compares names; exact ones win, and what fits several is told."""

import pickle
import unicodedata

import pytest

from hierarchy.names import AmbiguousName, Names, normalise
from hierarchy.tree import Hierarchy


@pytest.mark.parametrize("names", [
    ("HandstandPushups", "HandStandPushups", "Handstand Pushups", "handstand_pushups", "HANDSTAND-PUSHUPS"),
    ("air drumming", "air_drumming", "Air-Drumming", " air\tdrumming ", "air\u00a0drumming", "air\u200bdrumming"),
    ("petting animal (not cat)", "petting animal not cat", "petting_animal_(not_cat)"),
    ("Größe", "Gro\u0308ße", "GRÖSSE", "gro\u0308sse"),
    ("Ping-pong", "ping pong", "ping–pong", "ping‑pong", "ｐｉｎｇ　ｐｏｎｇ"),
    ("don't", "don’t", "dont"),
    ("ﬁtness", "fitness"),
    ("ダンス", "ﾀﾞﾝｽ"),
    ("한국", unicodedata.normalize("NFD", "한국")),
    ("पकड़ना", unicodedata.normalize("NFC", "पकड़ना"), unicodedata.normalize("NFD", "पकड़ना")),
    ("v_1_2", "v 1-2", "V.1.2"),
])
def test_spellings_of_one_name(names):
    assert len({normalise(name) for name in names}) == 1


@pytest.mark.parametrize("names", [
    ("1_12", "11_2", "112"),  # another video each
    ("कि", "की", "का"),  # differ in a vowel sign, which is no letter
    ("🏃", "🏊"), ("🏃 sport", "🏊 sport"),
    ("Größe", "Grosse", "Grobe"),
    ("...", "---", "!"),  # nothing but punctuation: itself
    ("跑步", "跳跃"),
])
def test_names_that_differ(names):
    assert len({normalise(name) for name in names}) == len(names)


def test_what_is_compared_stays_the_same_when_compared_again():
    for name in ("Ping-pong", "Größe", "v_1_2", "...", "ＡＢ", "🏃 Run", "İstanbul", "", "a\udcffb"):
        assert normalise(normalise(name)) == normalise(name)


def test_an_exact_name_wins_and_an_ambiguous_one_is_told():
    names = Names({"A b": 1, "a_b": 2, "C": 3})
    assert (names.find("A b"), names.find("a_b"), names.find("c"), names.find("d")) == (1, 2, 3, None)
    with pytest.raises(AmbiguousName, match="'AB'.*'A b'.*'a_b'") as caught:
        names.find("AB")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert "ab" in names and "d" not in names and list(names) == ["A b", "a_b", "C"] and len(names) == 3


def test_classes_of_a_tree_are_found_by_any_spelling():
    tree = Hierarchy([["Größe", "X"], ["Ping-pong", "X"], ["跑步", "Y"]])
    assert [tree.label(name) for name in ("gro\u0308ße", "ping pong", "跑步")] == [0, 1, 2]
    assert tree.find("Ping") is None
    with pytest.raises(ValueError, match="row 1.*'ping pong'.*row 0.*'Ping-pong'"):
        Hierarchy([["Ping-pong"], ["ping pong"]])


def test_parents_of_two_spellings_are_two_nodes_and_told(tmp_path):
    (tmp_path / "tree.csv").write_text("row,Water sports,Root\nswim,Water Sports,Root\n")
    with pytest.warns(UserWarning, match="Water sports and Water Sports"):
        assert len(Hierarchy.from_csv(tmp_path / "tree.csv").levels[1]) == 2

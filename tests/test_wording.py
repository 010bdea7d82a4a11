"""What cards say of their numbers: never more than the numbers hold."""

import pytest

from explain import wording

CARD = {"node": "Run", "similarity": 0.92, "contribution": 1.3, "closer_than": 0.998, "closer_than_videos": 552,
        "typical": 0.43, "typical_videos": 23, "stands_by": False}


def plain(text: str) -> str:
    return text.replace(wording.NARROW, " ")


@pytest.mark.parametrize(("value", "count", "level", "words"), [
    (0.998, 552, 0, ("99.8 % of the 552", "other classes")), (1.0, 552, 1, ("all 552", "other parents")),
    (0.5, 7, 3, ("50 %", "nodes of level 3", "Only 7")), (0.99999, 40, 0, ("> 99.9 %",)), (0.0, 40, 0, ("Less close",)),
    (1.0, 1, 0, ("one training video", "Only 1 video stands"))])
def test_how_special_a_match_is(value, count, level, words):
    text = plain(wording.closeness(CARD | {"closer_than": value, "closer_than_videos": count}, level))
    assert all(word in text for word in words)
    assert ("Only" in text) == (count < wording.FEW)


@pytest.mark.parametrize(("value", "count", "words"), [
    (0.43, 23, ("typical training video", "43 % of 23")), (0.13, 23, ("only 13 % of 23",)), (0.97, 23, ("than most",)),
    (0.0, 23, ("practically every",)), (1.0, 23, ("all 23",)), (0.5, 3, ("Only 3 videos stand",))])
def test_how_usual_a_match_is(value, count, words):
    text = plain(wording.typicality(CARD | {"typical": value, "typical_videos": count}, 0))
    assert all(word in text for word in words) and "its own class" in text


def test_what_is_not_known_is_left_out():
    nothing = CARD | {"closer_than": None, "closer_than_videos": 0, "typical": None, "typical_videos": 0}
    assert wording.closeness(nothing, 0) is None and wording.typicality(nothing, 0) is None
    assert wording.unlike({"node": "Run", "prototypes": [nothing]}) is None
    assert wording.unlike({"node": "Run", "prototypes": []}) is None


def test_a_level_whose_best_match_is_unusual_says_so():
    assert wording.unlike({"node": "Run", "prototypes": [CARD]}) is None
    first, second = wording.unlike({"node": "Run", "prototypes": [CARD | {"typical": 0.0, "typical_videos": 12}, CARD]})
    assert "Run" in first and "Nothing" in first and "(12)" in second and "Only 12" in second
    few = CARD | {"typical": 0.0, "typical_videos": wording.LEAST - 1}
    assert wording.unlike({"node": "Run", "prototypes": [few]}) is None
    assert wording.judgement(few, 3)[0] == "good" and "Farther than the 9 other" in plain(wording.typicality(few, 0))


@pytest.mark.parametrize(("changes", "kind", "word"), [
    ({}, "good", "counts"), ({"similarity": 0.2}, "poor", "not much like"), ({"contribution": 0.01}, "part", "little"),
    ({"similarity": 0.2, "contribution": 0.01}, "poor", "Neither"), ({"typical": 0.001}, "poor", "nearer"),
    ({"stands_by": True, "contribution": 0.0}, "part", "another prototype"),
    ({"contribution": -0.5}, "part", "against"),
    ({"stands_by": True, "contribution": 0.0, "similarity": 0.1}, "poor", "another prototype"),
    ({"typical": None, "typical_videos": 0}, "good", "counts")])
def test_a_card_is_not_praised_for_what_it_is_not(changes, kind, word):
    found = wording.judgement(CARD | changes, 3)
    assert found[0] == kind and word in found[1]


def test_an_only_child_decides_nothing():
    assert "only node" in wording.judgement(CARD | {"contribution": 0.0}, 1)[1]
    assert "only node" in wording.judgement(CARD | {"contribution": 0.0, "stands_by": True}, 1)[1]
    assert "counts" in wording.judgement(CARD, 1)[1]  # scores whose classes compete all over the tree

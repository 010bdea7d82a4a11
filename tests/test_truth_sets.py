"""Synthetic sets in which only the motion, or only the object, differs from class to class."""

import csv
import json
import sys

import numpy as np
import pytest

from datasets.synthetic import CLASSES, MOTIONS, SETS, SHAPE_HUES, make_demo_dataset, make_scene
from hierarchy.tree import Hierarchy
from util_scripts.make_demo_dataset import main

GROUPS = range(1, 25)


def scenes(differ: str, group: int) -> list:
    return [make_scene(3, label, group, differ=differ) for label in range(len(SETS[differ]))]


def hue(thing) -> tuple:
    return tuple(np.round(thing.colours[0], 6))


def test_classes_of_the_sets_have_what_differs_for_their_names():
    assert [act.name for act in SETS["motion"]] == sorted(MOTIONS)
    assert [act.name for act in SETS["object"]] == sorted({thing for _, thing, _, _ in CLASSES})
    pairs = [{(act.thing, act.motion) for act in SETS[name]} for name in ("both", "others")]
    assert not pairs[0] & pairs[1] and len(pairs[0] | pairs[1]) == 6 * 8 and len(SETS["others"]) == 24
    for acts in SETS.values():
        assert list(acts) == sorted(acts) and len({len(act.above) for act in acts}) == 1


def test_where_the_motion_differs_a_group_shows_one_object_that_alone_moves():
    shown = set()
    for group in GROUPS:
        some = scenes("motion", group)
        assert len({(scene.event.shape, hue(scene.event)) for scene in some}) == 1
        shown.add(some[0].event.shape)
        paths = [np.round(scene.event.centre - scene.event.centre[0], 3).tobytes() + scene.event.radius.tobytes()
                 + scene.event.angle.tobytes() for scene in some]
        assert len(set(paths)) == len(some)
        for scene in some:
            assert scene.others and all((np.ptp(thing.centre, 0) == 0).all() for thing in scene.others)
            assert all(thing.shape in SHAPE_HUES for thing in scene.others)
    assert len(shown) == 6  # over the groups all objects


def test_where_the_object_differs_a_group_shows_one_motion_of_nothing_else():
    for group in GROUPS:
        some = scenes("object", group)
        assert [scene.event.shape for scene in some] == [act.name for act in SETS["object"]]
        assert not any(scene.others for scene in some)
        still = [(np.ptp(scene.event.centre, 0) == 0).all() for scene in some]
        grows, turns = ([np.ptp(getattr(scene.event, name)) > 1e-9 for scene in some] for name in ("radius", "angle"))
        assert all(len(set(kind)) == 1 for kind in (still, grows, turns))


@pytest.mark.parametrize("differ", ["motion", "object", "others"])
def test_their_files(tmp_path, differ):
    make_demo_dataset(tmp_path, n_train_groups=1, n_test_groups=1, frames=16, size=32, n_jobs=1, differ=differ)
    acts = SETS[differ]
    tree = Hierarchy.from_csv(tmp_path / "hierarchy.csv")
    assert set(tree.names[:tree.n_leaves]) == {act.name for act in acts} and tree.n_levels == 1 + len(acts[0].above)
    with (tmp_path / "hierarchy.csv").open() as file:
        assert {len(row) for row in csv.reader(file)} == {tree.n_levels + 1}
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert {entry["class"] for entry in truth.values()} == {act.name for act in acts} and len(truth) == 2 * len(acts)
    assert {path.stem for path in (tmp_path / "videos").glob("*/*.avi")} == set(truth)
    listed = (tmp_path / "ucfTrainTestlist" / "classInd.txt").read_text().splitlines()
    assert listed == [f"{i} {act.name}" for i, act in enumerate(acts, 1)]


@pytest.mark.parametrize(("flags", "word"), [("--differ colour", "--differ"), ("--differ motion --ways 2", "--differ"),
                                             ("--differ object --ways 2", "one way")])
def test_what_cannot_be_drawn_is_told(tmp_path, monkeypatch, capsys, flags, word):
    monkeypatch.setattr(sys, "argv", ["make_demo_dataset", str(tmp_path / "new"), *flags.split()])
    with pytest.raises(SystemExit) as end:
        main()
    error = capsys.readouterr().err
    assert end.value.code == 2 and word in error and len(error.splitlines()) == 1 and not (tmp_path / "new").exists()

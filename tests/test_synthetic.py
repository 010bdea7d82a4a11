"""The embedded demo data: its layout, its truth, and that only object and motion together tell the class."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from datasets.synthetic import CLASSES, HUES, MOTIONS, make_demo_dataset, make_group, make_scene, render, video_name

LABELS = range(len(CLASSES))


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    make_demo_dataset(folder, n_train_groups=2, n_test_groups=1, n_jobs=1)
    return folder


@pytest.fixture(scope="module")
def renderings():
    """{label: (scene, frames, boxes, frames without the event)}, every class in another group."""
    found = {}
    for label in LABELS:
        scene = make_scene(1, label, label + 1)
        found[label] = (scene, *render(scene), render(scene, with_event=False)[0])
    return found


def test_layout(dataset):
    names = [name for name, *_ in CLASSES]
    expected = {f"videos/{name}/v_{name}_g{group:02d}_c01.avi" for name in names for group in (1, 2, 3)}
    expected |= {f"ucfTrainTestlist/{name}.txt" for name in ("classInd", "trainlist01", "testlist01")}
    assert {path.as_posix() for path in files(dataset)} == expected | {"hierarchy.csv", "truth.json"}


def test_lists_are_ucf101s_and_split_by_group(dataset):
    lists = dataset / "ucfTrainTestlist"
    index = dict(line.split()[::-1] for line in (lists / "classInd.txt").read_text().splitlines())
    assert list(index) == sorted(index) and list(index.values()) == [str(i + 1) for i in LABELS]
    train = [line.split(" ") for line in (lists / "trainlist01.txt").read_text().splitlines()]
    test = (lists / "testlist01.txt").read_text().splitlines()
    assert all(index[path.split("/")[0]] == label for path, label in train)
    assert len(train) == 2 * len(CLASSES) and len(test) == len(CLASSES)
    groups = [{path.split("_g")[1][:2] for path in paths} for paths in ([path for path, _ in train], test)]
    assert groups == [{"01", "02"}, {"03"}]
    on_disk = {path.relative_to(dataset / "videos").as_posix() for path in (dataset / "videos").glob("*/*")}
    assert {path for path, _ in train} | set(test) == on_disk


def test_hierarchy_is_balanced_and_in_class_order(dataset):
    with open(dataset / "hierarchy.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == [name for name, *_ in CLASSES]
    assert {row[3] for row in rows} == {"Root"} and {len(row) for row in rows} == {4}
    assert set(Counter(row[1] for row in rows).values()) == {3} and {row[1] for row in rows} == set(MOTIONS)
    assert len({(row[1], row[2]) for row in rows}) == 8 and len({row[2] for row in rows}) == 3
    # the object alone leaves four classes, all of different parents, in every family of motions
    for thing in HUES:
        of_thing = [(motion, family) for _, shape, motion, family in CLASSES if shape == thing]
        assert len({motion for motion, _ in of_thing}) == len(of_thing) == 4
        assert len({family for _, family in of_thing}) >= 2


def test_files_hold_the_rendered_frames_and_their_truth(dataset):
    truth = json.loads((dataset / "truth.json").read_text())
    assert set(truth) == {video_name(label, group) for label in LABELS for group in (1, 2, 3)}
    for label in (0, 7, 23):
        scene = make_scene(1, label, 3)
        frames, boxes = render(scene)
        name, class_name = video_name(label, 3), CLASSES[label][0]
        decoded = decode(dataset / "videos" / class_name / f"{name}.avi")
        assert decoded.shape == frames.shape == (40, 72, 72, 3)
        assert np.abs(decoded.astype(int) - frames).mean() < 6
        tube = dict(zip(("first_frame", "last_frame"), scene.frames, strict=True))
        tube["boxes_x_y_w_h"] = [list(box) for box in boxes]
        assert truth[name] == {"class": class_name, "n_frames": 40, "tubes": [tube]}


@pytest.mark.parametrize("label", LABELS, ids=lambda label: CLASSES[label][0])
def test_boxes_hold_the_object_and_nothing_else_shows_it(renderings, label):
    scene, frames, boxes, without = renderings[label]
    first, last = scene.frames
    assert 16 <= last - first <= 20 and len(boxes) == last - first
    changed = (frames != without).any(-1)
    assert not changed[:first].any() and not changed[last:].any()
    for picture, (x, y, width, height) in zip(changed[first:last], boxes, strict=True):
        assert 0 <= x < x + width <= 72 and 0 <= y < y + height <= 72
        rows, columns = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
        assert y <= rows[0] and rows[-1] < y + height and x <= columns[0] and columns[-1] < x + width
        # tight: an edge pixel may be too faint to change a byte, two in a row may not
        assert np.ptp(rows) + 1 >= height - 4 and np.ptp(columns) + 1 >= width - 4
    assert sum(width * height for _, _, width, height in boxes) < 0.15 * frames[..., 0].size


def test_objects_of_one_parent_are_told_by_colour_not_by_place(renderings):
    for label, (scene, frames, boxes, _) in renderings.items():
        x, y, width, height = boxes[len(boxes) // 2]
        crop = frames[(scene.frames[0] + scene.frames[1]) // 2, y : y + height, x : x + width].reshape(-1, 3) / 255
        vivid = crop[crop.max(1) - crop.min(1) > 0.45]
        assert len(vivid) > 0.1 * len(crop)
        red, green, blue = np.median(vivid, 0)
        hue = np.degrees(np.arctan2(3**0.5 * (green - blue), 2 * red - green - blue))
        assert abs((hue - HUES[CLASSES[label][1]] + 180) % 360 - 180) < 25


def test_a_groups_place_occurs_in_every_class():
    place = make_group(1, 5, 72).place
    assert all(np.shares_memory(make_scene(1, label, 5).background, place) for label in LABELS)
    assert not np.array_equal(place, make_group(1, 6, 72).place)


def test_decoys_stand_still_come_from_the_vocabulary_and_do_not_tell_the_class():
    decoys = []  # (object of the class, object of the decoy)
    for group in range(1, 31):
        for label in LABELS:
            for thing in make_scene(1, label, group).others:
                if thing.shape in HUES:
                    assert not np.ptp(thing.centre, 0).any() and not np.ptp(thing.radius) and not np.ptp(thing.angle)
                    decoys.append((CLASSES[label][1], thing.shape))
    expected, deviation = len(decoys) / 6, (len(decoys) * 5 / 36) ** 0.5  # of a fair die
    counts = Counter(shape for _, shape in decoys)
    assert set(counts) == set(HUES)
    for count in (*counts.values(), sum(own == shape for own, shape in decoys)):
        assert abs(count - expected) < 4 * deviation


@pytest.mark.parametrize("motion", ["Sliding", "Circling", "Spinning"])
def test_motions_go_both_ways_so_that_mirrored_clips_keep_their_label(motion):
    label = next(i for i, row in enumerate(CLASSES) if row[2] == motion)
    ways = []
    for group in range(1, 31):
        event = (scene := make_scene(1, label, group)).event
        first, last = scene.frames
        y, x = (event.centre[first:last] - event.centre[first:last].mean(0)).T
        measure = {"Sliding": x, "Circling": np.unwrap(np.arctan2(y, x)), "Spinning": event.angle[first:last]}[motion]
        ways.append(np.sign(np.diff(measure)).mean())
    assert np.abs(ways) == pytest.approx(1) and 5 <= np.sum(np.array(ways) > 0) <= 25


def test_same_bytes_whatever_the_number_of_processes_and_over_a_finished_run(tmp_path):
    measures = {"n_train_groups": 1, "n_test_groups": 1, "frames": 16, "size": 32}
    make_demo_dataset(tmp_path / "one", **measures, n_jobs=1)
    make_demo_dataset(tmp_path / "two", **measures, n_jobs=2)
    whole = files(tmp_path / "one")
    assert files(tmp_path / "two") == whole
    make_demo_dataset(tmp_path / "two", **measures, n_jobs=1)
    assert files(tmp_path / "two") == whole


def test_a_video_depends_on_seed_class_group_and_clip():
    frames = render(make_scene(1, 4, 2))[0]
    assert np.array_equal(frames, render(make_scene(1, 4, 2))[0])
    for other in ((2, 4, 2, 1), (1, 5, 2, 1), (1, 4, 3, 1), (1, 4, 2, 2)):
        assert np.abs(frames.astype(int) - render(make_scene(*other))[0]).mean() > 2


def test_lengths_scale_with_the_size_and_times_with_the_frames():
    scene = make_scene(1, 0, 1, n_frames=80, size=128)
    frames, boxes = render(scene)
    assert frames.shape == (80, 128, 128, 3) and 32 <= len(boxes) <= 40
    assert sum(width * height for _, _, width, height in boxes) < 0.15 * frames[..., 0].size
    for label in LABELS:  # the smallest that is allowed
        frames, boxes = render(make_scene(1, label, 1, n_frames=16, size=32))
        assert frames.shape == (16, 32, 32, 3) and 6 <= len(boxes) <= 8


@pytest.mark.parametrize("bad", [{"frames": 8}, {"size": 20}, {"size": 71}, {"n_test_groups": 0}, {"seed": -1}])
def test_impossible_measures_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="--" + next(iter(bad))):
        make_demo_dataset(tmp_path, **bad)


def test_foreign_videos_are_left_alone_by_the_script(tmp_path):
    mine = tmp_path / "videos" / "Holiday" / "beach.avi"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"precious")
    command = [sys.executable, "-m", "util_scripts.make_demo_dataset", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 2 and "beach.avi" in done.stderr and len(done.stderr.splitlines()) == 1
    assert files(tmp_path) == {mine.relative_to(tmp_path): b"precious"}

"""The embedded demo data: its layout, its truth, and that only object and motion together tell the class."""

import csv
import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from datasets.synthetic import (
    CLASSES,
    HUES,
    MOTIONS,
    SECOND_KINDS,
    SHAPE_HUES,
    SHAPES,
    make_demo_dataset,
    make_group,
    make_scene,
    render,
    training_ways,
    video_name,
)
from util_scripts.make_demo_dataset import main

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


@pytest.fixture(scope="module")
def two_ways():
    """{label: ((scene, frames, boxes) of way 0, of way 1)} of one clip, every class in another group."""
    found = {}
    for label in LABELS:
        scenes = [make_scene(1, label, label + 1, way=way) for way in (0, 1)]
        found[label] = [(scene, *render(scene)) for scene in scenes]
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


@pytest.mark.parametrize(("video", "hashes", "box"), [
    ((1, 4, 2, 1), ("e103f6f7c717264d", "42bd1508018e5648", "93c280555e7d9d9f"), (41, 36, 17, 22)),
    ((1, 13, 3, 1), ("3299858d09ec5677", "9e50baae3353388c", "a19cb9cec8a2bb65"), (30, 38, 21, 21)),
    ((5, 23, 1, 2), ("14e80eaafa1a9684", "4bcab44d6e291dec", "2a00a5c63ffdfc74"), (44, 24, 23, 24))])
def test_videos_of_one_way_are_those_that_published_figures_were_measured_on(video, hashes, box):
    frames, boxes = render(make_scene(*video))
    assert tuple(hashlib.sha256(frames[t].tobytes()).hexdigest()[:16] for t in (0, 20, 39)) == hashes
    assert boxes[3] == box


def test_the_two_kinds_of_an_object_differ_in_hue_and_outline_and_fit_its_radius():
    hues = np.array(list(SHAPE_HUES.values()))
    apart = np.abs((hues[:, None] - hues + 180) % 360 - 180)
    assert len(hues) == 12 and np.sort(apart, 1)[:, 1].min() > 20  # two groups differ by 20 at most
    x, y = np.meshgrid(*[np.linspace(-1.2, 1.2, 241)] * 2)
    inside = {shape: SHAPES[shape](x, y)[0] < 0 for shape in SHAPE_HUES}
    for shape, (second, hue) in SECOND_KINDS.items():
        assert abs((HUES[shape] - hue + 180) % 360 - 180) > 120
        assert np.hypot(x, y)[inside[second]].max() < 1.02
        assert (inside[shape] & inside[second]).sum() < 0.75 * (inside[shape] | inside[second]).sum()


@pytest.mark.parametrize("label", LABELS, ids=lambda label: CLASSES[label][0])
def test_the_ways_of_a_clip_differ_in_the_events_object_and_in_nothing_else(two_ways, label):
    (first, frames, boxes), (second, other_frames, other_boxes) = two_ways[label]
    assert (first.event.shape, second.event.shape) == (CLASSES[label][1], SECOND_KINDS[CLASSES[label][1]][0])
    for name in ("centre", "radius", "angle", "opacity"):
        assert np.array_equal(getattr(first.event, name), getattr(second.event, name))
    elsewhere = (frames == other_frames).all(-1)
    for t, two in zip(range(*first.frames), zip(boxes, other_boxes, strict=True), strict=True):
        for x, y, width, height in two:
            elsewhere[t, y : y + height, x : x + width] = True
    assert elsewhere.all() and not np.array_equal(frames, other_frames)


def test_the_hue_of_an_event_tells_its_way(two_ways):
    for label, ways in two_ways.items():
        for scene, frames, boxes in ways:
            t = len(boxes) // 2
            x, y, width, height = boxes[t]
            crop = frames[scene.frames[0] + t, y : y + height, x : x + width].reshape(-1, 3) / 255
            vivid = crop[crop.max(1) - crop.min(1) > 0.45]
            assert len(vivid) > 0.1 * len(crop)
            red, green, blue = np.median(vivid, 0)
            hue = np.degrees(np.arctan2(3**0.5 * (green - blue), 2 * red - green - blue))
            hue -= make_group(1, label + 1, 72).hue
            apart = {shape: abs((hue - own + 180) % 360 - 180) for shape, own in SHAPE_HUES.items()}
            assert min(apart, key=apart.get) == scene.event.shape


def test_a_second_way_adds_kinds_to_the_decoys_and_changes_nothing_else():
    kinds = Counter()
    for group in range(1, 31):
        for label in LABELS:
            one, two, third = (make_scene(1, label, group, way=way) for way in (None, 0, 1))
            assert one.event.shape == two.event.shape and np.array_equal(one.event.centre, two.event.centre)
            assert [thing.shape for thing in two.others] == [thing.shape for thing in third.others]
            for thing, same in zip(one.others, two.others, strict=True):
                assert np.array_equal(thing.centre, same.centre) and np.array_equal(thing.opacity, same.opacity)
                if thing.shape in HUES:
                    assert same.shape in (thing.shape, SECOND_KINDS[thing.shape][0])
                    kinds[same.shape] += 1
                else:
                    assert same.shape == thing.shape
    expected, deviation = kinds.total() / 12, (kinds.total() * 11 / 144) ** 0.5  # of a fair die
    assert set(kinds) == set(SHAPE_HUES) and all(abs(count - expected) < 4 * deviation for count in kinds.values())


@pytest.mark.parametrize(("n_groups", "share", "count"), [
    (24, 0.5, 24), (24, 0.1, 5), (24, 0.25, 12), (24, 0.75, 36), (24, 0.9, 43), (24, 0.001, 1), (24, 0.999, 47),
    (1, 0.1, 1), (1, 0.9, 1), (3, 0.2, 1)])
def test_training_clips_show_way_1_in_its_share(n_groups, share, count):
    ways = np.stack([training_ways(1, label, n_groups, share) for label in LABELS])
    assert ways.shape == (len(CLASSES), n_groups, 2) and set(np.unique(ways)) == {0, 1}
    assert (ways.sum((1, 2)) == count).all()
    assert (ways[..., 0] <= ways[..., 1]).all()  # clip 1 shows way 1 only where all clips 2 do
    assert not ways[..., 0].any() or ways[..., 1].all()
    assert np.array_equal(ways[3], training_ways(1, 3, n_groups, share))
    if share == 0.5:
        assert (ways == (0, 1)).all()
    elif share == 0.1 and n_groups == 24:
        groups = {tuple(np.flatnonzero(own)) for own in ways[..., 1]}
        assert len(groups) == len(CLASSES) and ways[..., 1].any(0).all()
        assert (training_ways(1, 3, n_groups, 0.3) >= ways[3]).all()


@pytest.mark.parametrize("share", [None, 0.1])
def test_a_data_set_of_two_ways(tmp_path, share):
    measures = {"n_train_groups": 3, "n_test_groups": 1, "frames": 16, "size": 32, "ways": 2, "way_share": share}
    make_demo_dataset(tmp_path, **measures, n_jobs=1)
    names = {(label, group, clip): video_name(label, group, clip)
             for label in LABELS for group in (1, 2, 3, 4) for clip in (1, 2)}
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert set(truth) == set(names.values()) == {path.stem for path in (tmp_path / "videos").glob("*/*")}
    lists = [(tmp_path / "ucfTrainTestlist" / file).read_text() for file in ("trainlist01.txt", "testlist01.txt")]
    train, test = ([Path(line.split()[0]).stem for line in lines.splitlines()] for lines in lists)
    assert sorted(train + test) == sorted(truth) and {name[-6:-4] for name in test} == {"04"}
    for label, group, clip in names:
        if group == 4 or share is None:
            assert truth[names[label, group, clip]]["way"] == clip - 1
        else:
            way = training_ways(1, label, 3, 0.1)[group - 1, clip - 1]
            assert truth[names[label, group, clip]]["way"] == way
    of_class = Counter((truth[name]["class"], truth[name]["way"]) for name in train)
    assert set(of_class.values()) == ({3} if share is None else {1, 5}) and len(of_class) == 2 * len(CLASSES)
    for label, group, clip in ((0, 1, 1), (7, 2, 2), (23, 4, 2)):  # the files show what the truth says
        name = names[label, group, clip]
        frames, boxes = render(make_scene(1, label, group, clip, way=truth[name]["way"], n_frames=16, size=32))
        decoded = decode(tmp_path / "videos" / CLASSES[label][0] / f"{name}.avi")
        assert np.abs(decoded.astype(int) - frames).mean() < 6
        assert truth[name]["tubes"][0]["boxes_x_y_w_h"] == [list(box) for box in boxes]


@pytest.mark.parametrize(("flags", "named"), [
    ("--ways 3", "--ways"), ("--ways 0", "--ways"), ("--way_share 0.5", "--way_share"),
    *((f"--ways 2 --way_share {share}", "--way_share") for share in ("0", "1", "-0.5", "nan", "half"))])
def test_ways_and_shares_that_are_none_are_refused(tmp_path, monkeypatch, capsys, flags, named):
    monkeypatch.setattr(sys, "argv", ["make_demo_dataset", str(tmp_path / "new"), *flags.split()])
    with pytest.raises(SystemExit) as end:
        main()
    error = capsys.readouterr().err
    assert end.value.code == 2 and named in error and len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("flags", "count"), [("", 48), ("--ways 2", 96), ("--ways 2 --way_share 0.3", 96)])
def test_the_script_counts_its_videos(tmp_path, monkeypatch, capsys, flags, count):
    measures = "--n_train_groups 1 --n_test_groups 1 --frames 16 --size 32 --n_jobs 1"
    monkeypatch.setattr(sys, "argv", ["make_demo_dataset", str(tmp_path), *f"{measures} {flags}".split()])
    main()
    assert f" {count} videos " in capsys.readouterr().out
    assert len(list((tmp_path / "videos").glob("*/*.avi"))) == count
    assert all(("way" in entry) == bool(flags) for entry in json.loads((tmp_path / "truth.json").read_text()).values())


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

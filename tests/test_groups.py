"""Which training videos are held out: whole groups, the same ones every time, and never a class's last."""

from pathlib import Path

import pytest

from datasets import DATASETS
from datasets.groups import CALIBRATION, group_of, held_out_groups, hold_out, person_of, recording_of, ungrouped
from datasets.video import Video, VideoTable


def video(name: str, label: int = 0, subset: str = "training", part_of: str = "") -> Video:
    return Video(name, Path(name), label, subset, 9, (0, 9), part_of)


UCF101, HMDB = DATASETS["ucf101"], DATASETS["hmdb51"]
UCF = [video(f"v_{label}_g{group:02d}_c{clip:02d}", label, "training" if group > 5 else "validation")
       for label in range(4) for group in range(1, 26) for clip in (1, 2)]


SHOWN = {  # of each data set: a video, its person and its recording
    "activitynet": (video("abc#2", part_of="abc"), None, "abc"),
    "egtea": (video("OP01-R01-PastaSalad-1002316-1004005-F024051-F024101"), None, "OP01-R01-PastaSalad"),
    "epic_kitchens": (video("P01_101_17"), None, "P01_101"),
    "hmdb51": (video("Some_clip_dive_f_cm_np1_le_bad_3"), None, "Some_clip_dive_f_cm_np1_le_bad"),
    "kinetics": (video("id_x_000010_000020"), None, "id_x"),
    "moments": (video("yelling/yt-abc_7"), None, None),
    "something": (video("1234"), None, None),
    "ucf101": (video("v_Archery_G08_c01"), "g08", "v_Archery_G08")}


@pytest.mark.parametrize("name", DATASETS)
def test_what_the_names_of_a_data_set_tell(name):
    assert name in SHOWN, f"give a name of {name} with its person and recording, in SHOWN of {__file__}"
    one, person, recording = SHOWN[name]
    dataset = DATASETS[name]
    assert (person_of(one, dataset), recording_of(one, dataset)) == (person, recording)
    assert group_of(one, dataset) == (person or recording or one.name)
    sentence = ungrouped(name, dataset, [video("abc"), one])
    assert (sentence is None) == bool(person or recording)
    assert sentence is None or (name in sentence and "datasets/__init__.py" in sentence)


@pytest.mark.parametrize("name", DATASETS)
def test_other_names_are_groups_of_their_own(name):
    for other in ("abc", "x_g1", "abc_3"):
        assert recording_of(video(other), DATASETS[name]) is None
        assert group_of(video(other), DATASETS[name]) == other
    assert ungrouped(name, DATASETS[name], [video("abc")]) is not None


def test_names_held_out_before_recordings_were_known_stay_held_out():
    videos = [video("x_goo_0"), video("x_goo_1"), video("y_goo_0")]
    for group, expected in (("x_goo_1", ["training", CALIBRATION, "training"]),
                            ("x_goo", [CALIBRATION, CALIBRATION, "training"])):
        assert [one.subset for one in hold_out(VideoTable(videos), [group], HMDB)] == expected


def test_a_fifth_of_the_groups_of_all_classes():
    groups = held_out_groups(UCF, UCF101, seed=1)
    assert len(groups) == 4 and all(int(group[1:]) > 5 for group in groups)
    assert groups == held_out_groups(UCF[::-1], UCF101, seed=1) and groups != held_out_groups(UCF, UCF101, seed=2)
    parted = hold_out(VideoTable(UCF), groups, UCF101)
    held = [one for one in parted if one.subset == CALIBRATION]
    assert len(held) == 32 and {one.label for one in held} == {0, 1, 2, 3}
    left = {group_of(one, UCF101) for one in parted if one.subset == "training"}
    assert not left & set(groups) and len(left) == 16
    assert [one.name for one in parted] == [one.name for one in UCF]
    assert sum(one.subset == "validation" for one in parted) == 40


def test_no_class_loses_its_last_video():
    alone = [video(f"a{i}", 0) for i in range(20)] + [video("b", 1)]
    for seed in range(20):
        groups = held_out_groups(alone, UCF101, seed=seed)
        assert len(groups) == 4 and "b" not in groups
    assert held_out_groups([video("a"), video("b", 1)], UCF101, seed=0) == []

"""Which training videos are held out: whole groups, the same ones every time, and never a class's last."""

from pathlib import Path

import pytest

from datasets.groups import CALIBRATION, group_of, held_out_groups, hold_out, recording_of
from datasets.video import Video, VideoTable


def video(name: str, label: int = 0, subset: str = "training", part_of: str = "") -> Video:
    return Video(name, Path(name), label, subset, 9, (0, 9), part_of)


UCF = [video(f"v_{label}_g{group:02d}_c{clip:02d}", label, "training" if group > 5 else "validation")
       for label in range(4) for group in range(1, 26) for clip in (1, 2)]


@pytest.mark.parametrize(("one", "group"), [
    (video("v_Archery_g08_c01"), "g08"), (video("v_YoYo_G08_c11"), "g08"), (video("abc"), "abc"),
    (video("abc#2", part_of="abc"), "abc"), (video("id_x_000010_000020"), "id_x"), (video("x_g1"), "x_g1")])
def test_groups(one, group):
    assert group_of(one) == group


@pytest.mark.parametrize(("one", "recording"), [
    (video("v_Archery_g08_c01"), "v_Archery_g08"), (video("Some_clip_dive_f_cm_np1_le_bad_3"),
                                                    "Some_clip_dive_f_cm_np1_le_bad"),
    (video("id_x_000010_000020"), "id_x"), (video("OP01-R01-PastaSalad-1002316-1004005-F024051-F024101"),
                                            "OP01-R01-PastaSalad"),
    (video("P01_101_17"), "P01_101"), (video("abc#2", part_of="abc"), "abc"), (video("abc_3"), None)])
def test_recordings(one, recording):
    assert recording_of(one) == recording
    assert group_of(one) == ("g08" if "g08" in one.name else recording or one.name)


def test_names_held_out_before_recordings_were_known_stay_held_out():
    videos = [video("x_goo_0"), video("x_goo_1"), video("y_goo_0")]
    assert [one.subset for one in hold_out(VideoTable(videos), ["x_goo_1"])] == ["training", CALIBRATION, "training"]
    assert [one.subset for one in hold_out(VideoTable(videos), ["x_goo"])] == [CALIBRATION, CALIBRATION, "training"]


def test_a_fifth_of_the_groups_of_all_classes():
    groups = held_out_groups(UCF, seed=1)
    assert len(groups) == 4 and all(int(group[1:]) > 5 for group in groups)
    assert groups == held_out_groups(UCF[::-1], seed=1) and groups != held_out_groups(UCF, seed=2)
    parted = hold_out(VideoTable(UCF), groups)
    held = [one for one in parted if one.subset == CALIBRATION]
    assert len(held) == 32 and {one.label for one in held} == {0, 1, 2, 3}
    left = {group_of(one) for one in parted if one.subset == "training"}
    assert not left & set(groups) and len(left) == 16
    assert [one.name for one in parted] == [one.name for one in UCF]
    assert sum(one.subset == "validation" for one in parted) == 40


def test_no_class_loses_its_last_video():
    alone = [video(f"a{i}", 0) for i in range(20)] + [video("b", 1)]
    for seed in range(20):
        groups = held_out_groups(alone, seed=seed)
        assert len(groups) == 4 and "b" not in groups
    assert held_out_groups([video("a"), video("b", 1)], seed=0) == []

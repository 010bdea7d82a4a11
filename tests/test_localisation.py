"""Points and regions whose answer is known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation.localisation import (
    Tube,
    box_in_event,
    chance,
    half_cell,
    on_event,
    overlap,
    placed,
    points_at,
    random_hits,
    read_truth,
    read_ways,
    truth_mask,
)

# A box of 4 x 6 pixels (width, height) that moves 3 pixels to the right every frame, over frames 5, 6 and 7.
MOVING = Tube(5, np.array([[10 + 3 * i, 20, 4, 6] for i in range(3)], dtype=float))
FRAMES, CROP = np.arange(2, 10), np.array([0.0, 0, 40, 60])  # of a clip


def test_the_sweep_holds_all_boxes():
    assert MOVING.last_frame == 8
    assert MOVING.sweep == (20, 10, 26, 20)


@pytest.mark.parametrize(("peak", "swept", "strict"), [
    ((5, 20, 10), True, True), ((5, 25, 13), True, True), ((5, 22, 19), True, False), ((7, 22, 19), True, True),
    ((7, 22, 10), True, False), ((4, 22, 11), False, False), ((8, 22, 18), False, False), ((6, 26, 14), False, False),
    ((6, 22, 20), False, False), ((6, 19, 14), False, False)])
def test_points(peak, swept, strict):
    assert points_at(peak, [MOVING]) is swept
    assert points_at(peak, [MOVING], strict=True) is strict
    assert not points_at(peak, [])


@pytest.mark.parametrize(("peak", "swept", "strict"), [
    ((3, 22, 11), True, True), ((2, 22, 11), False, False), ((9, 22, 18), True, True), ((10, 22, 18), False, False),
    ((5, 19, 10), True, True), ((5, 18, 10), False, False), ((6, 26, 14), True, True), ((6, 27, 14), False, False),
    ((6, 22, 22), True, False), ((6, 22, 23), False, False), ((6, 22, 10), True, True), ((7, 22, 12), True, False)])
def test_points_within_a_distance(peak, swept, strict):
    """Up to 2 frames, 1 row and 3 columns beside it; beside the frames in the box of the nearest one."""
    assert points_at(peak, [MOVING], within=(2, 1, 3)) is swept
    assert points_at(peak, [MOVING], strict=True, within=(2, 1, 3)) is strict


def test_half_a_cell_in_the_source():
    crop = torch.tensor([10.0, 20, 42, 68])  # 32 rows on 16, 48 columns on 12
    assert half_cell((4, 8, 6), torch.arange(3, 11), crop, (16, 12)) == (2, 8, 12)
    assert half_cell((4, 8, 6), torch.arange(3, 19, 2), crop, (16, 12))[0] == 4  # every second frame
    assert half_cell((4, 8, 6), torch.tensor([3, 4, 5, 3, 4, 5]), crop, (16, 12))[0] == 2  # a looped video


def test_prototypes_on_an_event_are_those_within_a_cell_of_it():
    """The box is 20..26 x 10..20 in the frames 5, 6, 7; half a cell is 2 frames, 1 row and 3 columns."""
    peaks = [(6, 22, 12), (3, 19, 7), (2, 22, 12), (6, 27, 12), (6, 22, 12), (6, 22, 12)]
    n = len(peaks)
    record = SimpleNamespace(video=["v"] * (n - 2) + ["w", None], stride=(4, 2, 6), clip_size=(8, 40, 60),
                             frames=torch.arange(8).expand(n, 8), crop=torch.tensor([0.0, 0, 40, 60]).expand(n, 4),
                             peak=lambda p: torch.tensor(peaks[p]))
    found = on_event(record, {"v": [MOVING]})
    assert found[:4].tolist() == [1, 1, 0, 0] and found[4:].isnan().all()


OTHER = Tube(6, np.array([[12, 22, 10, 10]], dtype=float))  # overlaps the first in frame 6


def pixels_inside(box: tuple[int, ...], tubes: list[Tube]) -> int:
    """Pixels of a box whose centre lies in an event's box of that very frame."""
    t0, y0, x0, t1, y1, x1 = box
    return sum(any(tube.hit_by(t, y + 0.5, x + 0.5, strict=True) for tube in tubes)
               for t in range(t0, t1) for y in range(y0, y1) for x in range(x0, x1))


@pytest.mark.parametrize(("box", "crop", "stride"), [
    ((5, 20, 10, 7, 23, 13), (18, 8, 28, 24), 1), ((4, 22, 11, 8, 24, 20), (18.5, 8.25, 27.5, 23.75), 1),
    ((2, 18, 8, 5, 21, 12), (18, 8, 28, 24), 1), ((3, 18, 8, 9, 28, 24), (18, 8, 28, 24), 1),
    ((5, 20, 10, 9, 24, 16), (18, 8, 28, 24), 2)])
def test_boxes_of_prototypes_are_counted_pixel_by_pixel_in_every_place(box, crop, stride):
    """A video without a known event, and a prototype without a video, have no number."""
    frames = 2 + stride * torch.arange(8 // stride)
    record = SimpleNamespace(video=["v", "w", None, "v"], frames=frames.expand(4, -1),
                             crop=torch.tensor(crop, dtype=torch.float32).expand(4, 4), box=lambda p: box)
    found = box_in_event(record, {"v": [MOVING, OTHER]})
    assert all(values[1:3].isnan().all() and values[0] == values[3] for values in found.values())
    t, y, x = (box[i + 3] - box[i] for i in range(3))
    first, last = int(frames[0]), int(frames[-1]) + 1
    (top, left), (bottom, right) = np.floor(crop[:2]).astype(int), np.ceil(crop[2:]).astype(int)
    places = [pixels_inside((t0, y0, x0, t0 + t, y0 + y, x0 + x), [MOVING, OTHER])
              for t0 in range(first, last - t + 1) for y0 in range(top, bottom - y + 1)
              for x0 in range(left, right - x + 1)]
    own = pixels_inside(box, [MOVING, OTHER])
    assert found["meets"][0] == (own > 0) and float(found["inside"][0]) == pytest.approx(own / (t * y * x))
    assert float(found["meets_chance"][0]) == pytest.approx(np.mean(np.array(places) > 0))
    assert float(found["inside_chance"][0]) == pytest.approx(np.mean(places) / (t * y * x))


@pytest.mark.parametrize("box", [
    (0, 0, 0, 8, 20, 30), (3, 10, 5, 6, 13, 10), (0, 0, 0, 2, 4, 4), (4, 11, 6, 7, 14, 30)])
def test_overlap_is_counted_voxel_by_voxel(box):
    mask = truth_mask([MOVING], FRAMES, CROP, (20, 30))
    voxels = [{place for place, value in np.ndenumerate(mask.numpy()) if value},
              {(t, y, x) for t in range(box[0], box[3]) for y in range(box[1], box[4]) for x in range(box[2], box[5])}]
    of = {"iou": voxels, "iou_space": [{place[1:] for place in some} for some in voxels],
          "iou_time": [{place[0] for place in some} for some in voxels]}
    assert overlap(box, mask) == {name: pytest.approx(len(one & other) / len(one | other))
                                  for name, (one, other) in of.items()}
    assert overlap(box, torch.zeros_like(mask)) == {}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("crop", [(0, 0, 40, 60), (18.0, 12.0, 30.0, 24.0), (0.5, 0.5, 24.5, 15.5)])
def test_random_hits_count_every_pixel(strict, crop):
    frames = np.arange(2, 10)
    hits = [points_at((frame, y, x), [MOVING, OTHER], strict=strict) for frame in frames
            for y in range(60) for x in range(80) if crop[0] <= y < crop[2] and crop[1] <= x < crop[3]]
    assert random_hits([MOVING, OTHER], frames, np.array(crop), strict=strict) == pytest.approx(np.mean(hits))
    assert 0 < np.mean(hits) < 1


def test_truth_file(tmp_path):
    entry = {"class": "a", "n_frames": 9, "tubes": [{"first_frame": 5, "last_frame": 8,
                                                    "boxes_x_y_w_h": MOVING.boxes.tolist()}]}
    (tmp_path / "truth.json").write_text(json.dumps({"v": entry}))
    (tube,) = read_truth(tmp_path / "truth.json")["v"]
    assert tube.first_frame == 5 and (tube.boxes == MOVING.boxes).all()
    with pytest.raises(FileNotFoundError, match="missing.json"):
        read_truth(tmp_path / "missing.json")
    for wrong in ("[1]", "{", '{"v": {"tubes": [{"first_frame": 1}]}}', '{"v": {"tubes": [{"first_frame": 0, '
                  '"boxes_x_y_w_h": [[1, 2]]}]}}', '{"v": {"tubes": [{"first_frame": 0, "last_frame": 2, '
                  '"boxes_x_y_w_h": [[1, 2, 3, 4]]}]}}'):
        (tmp_path / "wrong.json").write_text(wrong)
        with pytest.raises(ValueError, match=r"wrong\.json"):
            read_truth(tmp_path / "wrong.json")


def test_ways_are_read_of_the_videos_that_have_one_and_leave_the_tubes_alone(tmp_path):
    path = tmp_path / "truth.json"
    entry = {"class": "a", "n_frames": 9, "tubes": [{"first_frame": 5, "last_frame": 8,
                                                    "boxes_x_y_w_h": MOVING.boxes.tolist()}]}
    path.write_text(json.dumps({"u": entry, "v": {**entry, "way": 0}, "w": {**entry, "way": 1}}))
    assert read_ways(path) == {"v": 0, "w": 1}
    assert all((tubes[0].boxes == MOVING.boxes).all() for tubes in read_truth(path).values())
    path.write_text(json.dumps({"u": entry}))
    assert read_ways(path) == {}
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        read_ways(tmp_path / "missing.json")
    for wrong in ([1], {"v": 1}, *({"v": {"way": way}} for way in (-1, 0.5, True, "0", None))):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"truth\.json"):
            read_ways(path)


@pytest.mark.parametrize("strict", [False, True])
def test_the_mask_is_the_pointing_game_of_every_voxel(strict):
    mask = truth_mask([MOVING], FRAMES, CROP, (20, 30), strict=strict)  # a voxel is 2 x 2 pixels
    for (t, y, x), value in np.ndenumerate(mask.numpy()):
        assert value == points_at((FRAMES[t], 2 * y + 1, 2 * x + 1), [MOVING], strict=strict)
    assert 0 < float(mask.float().mean()) < 0.2


def masks():
    return [truth_mask([MOVING], FRAMES, CROP, (20, 30), strict=strict) for strict in (True, False)]


def test_perfect_inverted_and_random_heat():
    strict, swept = masks()
    perfect = placed(strict.float(), strict, swept)
    assert set(perfect.values()) == {1.0} and len(perfect) == 7
    elsewhere = ~strict.any(0) & ~strict.flatten(1).any(1)[:, None, None]  # neither the place nor the time
    assert set(placed(elsewhere.float(), strict, swept).values()) == {0.0}
    generator = torch.Generator().manual_seed(0)
    random = [placed(torch.rand(strict.shape, generator=generator), strict, swept) for _ in range(300)]
    for name, expected in chance(strict, swept).items():
        found = np.mean([one[name] for one in random])
        spread = 4 * np.std([one[name] for one in random]) / np.sqrt(300) + 1e-3
        assert found == pytest.approx(expected, abs=spread), name


def test_chance_is_the_share_of_voxels_places_and_frames():
    strict, swept = masks()
    found = chance(strict, swept)
    assert found["pointing"] == pytest.approx(float(swept.double().mean()))
    for name, mask in (("pointing_strict", strict), ("energy", strict), ("energy_space", strict.any(0)),
                       ("pointing_space", strict.any(0))):
        assert found[name] == pytest.approx(float(mask.double().mean()))
    assert found["energy_time"] == pytest.approx(3 / 8) and found["pointing_time"] == pytest.approx(3 / 8)
    assert chance(torch.zeros(2, 3, 3, dtype=torch.bool), torch.zeros(2, 3, 3, dtype=torch.bool)) == {}


def test_right_time_in_the_wrong_place_and_the_other_way_round():
    strict, swept = masks()
    heat = torch.zeros(strict.shape)
    heat[3, 0, 0] = 1  # frame 5
    assert placed(heat, strict, swept)["pointing_time"] == 1 and placed(heat, strict, swept)["pointing_space"] == 0
    heat = torch.zeros(strict.shape)
    heat[0, 11, 6] = 1
    found = placed(heat, strict, swept)
    assert (found["pointing_time"], found["pointing_space"], found["pointing"], found["energy"]) == (0, 1, 0, 0)

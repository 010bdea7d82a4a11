"""Points and regions whose answer is known."""

import json

import numpy as np
import pytest

from evaluation.localisation import Tube, points_at, random_hits, read_truth

# A box of 4 x 6 pixels (width, height) that moves 3 pixels to the right every frame, over frames 5, 6 and 7.
MOVING = Tube(5, np.array([[10 + 3 * i, 20, 4, 6] for i in range(3)], dtype=float))


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


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("crop", [(0, 0, 40, 60), (18.0, 12.0, 30.0, 24.0), (0.5, 0.5, 24.5, 15.5)])
def test_random_hits_count_every_pixel(strict, crop):
    other = Tube(6, np.array([[12, 22, 10, 10]], dtype=float))  # overlaps the first in frame 6
    frames = np.arange(2, 10)
    hits = [points_at((frame, y, x), [MOVING, other], strict=strict) for frame in frames
            for y in range(60) for x in range(80) if crop[0] <= y < crop[2] and crop[1] <= x < crop[3]]
    assert random_hits([MOVING, other], frames, np.array(crop), strict=strict) == pytest.approx(np.mean(hits))
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
                  '"boxes_x_y_w_h": [[1, 2]]}]}}'):
        (tmp_path / "wrong.json").write_text(wrong)
        with pytest.raises(ValueError, match=r"wrong\.json"):
            read_truth(tmp_path / "wrong.json")

"""Evidence of boxes, for a model that sees the brightness of two regions and nothing else."""

import pytest
import torch

from evaluation.faithfulness import blurred
from explain.evidence import ON_CARDS, Evidence, box_masks, kept_activation

SIZE = (6, 24, 30)
REGIONS = [(1, 2, 3, 4, 8, 13), (2, 12, 15, 6, 20, 28)]  # of prototypes 0 and 1


def clip_of(*boxes):
    """(3, T, H, W), dark but for the boxes."""
    clip = torch.full((3, *SIZE), 0.01)
    for t0, y0, x0, t1, y1, x1 in boxes:
        clip[:, t0:t1, y0:y1, x0:x1] = 1
    return clip


class Regions:
    """(B, 3, T, H, W) -> (B, 2), the mean brightness of each region; it counts the clips."""

    def __init__(self):
        self.seen = 0

    def __call__(self, clips):
        self.seen += len(clips)
        return torch.stack([clips[:, :, t0:t1, y0:y1, x0:x1].mean((1, 2, 3, 4)) for t0, y0, x0, t1, y1, x1 in REGIONS],
                           1)


def brightness(clip, box):
    t0, y0, x0, t1, y1, x1 = box
    return float(clip[:, t0:t1, y0:y1, x0:x1].mean())


def test_a_perfect_box_keeps_all_and_an_inverted_one_nothing_but_the_blur():
    clip = clip_of(*REGIONS)
    left = [brightness(blurred(clip), box) / brightness(clip, box) for box in REGIONS]
    assert max(left) < 0.6
    perfect = kept_activation(Regions(), clip, REGIONS, [0, 1], normalisation="i3d")
    swapped = kept_activation(Regions(), clip, REGIONS[::-1], [0, 1], normalisation="i3d")
    for i in (0, 1):
        assert perfect[i].box_only == pytest.approx(1) and perfect[i].box_hidden == pytest.approx(left[i])
        assert swapped[i].box_hidden == pytest.approx(1) and swapped[i].box_only == pytest.approx(left[i])
        assert perfect[i].holds and not swapped[i].holds


def test_half_a_box_keeps_half_of_what_the_blur_takes():
    clip = clip_of(REGIONS[0])
    t0, y0, x0, t1, y1, x1 = REGIONS[0]
    half = (t0, y0, x0, t1, y1, (x0 + x1) // 2)
    left, right = (brightness(blurred(clip), box) for box in (half, (t0, y0, half[5], t1, y1, x1)))
    (found,) = kept_activation(Regions(), clip, [half], [0], normalisation="i3d")
    assert found.box_only == pytest.approx((1 + right) / 2) and found.box_hidden == pytest.approx((left + 1) / 2)


def test_random_boxes_keep_what_they_hold_of_the_region():
    clip, generator = clip_of(*REGIONS), torch.Generator().manual_seed(0)
    starts = torch.stack([torch.randint(3, (20,), generator=generator), torch.randint(9, (20,), generator=generator),
                          torch.randint(12, (20,), generator=generator)], 1).tolist()
    boxes = [(t, y, x, t + 4, y + 16, x + 19) for t, y, x in starts]
    dark = blurred(clip)
    for prototype, (t0, y0, x0, t1, y1, x1) in enumerate(REGIONS):
        region = (slice(None), slice(t0, t1), slice(y0, y1), slice(x0, x1))
        for box, mask, found in zip(boxes, box_masks(boxes, SIZE), kept_activation(
                Regions(), clip, boxes, [prototype] * len(boxes), normalisation="i3d"), strict=True):
            kept, gone = (float(torch.where(some, clip, dark)[region].mean()) for some in (mask, ~mask))
            assert found.box_only == pytest.approx(kept) and found.box_hidden == pytest.approx(gone), box
            assert found.holds == (kept > gone)


def test_boxes_that_are_the_same_are_shown_once():
    model = Regions()
    found = kept_activation(model, clip_of(*REGIONS), [REGIONS[0]] * 5, [0, 1, 0, 1, 0], batch_size=2,
                            normalisation="i3d")
    assert model.seen == 3 + len(ON_CARDS)  # the clip, the box alone, all but the box, the box changed
    assert found[0] == found[2] == found[4] and found[1] == found[3] and found[0].holds and not found[1].holds


def test_equal_shares_do_not_hold():
    assert not Evidence(0.5, 0.5).holds


def test_masks_are_true_inside():
    masks = box_masks(REGIONS, SIZE)
    for mask, (t0, y0, x0, t1, y1, x1) in zip(masks, REGIONS, strict=True):
        for t, y, x in torch.cartesian_prod(*map(torch.arange, SIZE)).tolist():
            assert bool(mask[t, y, x]) == (t0 <= t < t1 and y0 <= y < y1 and x0 <= x < x1)


@pytest.mark.parametrize("size", [SIZE, (1, 3, 2), (2, 1, 1)])
def test_what_hides_keeps_the_light_and_stays_within_its_frame(size):
    flat = torch.full((3, *size), 0.7)
    assert torch.allclose(blurred(flat), flat, atol=1e-6)
    flat[:, 0] = 0.2
    assert torch.allclose(blurred(flat), flat, atol=1e-6)

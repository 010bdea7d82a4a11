"""What a match hangs on: models that see motion, its direction, colour or texture alone come out as they are."""

import pytest
import torch

from datasets.transforms import NORMALISATIONS, normalise
from evaluation.likeness import CHANGES, TRAITS, changed, hangs_on, left
from explain.evidence import ON_CARDS, kept_activation
from explain.wording import hangs_on_words

SIZE = (8, 32, 32)
BOX = (1, 4, 4, 7, 28, 28)
AT = (slice(None), slice(1, 7), slice(4, 28), slice(4, 28))


@pytest.fixture
def pixels():
    """A red square that moves to the right over stripes, (3, T, H, W) uint8."""
    clip = torch.full((3, *SIZE), 100, dtype=torch.uint8)
    clip[:, :, :, ::2] = 60
    for t in range(SIZE[0]):
        clip[0, t, 12:20, 4 + 2 * t:12 + 2 * t] = 250
        clip[1:, t, 12:20, 4 + 2 * t:12 + 2 * t] = 30
    return clip


def inside(clips):
    return clips[(slice(None), *AT)]


def red_places(clips):
    """(B, t): the mean column of what is redder than green."""
    red = (inside(clips)[:, 0] - inside(clips)[:, 1]).clamp(min=0) + 1e-6
    return (red.sum(2) * torch.arange(red.shape[3])).sum(2) / red.sum((2, 3))


def straightness(clips):
    """How straight the red square stands in the rows that it covers, in every frame."""
    red = (clips[:, 0] - clips[:, 1])[:, :, 13:19].clamp(min=0) + 1e-6
    middle = (red * torch.arange(red.shape[3])).sum(3) / red.sum(3)  # (B, T, rows)
    return 1 / (0.2 + middle.std(2).mean(1))


SEERS = {
    "motion": lambda clips: inside(clips).diff(dim=2).abs().mean((1, 2, 3, 4)),
    "direction": lambda clips: red_places(clips).diff(dim=1).mean(1).clamp(min=0),
    "order": lambda clips: 1 / (0.1 + red_places(clips).diff(n=2, dim=1).abs().mean(1)),
    "colour": lambda clips: (inside(clips)[:, 0] - inside(clips)[:, 1]).abs().mean((1, 2, 3)),
    "brightness": lambda clips: inside(clips).add(1).mean((1, 2, 3, 4)),
    "texture": lambda clips: inside(clips).diff(dim=4).square().mean((1, 2, 3, 4)),
    "shape": straightness}


@pytest.mark.parametrize("trait", TRAITS)
def test_a_model_that_sees_one_thing_hangs_on_it(pixels, trait):
    clip = normalise(pixels, "i3d")
    shares = hangs_on(left(SEERS[trait], clip, BOX, normalisation="i3d"))
    assert set(shares) == set(TRAITS) and shares[trait] > 0.3
    free = {"motion": ("direction", "colour"), "colour": ("motion", "direction", "order"),
            "brightness": ("motion", "direction", "order", "colour", "texture"),
            "texture": ("motion", "direction", "order"), "direction": (), "order": ("direction",),
            "shape": ("motion", "direction", "order", "brightness")}
    assert all(shares[other] < shares[trait] for other in TRAITS if other in free[trait])
    assert all(shares[other] < 0.25 for other in free[trait] if (trait, other) != ("motion", "colour"))


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_changes_of_pixels_are_those_of_what_a_person_sees(pixels, kind):
    clip = normalise(pixels, kind)
    grey = pixels.float().clone()
    grey[AT] = (pixels.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)).sum(0)[AT[1:]]
    dark = pixels.float().clone()
    dark[AT] *= 0.6
    for what, wanted in (("grey", grey), ("darker", dark)):
        mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in NORMALISATIONS[kind])
        torch.testing.assert_close(changed(clip, BOX, what, normalisation=kind), (wanted / 255 - mean) / std,
                                   atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("what", CHANGES)
def test_nothing_changes_outside_the_box(pixels, what):
    clip = normalise(pixels, "i3d")
    before, other = clip.clone(), changed(clip, BOX, what, normalisation="i3d")
    assert torch.equal(clip, before) and not torch.equal(other, clip)
    other[AT] = clip[AT]
    assert torch.equal(other, clip)
    assert torch.equal(*(changed(clip, BOX, what, normalisation="i3d", seed=3) for _ in range(2)))


def test_bent_outlines_keep_colours_and_what_moves_and_when(pixels):
    clip = normalise(pixels, "i3d")
    bent = changed(clip, BOX, "bent", normalisation="i3d")
    still, bent_still = (changed(one, BOX, "still", normalisation="i3d") for one in (clip, bent))
    assert torch.equal(changed(still, BOX, "bent", normalisation="i3d"), bent_still)  # all frames are pulled alike
    palette, colours = clip.flatten(1), inside(bent[None])[0].flatten(1)
    assert (colours >= palette.amin(1, keepdim=True) - 1e-4).all()
    assert (colours <= palette.amax(1, keepdim=True) + 1e-4).all()
    there = red_places(bent[None])[0].diff()
    assert (there > 0).float().mean() > 0.8  # the square still moves to the right


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 5, 3), (3, 1, 9)])
@pytest.mark.parametrize("what", CHANGES)
def test_boxes_and_clips_of_any_size(size, what):
    clip = torch.randn(3, *size)
    assert changed(clip, (0, 0, 0, *size), what, normalisation="i3d").isfinite().all()


def test_cards_tell_what_was_measured(pixels):
    clip = normalise(pixels, "i3d")
    one, two = kept_activation(lambda clips: torch.stack((SEERS["colour"](clips), SEERS["motion"](clips)), 1), clip,
                               [BOX, BOX], [0, 1], normalisation="i3d", batch_size=3)
    for evidence, trait in ((one, "colour"), (two, "motion")):
        wanted = hangs_on(left(SEERS[trait], clip, BOX, normalisation="i3d"))
        assert dict(evidence.hangs_on) == pytest.approx({name: wanted[name] for name in ON_CARDS}, abs=1e-5)
    said = hangs_on_words({"hangs_on": dict(one.hangs_on)})
    assert said.index("colour") < said.index("motion") and "turns grey" in said and "100" in said
    nothing = hangs_on_words({"hangs_on": dict.fromkeys(ON_CARDS, 0.04)})
    assert "no one thing" in nothing and "4" in nothing and "colour" not in nothing
    assert hangs_on_words({}) == ""  # of explanations written before

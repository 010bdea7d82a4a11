"""What training and evaluation see, and which region of the frame it was."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from datasets.sampling import seed_of
from datasets.transforms import NORMALISATIONS, EvalTransform, TrainTransform, normalise


def noise(t: int = 4, h: int = 40, w: int = 60) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(256, size=(t, h, w, 3), dtype=np.uint8))


def resized(frames: torch.Tensor, crop: list[float], size: int) -> torch.Tensor:
    """The slow way: cut out, resize in float, smoothed where the region shrinks."""
    y0, x0, y1, x1 = map(int, crop)
    cut = frames[:, y0:y1, x0:x1].permute(3, 0, 1, 2).float()  # (3, T, h, w)
    return interpolate(cut, (size, size), mode="bilinear", align_corners=False, antialias=max(cut.shape[2:]) > size)


@pytest.mark.parametrize("transform", [EvalTransform(24), TrainTransform(24, flip=False), TrainTransform(24),
                                       TrainTransform(24, crop="center")])
def test_a_clip_is_the_region_that_its_crop_names(transform):
    frames = noise()
    for i in range(20):
        clip, crop, flip = transform(frames, seed_of(i))
        assert clip.shape == (3, 4, 24, 24)
        assert clip.dtype == torch.uint8
        assert clip.is_contiguous()
        slow = resized(frames, crop.tolist(), 24)
        assert (clip - slow).abs().max() < 1.5  # two roundings


def test_evaluation_sees_the_centre_square():
    clip, crop, flip = EvalTransform(20)(noise(h=40, w=61))
    assert crop.tolist() == [0, 10, 40, 50]
    assert flip is False
    assert EvalTransform(20)(noise(h=50, w=30))[1].tolist() == [10, 0, 40, 30]
    assert clip.shape == (3, 4, 20, 20)


def test_frames_of_the_wanted_size_come_through_untouched():
    frames = noise(h=24, w=24)
    assert torch.equal(EvalTransform(24)(frames)[0], frames.permute(3, 0, 1, 2))


def test_random_crops_keep_to_their_ranges():
    transform = TrainTransform(24, scales=(0.3, 0.6), ratio=(0.5, 2))
    crops = torch.stack([transform(noise(t=1), seed_of(i))[1] for i in range(300)])
    h, w = (crops[:, 2] - crops[:, 0]), (crops[:, 3] - crops[:, 1])
    assert (crops[:, :2] >= 0).all()
    assert (crops[:, 2] <= 40).all()
    assert (crops[:, 3] <= 60).all()
    area = h * w / 2400
    assert ((area > 0.28) & (area < 0.62)).all()  # whole pixels
    assert area.std() > 0.05
    assert ((w / h > 0.47) & (w / h < 2.1)).all()
    assert (w > h).float().mean() > 0.4  # log-uniform: as many wide as high; the frame's own shape favours wide ones
    assert (w < h).float().mean() > 0.2
    assert len(crops[:, 0].unique()) > 10


def test_a_crop_that_cannot_fit_is_the_largest_centred_one():
    crop = TrainTransform(24, scales=(1, 1), ratio=(1, 1))(noise(h=40, w=60), seed_of(0))[1]
    assert crop.tolist() == [0, 10, 40, 50]


def test_one_crop_and_one_flip_for_all_frames():
    frames = noise(t=1).expand(6, -1, -1, -1)
    for i in range(10):
        clip = TrainTransform(24)(frames, seed_of(i))[0]
        assert (clip == clip[:, :1]).all()


def test_half_of_the_clips_are_mirrored_unless_told_otherwise():
    flips = [TrainTransform(24)(noise(t=1), seed_of(i))[2] for i in range(200)]
    assert 70 < sum(flips) < 130
    assert not any(TrainTransform(24, flip=False)(noise(t=1), seed_of(i))[2] for i in range(20))


def test_flipping_leaves_crop_and_clip_alone():
    """The same draws with and without mirroring show the same region; who normalises mirrors."""
    for i in range(10):
        plain, crop, _ = TrainTransform(24, flip=False)(noise(), seed_of(i))
        clip, same, _ = TrainTransform(24)(noise(), seed_of(i))
        assert torch.equal(crop, same)
        assert torch.equal(clip, plain)


@pytest.mark.parametrize("options", [{"crop": "corner"}, {"scales": (0.5, 0.2)}, {"scales": (0, 1)}, {"ratio": (0, 1)}])
def test_impossible_crops_are_errors(options):
    with pytest.raises(ValueError, match="crop"):
        TrainTransform(24, **options)


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_normalising(kind):
    clips = noise().permute(3, 0, 1, 2)[None]  # (1, 3, T, H, W)
    normal = normalise(clips, kind)
    assert normal.dtype == torch.float32
    mean, std = NORMALISATIONS[kind]
    for channel in range(3):
        expected = (clips[:, channel] / 255 - mean[channel]) / std[channel]
        assert torch.allclose(normal[:, channel], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(normalise(clips[0], kind), normal[0])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_mirrored_as_they_are_normalised(layout):
    """To the last bit what mirroring each clip first would give, in the layout of the clips."""
    clips = torch.from_numpy(np.random.default_rng(0).integers(256, size=(5, 3, 4, 9, 8), dtype=np.uint8))
    clips, flip = clips.contiguous(memory_format=layout), torch.tensor([True, False, False, True, True])
    before = clips.clone()
    mirrored = torch.stack([clip.flip(-1) if bool(yes) else clip for clip, yes in zip(clips, flip, strict=True)])
    found = normalise(clips, "mvit", flip)
    assert torch.equal(found, normalise(mirrored, "mvit")) and torch.equal(clips, before)
    assert found.is_contiguous(memory_format=layout)
    assert torch.equal(normalise(clips[0], "mvit", flip[0]), found[0])


def test_known_normalisations():
    """By default Kinetics'; I3D sees -1..1, Hara's first weights bytes less a mean."""
    clips = torch.tensor([0, 255], dtype=torch.uint8).expand(3, 1, 1, 2)
    assert torch.equal(normalise(clips), normalise(clips, "kinetics"))
    torch.testing.assert_close(normalise(clips, "i3d")[0], torch.tensor([[[-1.0, 1.0]]]))
    torch.testing.assert_close(normalise(clips, "activitynet")[0], torch.tensor([[[-114.7748, 255 - 114.7748]]]))

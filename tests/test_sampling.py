"""Which frames make a clip and which clips make a batch: exact, covering, reproducible."""

import itertools
import math

import numpy as np
import pytest
import torch

from datasets.sampling import EpochBatches, EvenClips, RandomClip, SlidingWindows, SpreadWindows, n_batches, seed_of

SAMPLERS = [RandomClip(8), RandomClip(8, stride=2), EvenClips(8, 1), EvenClips(8, 3, stride=3), SlidingWindows(8, 4),
            SlidingWindows(8, 5, stride=2), SpreadWindows(8, 3, share=0.5), SpreadWindows(8, 0, step=5, stride=2)]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("n_frames", [1, 3, 7, 8, 9, 15, 16, 22, 23, 100])
def test_clips_lie_in_the_video_and_keep_their_stride(sampler, n_frames):
    for k in range(sampler.count(n_frames)):
        frames = sampler(n_frames, k, seed_of(n_frames, k))
        assert frames.dtype == torch.int64
        assert len(frames) == sampler.duration
        assert 0 <= int(frames.min()) <= int(frames.max()) < n_frames
        assert torch.equal(frames, (frames[0] + sampler.stride * torch.arange(8)) % n_frames)
        if n_frames > 7 * sampler.stride:  # long enough: nothing is looped
            assert torch.equal(frames.diff(), torch.full((7,), sampler.stride))


def test_short_videos_are_looped():
    for sampler in (RandomClip(8), EvenClips(8, 2), SlidingWindows(8, 4)):
        assert sampler(3, 0, seed_of(0)).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_random_clips_start_everywhere():
    starts = {int(RandomClip(8)(12, 0, seed_of(1, 2, i))[0]) for i in range(200)}
    assert starts == {0, 1, 2, 3, 4}


def test_even_clips_reach_from_the_first_frame_to_the_last():
    clips = EvenClips(16, 3)
    assert [clips(41, k)[[0, -1]].tolist() for k in range(3)] == [[0, 15], [12, 27], [25, 40]]
    assert EvenClips(16, 1)(41, 0)[0] == 12


@pytest.mark.parametrize("step", [1, 3, 8])
@pytest.mark.parametrize("n_frames", [5, 8, 9, 24, 31, 33])
def test_windows_cover_every_frame_and_none_comes_twice(step, n_frames):
    windows = SlidingWindows(8, step)
    starts = [int(windows(n_frames, k)[0]) for k in range(windows.count(n_frames))]
    assert len(set(starts)) == len(starts)
    assert starts[:-1] == list(range(0, step * (len(starts) - 1), step))
    seen = torch.cat([windows(n_frames, k) for k in range(windows.count(n_frames))])
    assert set(seen.tolist()) == set(range(n_frames))


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("n_frames", [1, 5, 8, 9, 24, 31, 33, 100])
def test_spread_windows_show_what_is_asked_for(n_frames, stride):
    span = 7 * stride + 1
    every = SpreadWindows(8, 0, stride=stride)
    starts = [int(every(n_frames, k)[0]) for k in range(every.count(n_frames))]
    assert len(starts) == max(1, n_frames // span)
    assert all(later - start >= span for start, later in itertools.pairwise(starts))  # no overlap
    for most in (1, 2, 3):
        some = SpreadWindows(8, most, stride=stride)
        assert some.count(n_frames) == min(most, len(starts))
        for k in range(n := some.count(n_frames)):  # in the middle of its part of the video, but for rounding
            start = int(some(n_frames, k)[0])
            assert n_frames < span or abs(start + span / 2 - (k + 0.5) * n_frames / n) <= 0.5
    quarter = SpreadWindows(8, 8, share=0.25, stride=stride)
    assert quarter.count(n_frames) == min(8, max(1, math.ceil(n_frames / (4 * span))))


def test_spread_windows_show_the_middle_of_a_video():
    two, every = SpreadWindows(64, 2), SpreadWindows(64, 0)
    assert [int(two(400, k)[0]) for k in range(2)] == [68, 268]
    assert [int(every(65, k)[0]) for k in range(every.count(65))] == [1]
    assert [int(every(128, k)[0]) for k in range(every.count(128))] == [0, 64]


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("n_frames", [1, 5, 8, 9, 24, 31, 33, 100])
def test_spread_windows_of_a_step_are_sliding_ones(n_frames, stride):
    def starts(sampler: SpreadWindows | SlidingWindows) -> list[int]:
        return [int(sampler(n_frames, k)[0]) for k in range(sampler.count(n_frames))]

    every = starts(SlidingWindows(8, 3, stride=stride))
    assert starts(SpreadWindows(8, 0, step=3, stride=stride)) == every
    for most in (1, 2, 3, 50):
        some = starts(SpreadWindows(8, most, step=3, stride=stride))
        assert len(some) == min(most, len(every)) and some == sorted(set(some)) and set(some) <= set(every)
        # as many are left out before the first as after the last, but for one
        assert abs(every.index(some[0]) - (len(every) - 1 - every.index(some[-1]))) <= 1


@pytest.mark.parametrize("make", [lambda: RandomClip(0), lambda: RandomClip(8, stride=0), lambda: EvenClips(8, 0),
                                  lambda: SlidingWindows(8, 0), lambda: SpreadWindows(8, -1),
                                  lambda: SpreadWindows(8, 1, step=0), lambda: SpreadWindows(8, 1, share=0)])
def test_impossible_settings_are_errors(make):
    with pytest.raises(ValueError, match="at least"):
        make()


@pytest.mark.parametrize(("n_items", "batch_size"),
                         [(0, 4), (1, 4), (1, 1), (5, 1), (8, 4), (9, 4), (10, 4), (5, 8), (9, 8)])
def test_an_epoch_has_every_item_once(n_items, batch_size):
    batches = list(EpochBatches(n_items, batch_size, seed=3, epoch=2))
    assert len(batches) == n_batches(n_items, batch_size) == len(EpochBatches(n_items, batch_size, seed=3, epoch=2))
    assert sorted(item for batch in batches for item in batch) == [(2, i) for i in range(n_items)]
    assert all(len(batch) == batch_size for batch in batches[:-1])
    if n_items > 1 and batch_size > 1:  # batch-norm cannot train on one clip
        assert all(len(batch) > 1 for batch in batches)


def test_an_epoch_goes_on_where_it_was_left():
    whole = list(EpochBatches(23, 5, seed=1, epoch=4))
    rest = EpochBatches(23, 5, seed=1, epoch=4, first=3)
    assert list(rest) == whole[3:]
    assert len(rest) == len(whole) - 3
    assert list(rest) == whole[3:]  # asking twice changes nothing


def test_seed_and_epoch_decide_the_order():
    def order(seed, epoch):
        return [i for batch in EpochBatches(50, 8, seed=seed, epoch=epoch) for _, i in batch]

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(*pair)) for pair in [(1, 1), (1, 2), (2, 1), (2, 2)]}) == 4


def test_generators_of_different_tuples_differ():
    tuples = [(), (0,), (1,), (1, 0), (0, 1), (1, 0, 0), (1, 2), (2, 1), (2**40, 1), (1, 2**40)]
    draws = {tuple(seed_of(*integers).integers(2**60, size=2).tolist()) for integers in tuples}
    assert len(draws) == len(tuples)
    assert np.array_equal(seed_of(5, 6).random(4), seed_of(5, 6).random(4))

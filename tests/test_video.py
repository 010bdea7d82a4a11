"""Clips are pure functions of (seed, step, item), know where they come from, and survive broken files."""

import os
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from media import number_of, shades, write_frames, write_video
from torch.utils.data import DataLoader

from datasets import READERS
from datasets.reading import CachedReader, JpegFolder, VideoFile
from datasets.sampling import EpochBatches, EvenClips, RandomClip, SlidingWindows
from datasets.transforms import EvalTransform, TrainTransform
from datasets.video import Video, VideoClips
from training.features import valid_clips
from util_scripts import generate_video_hdf5, pack_frames


@pytest.fixture
def videos(tmp_path):
    """Frame folders of 5, 12 and 30 noisy frames of 24 x 32; the source of each was twice as high, thrice as wide."""
    rng = np.random.default_rng(0)
    found = []
    for label, n in enumerate((5, 12, 30)):
        pixels = rng.integers(256, size=(n, 24, 32, 3), dtype=np.uint8)
        path = write_frames(tmp_path / f"v{label}", pixels, info={"n_frames": n, "width": 96, "height": 48, "fps": 25})
        found.append(Video(f"v{label}", path, label, "training", n, (0, n)))
    return found


def training(videos, **options):
    return VideoClips(videos, sampler=RandomClip(8), transform=TrainTransform(16), reader=JpegFolder(), **options)


def windows(videos, **options):
    return VideoClips(videos, sampler=SlidingWindows(8, 4), transform=EvalTransform(16), reader=JpegFolder(), **options)


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items())


def test_an_item_tells_what_it_is(videos):
    clips = windows(videos)
    item = clips[7]
    assert item["clip"].shape == (3, 8, 16, 16)
    assert item["clip"].dtype == torch.uint8
    assert {key: item[key] for key in ("label", "video", "flip", "item", "valid")} == {
        "label": 2, "video": 2, "flip": False, "item": 7, "valid": True}
    assert item["frames"].tolist() == list(range(16, 24))
    assert item["crop"].tolist() == [0, 12, 48, 84]  # of the source: the frames' 0, 4, 24, 28


def test_items_are_pairs_of_video_and_clip(videos):
    clips = windows(videos)  # 1, 2 and 7 windows
    assert clips.item_video.tolist() == [0] + [1] * 2 + [2] * 7
    assert clips.item_clip.tolist() == [0, 0, 1, *range(7)]
    assert [int(item["frames"][0]) for item in clips] == [0, 0, 4, 0, 4, 8, 12, 16, 20, 22]
    assert len(training(videos)) == 3
    even = VideoClips(videos, sampler=EvenClips(8, 3), transform=EvalTransform(16), reader=JpegFolder())
    assert even.item_video.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_crop_and_frames_lead_back_to_the_pixels(tmp_path):
    """Every pixel of a clip is found again in the source at the place that frames and crop name."""
    ramp = np.zeros((20, 40, 60, 3), dtype=np.uint8)
    ramp[..., 0] = 10 * np.arange(20)[:, None, None]
    ramp[..., 1] = 5 * np.arange(40)[:, None]
    ramp[..., 2] = 4 * np.arange(60)
    video = Video("v", write_video(tmp_path / "v.avi", ramp), 0, "training", 20, (0, 20))
    stored = VideoFile().frames(video.path).float()
    clips = VideoClips([video], sampler=RandomClip(4), transform=TrainTransform(16), reader=VideoFile())
    flips = set()
    for step in range(8):
        item = clips[step, 0]
        y0, x0, y1, x1 = item["crop"].tolist()
        flips.add(item["flip"])
        for t, y, x in ((0, 4, 4), (3, 8, 2), (2, 15, 11)):
            shown = item["clip"][:, t, y, x].float()
            at_y, at_x = y0 + (y + 0.5) * (y1 - y0) / 16 - 0.5, x0 + (x + 0.5) * (x1 - x0) / 16 - 0.5
            expected = stored[item["frames"][t], round(at_y), round(at_x)]
            assert (shown - expected).abs().max() < 12  # half a pixel and the codec
    assert flips == {False, True}


def test_training_steps_differ_and_repeat(videos):
    clips = training(videos)
    assert same(clips[3, 2], clips[3, 2])
    assert same(clips[0, 2], clips[2])
    assert not same(clips[3, 2], clips[4, 2])
    assert not same(clips[3, 2], training(videos, seed=2)[3, 2])
    assert same(clips[3, 2], training(videos, seed=1)[3, 2])


@pytest.mark.parametrize("cached", [False, True])
def test_the_number_of_workers_changes_nothing(videos, cached):
    clips = training(videos * 4)
    if cached:
        clips.reader = CachedReader(clips.reader, 10**6)
    runs = []
    for workers in (0, 1, 2):
        torch.manual_seed(workers)  # nothing may depend on the global generators
        batches = EpochBatches(len(clips), 5, seed=1, epoch=6)
        runs.append(list(DataLoader(clips, batch_sampler=batches, num_workers=workers)))
    assert len(runs[0]) == 3
    for run in runs[1:]:
        assert all(same(one, other) for one, other in zip(runs[0], run, strict=True))


def test_collation_gives_tensors(videos):
    (batch,) = DataLoader(windows(videos), batch_size=10)
    assert batch["clip"].shape == (10, 3, 8, 16, 16)
    assert batch["crop"].shape == (10, 4)
    assert batch["frames"].shape == (10, 8)
    assert batch["valid"].dtype == batch["flip"].dtype == torch.bool
    assert batch["video"].dtype == batch["label"].dtype == batch["item"].dtype == torch.int64


def test_clips_come_from_the_segment(tmp_path):
    path = write_frames(tmp_path / "v", shades(30))
    video = Video("v", path, 0, "training", 30, (10, 20))
    starts = {int(training([video])[step, 0]["frames"][0]) for step in range(40)}
    assert starts == {10, 11, 12}
    for item in windows([video]):
        assert number_of(item["clip"].permute(1, 2, 3, 0)) == item["frames"].tolist()
    assert [int(item["frames"][0]) for item in windows([video])] == [10, 12]
    short = Video("v", path, 0, "training", 30, (10, 13))
    assert windows([short])[0]["frames"].tolist() == [10, 11, 12, 10, 11, 12, 10, 11]


def test_unknown_lengths_come_from_the_reader(tmp_path, videos):
    unknown = [Video(video.name, video.path, video.label, video.subset, 0, (0, 0)) for video in videos]
    assert all(same(one, other) for one, other in zip(windows(unknown), windows(videos), strict=True))


@pytest.fixture
def broken(videos):
    """Three videos of which the middle one has lost a frame."""
    (videos[1].path / "image_00007.jpg").unlink()
    return videos


def test_training_takes_the_next_video_for_a_broken_one(broken):
    clips = VideoClips(broken, sampler=RandomClip(12), transform=TrainTransform(16), reader=JpegFolder())
    with pytest.warns(RuntimeWarning, match="image_00007.jpg") as told:
        items = [clips[step, 1] for step in range(3)]
    assert len(told) == 1  # once a process
    assert all(same(item, clips[step, 2] | {"asked": 1}) for step, item in enumerate(items))
    assert clips.unreadable == {1}


@pytest.mark.parametrize("workers", [0, 2])
def test_who_goes_through_the_clips_knows_what_is_broken(broken, workers):
    whole = VideoClips(broken, sampler=RandomClip(12), transform=TrainTransform(16), reader=JpegFolder())
    for clips, kept in ((whole, 3), (windows(broken), 8)):
        loader = DataLoader(clips, batch_size=2, num_workers=workers)
        with warnings.catch_warnings(action="ignore"):
            assert sum(len(batch["label"]) for batch in valid_clips(loader, torch.device("cpu"))) == kept
        assert clips.unreadable == {1}


def test_the_last_video_is_replaced_by_the_first(broken):
    clips = VideoClips(broken[:2], sampler=RandomClip(12), transform=TrainTransform(16), reader=JpegFolder())
    with pytest.warns(RuntimeWarning):
        assert clips[0, 1]["video"] == 0


def test_evaluation_marks_a_broken_clip(broken):
    clips = windows(broken)
    with pytest.warns(RuntimeWarning, match="image_00007.jpg") as told:
        items = list(clips)
    assert len(told) == 1
    assert [item["valid"] for item in items] == [True, False, False] + [True] * 7  # both windows show frame 6
    assert items[1]["clip"].shape == items[0]["clip"].shape
    assert not items[1]["clip"].any()
    (batch,) = DataLoader(clips, batch_size=10)
    assert batch["valid"].sum() == 8


def test_strict_makes_it_an_error(broken):
    for make in (training, windows):
        with pytest.raises(ValueError, match="image_00007.jpg"):
            make(broken, strict=True)[0, 1]


def test_a_broken_video_of_unknown_length(videos, tmp_path):
    lost = Video("lost", tmp_path / "lost", 0, "training", 0, (0, 0))
    with pytest.warns(RuntimeWarning, match="lost"):
        clips, trained = windows([lost, *videos]), training([lost, *videos])
    with warnings.catch_warnings(action="error"):  # told already
        assert [clips[i]["valid"] for i in (0, 1)] == [False, True]
        assert trained[0, 0]["video"] == 1
    with pytest.raises(ValueError, match="lost"):
        windows([lost], strict=True)


def test_training_on_nothing_but_broken_videos_is_an_error(tmp_path):
    lost = [Video("lost", tmp_path / "lost", 0, "training", 9, (0, 9))]
    with pytest.warns(RuntimeWarning, match="lost"), pytest.raises(ValueError, match="none of the videos"):
        training(lost)[0, 0]


def test_errors_of_the_program_are_not_taken_for_broken_files(videos):
    def failing(frames, rng):
        raise ValueError("a mistake in a transform")

    clips = VideoClips(videos, sampler=RandomClip(8), transform=failing, reader=JpegFolder())
    with pytest.raises(ValueError, match="a mistake"):
        clips[0, 0]


def test_items_out_of_range(videos):
    for index in (10, -1):
        with pytest.raises(IndexError):
            windows(videos)[index]
    assert len(windows([])) == 0


@pytest.mark.parametrize("form", ["jpg", "hdf5", "video", "packed"])
def test_clips_know_when_their_videos_are_written_over(videos, tmp_path, form):
    """By the files' sizes and times: a folder's own time stays where its pictures are replaced in place."""
    place = tmp_path if form == "jpg" else tmp_path / form
    if form == "packed":
        pack_frames.main([str(tmp_path), str(place)])
    elif form == "hdf5":
        generate_video_hdf5.main([str(tmp_path), str(place)])
    elif form == "video":
        for video in videos:
            write_video(place / f"{video.name}.avi", shades(30))
    paths = [place / f"{video.name}{'.avi' if form == 'video' else '.hdf5' if form == 'hdf5' else ''}"
             for video in videos]
    videos = [replace(video, path=path) for video, path in zip(videos, paths, strict=True)]
    clips = VideoClips(videos, sampler=EvenClips(4, 1), transform=EvalTransform(16), reader=READERS[form]())
    before = clips.identity()
    assert clips.identity() == before
    if form == "packed":
        touched = sorted(place.glob("shard_*.bin")) + [place / "index.npy"]
    else:
        touched = [paths[1] / "image_00001.jpg", paths[1] / "image_00012.jpg", paths[1]] if form == "jpg" else paths[:1]
    for path in touched:
        state = path.stat()
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
        assert clips.identity() != before
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert clips.identity() == before
    if form == "jpg":
        (paths[0] / "image_00005.jpg").unlink()  # what is missing is left out
        assert clips.identity() != before

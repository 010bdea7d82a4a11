"""Videos as a table, and the benchmark of loading with tiny settings."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from media import shades, write_video

from benchmarks import films, loading, preparing
from datasets.reading import JpegFolder
from datasets.sampling import RandomClip
from datasets.transforms import TrainTransform
from datasets.video import Video, VideoClips, VideoTable

VIDEOS = [Video("v_ä", Path("jpg/A b/v_ä"), 3, "training", 12, (2, 9)),
          Video("\ud800", Path("x"), -1, "testing", 0, (0, 0)),
          Video("k#2", Path("/abs/v_k"), 0, "validation", 40, (5, 6), "k"),
          Video("", Path("動"), 1, "training", 1, (0, 1))]


def test_a_table_holds_what_it_was_given():
    for table in (VideoTable(VIDEOS), pickle.loads(pickle.dumps(VideoTable(VIDEOS)))):
        assert list(table) == VIDEOS and len(table) == 4
        assert [table.path(i) for i in range(4)] == [video.path for video in VIDEOS]
        for i in (4, -1):
            with pytest.raises(IndexError):
                table[i]
    assert list(VideoTable([])) == []


def test_a_table_knows_its_subsets():
    table = VideoTable(VIDEOS)
    for name in ("training", "validation", "testing", "none such"):
        assert list(table.subset(name)) == [video for video in VIDEOS if video.subset == name]
        assert list(table.subset(name).names) == [video.name for video in VIDEOS if video.subset == name]
    assert table.cut and not table.subset("training").cut
    rows = [(video.name, str(video.path), *(getattr(video, name) for name in
             ("label", "subset", "n_frames", "segment", "part_of"))) for video in VIDEOS]
    assert list(VideoTable.from_rows(rows)) == VIDEOS


def test_many_videos_are_few_objects():
    videos = [Video(f"v{i}", Path(f"A/v{i}"), i % 7, "training", 9, (0, 9)) for i in range(5000)]
    clips = VideoClips(videos, sampler=RandomClip(8), transform=TrainTransform(16), reader=JpegFolder())
    held = [value for value in (*vars(clips).values(), *vars(clips.videos).values()) if isinstance(value, list | dict)]
    assert not [value for value in held if len(value) > 8]
    arrays = [value for value in vars(clips).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) < 64 * len(videos)


def test_the_benchmark_runs(tmp_path, capsys):
    for i in range(2):
        write_video(tmp_path / "A" / f"v{i}.avi", shades(12))
    loading.main(["--videos", str(tmp_path), "--workers", "0", "1", "--repeats", "1", "--epochs", "2",
                  "--million", "200", "--memory_workers", "1", "--sample_size", "16", "--sample_duration", "4",
                  "--batch_size", "2"])
    told = capsys.readouterr().out
    for word in ("jpg / published", "hdf5 / published", "packed / published", "video / whole videos",
                 "jpg / Pillow alone", "jpg / decoder alone", "start-up on 200 videos",
                 "memory over 2 epochs, 1 workers"):
        assert word in told
    with pytest.raises(SystemExit) as stop:
        loading.main(["--videos", str(tmp_path / "nowhere")])
    assert stop.value.code == 2 and "nowhere" in capsys.readouterr().err


def test_the_benchmark_of_preparation_runs(tmp_path, capsys):
    write_video(tmp_path / "A" / "v.avi", shades(12))
    preparing.main(["--videos", str(tmp_path), "--repeats", "1"])
    told = capsys.readouterr().out
    assert "frames/s" in told and ("ours / ffmpeg" in told or "no ffmpeg here" in told)
    with pytest.raises(SystemExit) as stop:
        preparing.main(["--videos", str(tmp_path / "nowhere")])
    assert stop.value.code == 2 and "nowhere" in capsys.readouterr().err


def test_the_floor_reads_the_clips_that_the_loader_reads(tmp_path):
    files = films.made_videos(tmp_path / "made", 1)
    videos = loading.storage(files, tmp_path, 240)["jpg"]
    clips = VideoClips(videos, sampler=RandomClip(16), transform=TrainTransform(32, flip=False), reader=JpegFolder())
    for step in range(3):
        path, frames, _ = loading.place(clips, step, 0)
        assert path == videos[0].path and frames == clips[step, 0]["frames"].tolist()
        published = loading.Published(clips)[step, 0]
        ours = clips[step, 0]["clip"].float() / 255
        mean, std = (np.array(values).reshape(3, 1, 1, 1) for values in (loading.MEAN, loading.STD))
        assert np.abs(published.numpy() * std + mean - ours.numpy()).mean() < 0.02  # the same region, antialiased there

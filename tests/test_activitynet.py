"""ActivityNet in miniature: real clips joined into untrimmed videos, with the official file's structure around them."""

import json

import av
import numpy as np
import pytest
from media import real_clips, shades, write_video
from preparing import numbers

import local_analysis
import main
from datasets.activitynet import read_activitynet, segment_frames
from datasets.reading import JpegFolder, VideoFile
from datasets.sampling import EvenClips, RandomClip, SlidingWindows
from datasets.transforms import EvalTransform
from datasets.video import VideoClips, VideoTable, whole_videos
from hierarchy.tree import Hierarchy
from util_scripts import (
    activitynet_hierarchy,
    add_fps_into_activitynet_json,
    check_dataset,
    eval_accuracy,
    generate_video_jpgs,
    pack_frames,
)

FPS, GAP = 25, 14  # frames of plain green before, between and after the actions
GREEN = np.array([0, 255, 0], dtype=np.uint8)
TAXONOMY = [("Root", 0, None), ("Moving", 1, 0), ("Waving", 2, 1), ("JumpingJack", 3, 1), ("WaveOneHand", 4, 2),
            ("WaveTwoHands", 5, 2), ("Bend", 6, 0)]
TREE = Hierarchy.from_rows([["JumpingJack", "JumpingJack", "Moving"], ["WaveOneHand", "Waving", "Moving"],
                            ["WaveTwoHands", "Waving", "Moving"], ["Bend", "Bend", "Bend"]])


def official(database: dict) -> dict:
    nodes = [{"nodeName": name, "nodeId": node, "parentId": parent,
              "parentName": None if parent is None else TAXONOMY[parent][0]} for name, node, parent in TAXONOMY]
    return {"version": "VERSION 1.3", "taxonomy": nodes, "database": database}


def call(script, *words) -> None:
    script.main([str(word) for word in words])


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """Videos v_KEY.avi of two actions each, and the JSON: five actors to train on, one to validate, one to test."""
    clips, root = real_clips("weizmann") / "videos", tmp_path_factory.mktemp("activitynet")
    database = {}
    for actor in range(1, 8):
        for names in (("Bend", "WaveOneHand"), ("JumpingJack", "WaveTwoHands")):
            key, segments, films = f"{'-'.join(names)}_{actor}", [], [np.broadcast_to(GREEN, (GAP, 64, 64, 3))]
            for name in names:
                film = VideoFile().frames(clips / name / f"v_{name}_g{actor:02d}_c01.avi")[:30].numpy()
                start = sum(map(len, films))
                segments.append({"segment": [start / FPS, (start + len(film)) / FPS], "label": name})
                films += [film, np.broadcast_to(GREEN, (GAP, 64, 64, 3))]
            subset = "training" if actor < 6 else "validation" if actor == 6 else "testing"
            film = np.concatenate(films)
            write_video(root / "avi" / f"v_{key}.avi", film, fps=FPS)
            database[key] = {"duration": len(film) / FPS, "url": f"https://example.org/{key}", "subset": subset,
                             "resolution": "64x64", "annotations": segments if subset != "testing" else []}
    (root / "official.json").write_text(json.dumps(official(database)))
    call(generate_video_jpgs, root / "avi", root / "jpg", "activitynet", "--n_jobs", 1)
    call(add_fps_into_activitynet_json, root / "jpg", root / "official.json", root / "anet.json")
    call(activitynet_hierarchy, root / "official.json", root / "tree.csv")
    return root


@pytest.fixture
def shaded(tmp_path):
    """One video whose frames tell their number, at 10 frames a second, and its entry."""
    write_video(tmp_path / "v_a.avi", shades(40), fps=10)

    def write(*segments, subset="training", **more):
        entry = {"subset": subset, "duration": 4.0, "fps": 10.0, "n_frames": 40, "annotations": [
            {"segment": list(segment), "label": label} for label, *segment in segments]} | more
        (tmp_path / "a.json").write_text(json.dumps(official({"a": {k: v for k, v in entry.items() if v is not None}})))
        return tmp_path / "a.json", tmp_path, TREE

    return write


def test_segments_are_training_samples_and_their_frames_alone_enter_clips(miniature):
    database = json.loads((miniature / "anet.json").read_text())["database"]
    videos = read_activitynet(miniature / "anet.json", miniature / "jpg", TREE)
    training = [video for video in videos if video.subset == "training"]
    assert len(training) == 2 * 10 and len({video.name for video in videos}) == len(videos)
    for reader, sampler in ((JpegFolder(), RandomClip(16)), (JpegFolder(), EvenClips(16, 3))):
        clips = VideoClips(training, sampler=sampler, transform=EvalTransform(64), reader=reader)
        seen = {v: set() for v in range(len(training))}
        for step in range(4 if sampler.random else 1):
            for i in range(len(clips)):
                item = clips[step, i]
                seen[item["video"]].update(item["frames"].tolist())
                red, green, blue = item["clip"].float().mean((2, 3))
                assert not ((green > 200) & (red < 80) & (blue < 80)).any()
        for v, frames in seen.items():
            key, number = training[v].name.split("#")
            (start, end), label = (database[key]["annotations"][int(number) - 1][name] for name in ("segment", "label"))
            assert TREE.names[training[v].label] == label
            assert all(start <= frame / FPS < end for frame in frames)
            if sampler.random is False:  # from the first frame to the last
                assert {min(frames), max(frames)} == {round(start * FPS), round(end * FPS) - 1}


def test_inference_slides_over_whole_videos(miniature):
    videos = whole_videos(read_activitynet(miniature / "anet.json", miniature / "jpg", TREE))
    assert [video.name for video in videos] == list(json.loads((miniature / "anet.json").read_text())["database"])
    clips = VideoClips(videos, sampler=SlidingWindows(16, 8), transform=EvalTransform(32), reader=JpegFolder())
    for v, video in enumerate(videos):
        frames = {int(f) for i in np.flatnonzero(clips.item_video == v) for f in clips.item_frames(i)}
        assert frames == set(range(JpegFolder().info(video.path).n_frames))
        assert (video.label == -1) == (video.subset == "testing")


def test_seconds_become_the_frames_shown_in_them():
    rng = np.random.default_rng(0)
    for _ in range(300):
        fps, n = rng.choice([10, 25, 29.97, 12.5]), int(rng.integers(1, 200))
        start, end = sorted(rng.uniform(0, 1.3 * n / fps, size=2))
        shown = [i for i in range(n) if start <= i / fps < end]
        assert segment_frames(start, end, fps, n) == ((shown[0], shown[-1] + 1) if shown else (0, 0))
    assert segment_frames(30 / 29.97, 60 / 29.97, 29.97) == (30, 60)  # not one more for rounding
    for wrong in ((2, 1), (-1, 1), (1, 1), (float("nan"), 1), (0, float("inf")), (0, 1e300)):
        assert segment_frames(*wrong, 25, 100) == (0, 0)


def test_whole_videos_take_the_class_of_most_frames(shaded):
    annotation = shaded(("Bend", 0, 1), ("JumpingJack", 1, 2.5), ("Bend", 3, 4))
    parts = read_activitynet(*annotation, file_type="video")
    assert [(video.name, video.segment, video.part_of) for video in parts] == [
        ("a#1", (0, 10), "a"), ("a#2", (10, 25), "a"), ("a#3", (30, 40), "a")]
    (whole,) = whole_videos(parts)
    assert (whole.name, whole.segment, TREE.names[whole.label], whole.part_of) == ("a", (0, 40), "Bend", "")
    assert list(whole_videos(VideoTable([whole]))) == [whole]


def test_odd_annotations(shaded, capsys):
    def read(*segments, **more):
        return read_activitynet(*shaded(*segments, **more), file_type="video")

    assert [video.segment for video in read(("Bend", 3, 99), ("Bend", 2, 1), ("Bend", 50, 60))] == [(30, 40)]
    assert "2 segments hold no frame" in capsys.readouterr().err
    (test,) = read(subset="testing", fps=None, n_frames=None)
    assert (test.label, test.n_frames, test.segment) == (-1, 0, (0, 0))
    assert list(read()) == [] and "no segment" in capsys.readouterr().err
    with pytest.raises(ValueError, match="add_fps_into_activitynet_json"):
        read(("Bend", 0, 1), fps=None)
    with pytest.raises(ValueError, match="a.json.*Bnd.*Bend"):
        read(("Bnd", 0, 1))
    for damage in ({"subset": "other"}, {"annotations": 3}, {"annotations": [{"label": "Bend"}]}, {"fps": -1},
                   {"annotations": [{"label": 3, "segment": [0, 1]}]}, {"n_frames": "many"}, {"fps": "fast"},
                   {"annotations": [{"label": "Bend", "segment": [0, 1, 2]}]}):
        with pytest.raises(ValueError, match="entry of a is damaged"):
            read(("Bend", 0, 1), **damage)


def test_the_tree_of_the_taxonomy_is_made_even(miniature, capsys):
    assert Hierarchy.from_csv(miniature / "tree.csv") == TREE
    call(activitynet_hierarchy, miniature / "official.json", miniature / "again.csv")
    assert numbers(capsys.readouterr().out)[:3] == [4, 3, 2]


@pytest.mark.parametrize("taxonomy", [3, [], [{"nodeId": 1}], [{"nodeName": "A", "nodeId": 1, "parentId": 2}],
                                      [{"nodeName": "A", "nodeId": 1, "parentId": 1}]])
def test_a_damaged_taxonomy_is_one_sentence(tmp_path, capsys, taxonomy):
    (tmp_path / "a.json").write_text(json.dumps({"taxonomy": taxonomy}))
    with pytest.raises(SystemExit) as stop:
        call(activitynet_hierarchy, tmp_path / "a.json", tmp_path / "tree.csv")
    assert stop.value.code == 2 and "a.json: no taxonomy" in capsys.readouterr().err
    assert not (tmp_path / "tree.csv").exists()


def test_rates_are_those_of_the_stored_frames(miniature, tmp_path, capsys):
    call(generate_video_jpgs, miniature / "avi", tmp_path / "jpg", "activitynet", "--n_jobs", 1, "--fps", 5)
    (tmp_path / "jpg" / "v_Bend-WaveOneHand_1" / "info.json").write_text("{")
    call(add_fps_into_activitynet_json, tmp_path / "jpg", miniature / "official.json", tmp_path / "a.json")
    told = capsys.readouterr()
    assert "13 of 14" in told.out and "v_Bend-WaveOneHand_1" in told.err
    slow = {video.name: video for video in read_activitynet(tmp_path / "a.json", tmp_path / "jpg", TREE)}
    for video in read_activitynet(miniature / "anet.json", miniature / "jpg", TREE):
        if video.subset != "testing" and video.name in slow:
            first, last = video.segment
            assert slow[video.name].segment == (-(-first // 5), -(-last // 5))


@pytest.mark.slow
def test_it_trains_pushes_infers_and_explains(miniature, tmp_path, capsys):
    results = tmp_path / "results"
    flags = ("--dataset activitynet --n_classes 4 --video_path jpg --annotation_path anet.json --tree_file tree.csv "
             "--model_depth 10 --resnet_widen_factor .125 --conv1_t_size 3 --sample_size 32 --sample_duration 8 "
             "--prototype_channels 6 --prototypes_per_node 2 --emb_dim 8 --trunk_epochs 2 --warm_epochs 1 --n_epochs 2 "
             "--push_start 2 --tune_iterations 2 --batch_size 10 --push_clips 1 --n_threads 0 --no_cuda --no_img")
    main.main(["--root_path", str(miniature), "--result_path", str(results), *flags.split()])
    pushed = [row for row in json.loads((results / "prototypes.json").read_text()) if row["video"]]
    segments = {video.name: video for video in read_activitynet(miniature / "anet.json", miniature / "jpg", TREE)}
    assert pushed
    for row in pushed:
        first, last = segments[row["video"]].segment
        assert segments[row["video"]].subset == "training"
        assert first <= row["frames"][0] and row["frames"][1] <= last
    for subset, n in (("val", 2), ("test", 2)):
        main.main(["--resume_path", str(results / "save_2.pth"), "--no_train", "--no_val", "--inference", "--no_cuda",
                   "--inference_subset", subset, "--n_threads", "0", "--inference_stride", "8"])
        about = json.loads((results / f"{subset}.json").read_text())["videos"]
        assert len(about) == n and all((video["truth"] is None) == (subset == "test") for video in about.values())
        assert all(video["windows"] > 10 for video in about.values())
    eval_accuracy.main([str(miniature / "anet.json"), str(results / "val.json"), "--subset", "val"])
    assert "2 validation videos" in capsys.readouterr().out
    local_analysis.main(["--resume_path", str(results / "save_2.pth"), "--no_cuda", "--n_videos", "1"])
    (explained,) = (results / "local_analysis").glob("*/explanation.json")
    explanation = json.loads(explained.read_text())
    sources = [found["source"] for found in explanation["levels"][0]["prototypes"] if found["source"]]
    assert all(source["video"] in segments for source in sources)


@pytest.mark.parametrize(("folder", "kind"), [("jpg", "jpg"), ("avi", "video"), ("packed", "packed")])
def test_the_doctor_finds_what_differs(miniature, tmp_path, capsys, folder, kind):
    call(pack_frames, miniature / "jpg", miniature / "packed")
    content = json.loads((miniature / "anet.json").read_text())
    content["database"]["Bend-WaveOneHand_1"]["n_frames"] = 999
    content["database"]["Bend-WaveOneHand_2"]["annotations"][0]["label"] = "Bent"
    content["database"]["not_here"] = content["database"]["Bend-WaveOneHand_3"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    capsys.readouterr()
    call(check_dataset, "--root_path", miniature, "--video_path", folder, "--annotation_path", tmp_path / "a.json",
         "--dataset", "activitynet", "--tree_file", "tree.csv", "--n_threads", 1, "--file_type", kind,
         "--fix", tmp_path / "mended.json")
    told = capsys.readouterr().out
    assert "Bend-WaveOneHand_1: 999" in told and "'Bent'" in told and "not_here" in told
    assert "12 entries, 3 left out" in told
    mended = json.loads((tmp_path / "mended.json").read_text())
    assert mended["taxonomy"] == content["taxonomy"] and len(mended["database"]) == 12


def test_the_doctor_says_what_is_wrong_with_segments(miniature, tmp_path, capsys):
    content = json.loads((miniature / "anet.json").read_text())
    del content["database"]["Bend-WaveOneHand_1"]["fps"]
    content["database"]["Bend-WaveOneHand_2"]["annotations"] = [{"segment": [900, 901], "label": "Bend"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    call(check_dataset, "--root_path", miniature, "--video_path", "avi", "--annotation_path", tmp_path / "a.json",
         "--dataset", "activitynet", "--tree_file", "tree.csv", "--n_threads", 1, "--file_type", "video",
         "--fix", tmp_path / "mended.json")
    told = capsys.readouterr().out
    assert "Bend-WaveOneHand_1: it has no fps" in told and "Bend-WaveOneHand_2: no segment" in told
    assert "12 entries, 2 left out" in told
    (not_there,) = [line for line in told.splitlines() if line.startswith("not on disk")]
    assert not_there.split() == ["not", "on", "disk", "0"]


def test_a_file_that_is_none_is_to_be_fetched_again(tmp_path, capsys):
    (tmp_path / "a.json").write_text("<html>")
    with pytest.raises(ValueError, match="ActivityNet") as told:
        read_activitynet(tmp_path / "a.json", tmp_path, TREE)
    assert "ucf101_json" not in str(told.value)
    with pytest.raises(SystemExit):
        call(add_fps_into_activitynet_json, tmp_path, tmp_path / "a.json", tmp_path / "out.json")
    told = capsys.readouterr().err
    assert "a.json" in told and "ActivityNet" in told and "ucf101_json" not in told


@pytest.mark.parametrize("script", [add_fps_into_activitynet_json, activitynet_hierarchy])
def test_the_official_annotation_is_never_written_over(tmp_path, capsys, script):
    file = tmp_path / "official.json"
    file.write_text(text := json.dumps(official({"a": {}, "b": {}})))
    write_video(tmp_path / "avi" / "v_a.avi", shades(3))
    more = [tmp_path / "avi"] if script is add_fps_into_activitynet_json else []
    with pytest.raises(SystemExit) as stop:
        call(script, *more, file, tmp_path / "avi" / ".." / "official.json",
             *(["--file_type", "video"] if more else []))
    assert stop.value.code == 2 and "ActivityNet" in capsys.readouterr().err
    assert file.read_text() == text


def test_video_files_serve_as_well(miniature):
    films = read_activitynet(miniature / "anet.json", miniature / "avi", TREE, file_type="video")
    frames = read_activitynet(miniature / "anet.json", miniature / "jpg", TREE)
    assert [film.path.stem for film in films] == [video.path.name for video in frames]
    with av.open(str(films[0].path)) as container:
        assert container.streams.video[0].frames == films[0].n_frames

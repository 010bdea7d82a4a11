"""Official lists of other data sets become annotation files, and these the videos to train on."""

import json

import pytest
from media import REAL, real_clips, shades, write_frames
from preparing import numbers, quits

from datasets import DATASETS
from datasets.annotation import read_annotation
from hierarchy.tree import Hierarchy
from util_scripts import (
    egtea_json,
    epic_kitchens_json,
    generate_video_jpgs,
    hmdb51_json,
    kinetics_json,
    moments_json,
    something_json,
)

TEXTS = {
    "kinetics": {
        "train.csv": "label,youtube_id,time_start,time_end,split\nplaying chess,abc-_d,3,13,train\n"
                     "\"eating, alone\",xyz,120,130,train\nplaying chess,not_here,0,10,train\n",
        "val.csv": "label,youtube_id,time_start,time_end,split\nplaying chess,uvw,7,17,val\n",
        "test.csv": "youtube_id,time_start,time_end,split\ntst,1,11,test\n"},
    "moments": {
        "trainingSet.csv": "clapping/yt-a_1.mp4,clapping,4,0\njumping/flickr-1-2.mp4,jumping,3,1\n",
        "validationSet.csv": "clapping/yt-b_9.mp4,clapping,3,0\n"},
    "epic_kitchens": {
        "EPIC_100_verb_classes.csv": "id,key,instances,category\n0,take,\"['take']\",x\n3,open,['open'],y\n",
        "EPIC_100_noun_classes.csv": "id,key,instances,category\n1,plate,\"['plate']\",crockery\n7,door,['door'],x\n",
        "EPIC_100_train.csv": "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
                              "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,"
                              "all_noun_classes\nP01_01_0,P01,P01_01,00:00:01.0,00:00:00.14,00:00:03.37,2,5,open door,"
                              "open,3,door,7,['door'],[7]\n"
                              "P01_01_1,P01,P01_01,x,x,x,4,30,take plate,take,0,plate,1,[],[]\n"
                              "P01_01_2,P01,P01_01,x,x,x,40,45,take plate,take,0,plate,1,[],[]\n",
        "EPIC_100_validation.csv": "narration_id,participant_id,video_id,start_frame,stop_frame,verb_class,noun_class\n"
                                   "P02_03_0,P02,P02_03,1,3,0,1\n"},
    "egtea": {
        "action_idx.txt": "Open fridge 1\nTake cutting_board,knife 2\n",
        "train_split1.txt": "OP01-R01-PastaSalad-1002316-1004005-F024051-F024101 2 2 5 6 \n",
        "test_split1.txt": "P26-R05-Cheeseburger-9-8-F1-F2 1 1 1\n"},
    "something": {
        "something-something-v2-labels.json": '{"Holding something": "0", "Moving something near something": "1"}',
        "something-something-v2-train.json": '[{"id": "78687", "label": "holding potato", "placeholders": ["potato"], '
                                             '"template": "Holding [something]"}]',
        "something-something-v2-validation.json": '[{"id": "42", "label": "x", "template": "Moving [something] near '
                                                  '[something]", "placeholders": []}]',
        "something-something-v2-test.json": '[{"id": "1420"}]'},
}
# where the videos are, and what is read: key, class, subset, segment
KNOWN = {
    "kinetics": [("playing chess/abc-_d_000003_000013", "abc-_d_000003_000013", "playing chess", "training", (0, 9)),
                 ("eating, alone/xyz_000120_000130", "xyz_000120_000130", "eating, alone", "training", (0, 9)),
                 ("playing chess/uvw_000007_000017", "uvw_000007_000017", "playing chess", "validation", (0, 9)),
                 ("test/tst_000001_000011", "tst_000001_000011", None, "testing", (0, 9))],
    "moments": [("clapping/yt-a_1", "clapping/yt-a_1", "clapping", "training", (0, 9)),
                ("jumping/flickr-1-2", "jumping/flickr-1-2", "jumping", "training", (0, 9)),
                ("clapping/yt-b_9", "clapping/yt-b_9", "clapping", "validation", (0, 9))],
    "epic_kitchens": [("P01/P01_01", "P01_01_0", "open", "training", (1, 5)),
                      ("P01/P01_01", "P01_01_1", "take", "training", (3, 9)),
                      ("P02/P02_03", "P02_03_0", "take", "validation", (0, 3))],
    "egtea": [("OP01-R01-PastaSalad/OP01-R01-PastaSalad-1002316-1004005-F024051-F024101",
               "OP01-R01-PastaSalad-1002316-1004005-F024051-F024101", "Take cutting_board,knife", "training", (0, 9)),
              ("P26-R05-Cheeseburger/P26-R05-Cheeseburger-9-8-F1-F2", "P26-R05-Cheeseburger-9-8-F1-F2", "Open fridge",
               "validation", (0, 9))],
    "something": [("78687", "78687", "Holding something", "training", (0, 9)),
                  ("42", "42", "Moving something near something", "validation", (0, 9)),
                  ("1420", "1420", None, "testing", (0, 9))],
}
SCRIPTS = {"kinetics": kinetics_json, "moments": moments_json, "epic_kitchens": epic_kitchens_json,
           "egtea": egtea_json, "something": something_json}


def run(script, *words) -> None:
    script.main([str(word) for word in words])


@pytest.fixture
def prepared(tmp_path):
    """Official lists and frame folders of nine frames of a data set."""
    def prepare(name):
        for file, text in TEXTS[name].items():
            (tmp_path / "lists").mkdir(exist_ok=True)
            (tmp_path / "lists" / file).write_text(text)
        for place in dict.fromkeys(place for place, *_ in KNOWN[name]):
            write_frames(tmp_path / "jpg" / place, shades(9))
        many = name == "egtea"
        return tmp_path / "lists", tmp_path / "jpg", tmp_path / ("out" if many else f"{name}.json"), \
            tmp_path / ("out/egtea_1.json" if many else f"{name}.json")

    return prepare


@pytest.mark.parametrize("name", KNOWN)
def test_lists_become_videos(name, prepared, capsys):
    lists, jpg, out, written = prepared(name)
    run(SCRIPTS[name], lists, jpg, out)
    told = capsys.readouterr().out
    labels = sorted({label for _, _, label, _, _ in KNOWN[name] if label})
    tree = Hierarchy.from_rows([[label, "any"] for label in labels])
    videos = DATASETS[name].read(written, jpg, tree)
    assert [(video.path.relative_to(jpg).as_posix(), video.name, video.label, video.subset, video.segment)
            for video in videos] == [(place, key, -1 if label is None else tree.label(label), subset, segment)
                                     for place, key, label, subset, segment in KNOWN[name]]
    content = json.loads(written.read_text())
    assert set(labels) <= set(content["labels"])
    assert {entry["n_frames"] for entry in content["database"].values()} == {9} == set(videos.n_frames.tolist())
    if name == "kinetics":
        assert numbers(told)[:4] == [2, 1, 1, 1]
    if name == "epic_kitchens":
        assert numbers(told)[-1] == 1
        run(epic_kitchens_json, lists, jpg, out, "--label", "action")
        assert [entry.label for entry in read_annotation(written).values()] == ["open door", "take plate", "take plate"]


@pytest.mark.parametrize("name", KNOWN)
def test_damaged_lists_are_one_sentence(name, prepared, capsys, tmp_path):
    lists, jpg, out, _ = prepared(name)
    for file in TEXTS[name]:
        whole = (lists / file).read_text()
        for damage in ("\ufeffno list\n", "[3]", "", whole[:len(whole) // 2]):
            (lists / file).write_text(damage)
            try:
                run(SCRIPTS[name], lists, jpg, out)
            except SystemExit as stop:
                assert stop.code == 2
                assert sum(line.startswith("error: ") for line in capsys.readouterr().err.splitlines()) == 1
        (lists / file).write_text(whole)
    assert "none of the" in quits(capsys, SCRIPTS[name].main, lists, tmp_path, out)
    assert "nowhere" in quits(capsys, SCRIPTS[name].main, tmp_path / "nowhere", jpg, out)


def test_real_clips_of_hmdb51(tmp_path, capsys):
    clips = real_clips("other") / "hmdb51"
    lists = tmp_path / "lists"
    lists.mkdir()
    marks = {}
    for i, file in enumerate(sorted(clips.glob("*/*.mp4"))):
        marks[file.stem] = (file.parent.name, i % 3)
        (lists / f"{file.parent.name}_test_split1.txt").write_text(f"{file.stem}.avi {i % 3} \nnot_here.avi 1 \n")
    run(hmdb51_json, lists, clips, tmp_path)
    expected = {name: (label, {1: "training", 2: "validation"}[mark]) for name, (label, mark) in marks.items() if mark}
    classes = sorted({label.replace("_", " ") for label, _ in marks.values()})
    tree = Hierarchy.from_rows([[label, "any"] for label in classes])
    run(generate_video_jpgs, clips, tmp_path / "jpg", "hmdb51", "--n_jobs", 1, "--size", 24, "--fps", 2)
    for folder, kind in ((clips, "video"), (tmp_path / "jpg", "jpg")):
        videos = DATASETS["hmdb51"].read(tmp_path / "hmdb51_1.json", folder, tree, file_type=kind)
        assert {video.name: (tree.names[video.label].replace(" ", "_"), video.subset) for video in videos} == expected
    assert "10 videos converted" in capsys.readouterr().out
    assert REAL.is_dir()


def test_lists_of_hmdb51_that_are_none(tmp_path, capsys):
    assert "_test_split1.txt" in quits(capsys, hmdb51_json.main, tmp_path, tmp_path, tmp_path / "out")
    (tmp_path / "dive_test_split1.txt").write_text("a.avi 1\nb.avi 3\n")
    assert "dive_test_split1.txt:2" in quits(capsys, hmdb51_json.main, tmp_path, tmp_path, tmp_path / "out")


def test_lists_that_are_no_text_are_named(tmp_path, capsys):
    (tmp_path / "dive_test_split1.txt").write_bytes("d\xe9j\xe0.avi 1\n".encode("latin-1"))
    assert "dive_test_split1.txt" in quits(capsys, hmdb51_json.main, tmp_path, tmp_path, tmp_path / "out")
    (tmp_path / "action_idx.txt").write_bytes(b"Open fridge 1\n\xff 2\n")
    assert "action_idx.txt" in quits(capsys, egtea_json.main, tmp_path, tmp_path, tmp_path / "out")


def test_epic_kitchens_as_it_is_downloaded(prepared):
    lists, jpg, out, written = prepared("epic_kitchens")
    (jpg / "P01" / "P01_01").rename(jpg / "moved")
    (jpg / "P01" / "videos").mkdir()
    (jpg / "moved").rename(jpg / "P01" / "videos" / "P01_01")
    run(epic_kitchens_json, lists, jpg, out)
    places = [entry.place for entry in read_annotation(written).values()]
    assert places == ["P01/videos/P01_01"] * 2 + ["P02/P02_03"]


@pytest.mark.parametrize("segments", [[{"label": 3, "segment": [0, 1]}], [{"label": "A", "segment": [0.5, 10**400]}]])
def test_segments_in_a_file_of_whole_videos(tmp_path, segments):
    database = {"v": {"subset": "training", "annotations": segments}}
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    with pytest.raises(ValueError, match="a.json: .* v "):
        read_annotation(tmp_path / "a.json")


@pytest.mark.parametrize("n_frames", [-1, "9", 2.0, True, None, 2**31])
def test_numbers_of_frames_that_are_none(tmp_path, n_frames):
    database = {"v": {"subset": "training", "annotations": {"label": "A"}, "n_frames": n_frames}}
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    with pytest.raises(ValueError, match="a.json: .*n_frames"):
        read_annotation(tmp_path / "a.json")


def test_no_name_leads_out_of_the_folder(tmp_path):
    write_frames(tmp_path / "outside" / "v", shades(3))
    (tmp_path / "jpg").mkdir()
    tree = Hierarchy.from_rows([["A", "any"], ["outside", "any"]])
    outside = str(tmp_path / "outside" / "v")
    for place in ("../outside/v", "./../outside/v", outside, "a/../../outside/v", "\0/v", "v\0"):
        for entry in ({"video": place}, {}):
            name = "v" if entry else place
            entry = entry | {"subset": "training", "annotations": {"label": "outside" if entry else "A"}}
            (tmp_path / "a.json").write_text(json.dumps({"database": {name: entry}}))
            with pytest.raises(FileNotFoundError, match="1 of the 1"):
                DATASETS["ucf101"].read(tmp_path / "a.json", tmp_path / "jpg", tree)

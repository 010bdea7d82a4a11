"""From UCF101-24's annotation, in its own layouts and as JSON, to truth.json, by the command line and on real clips."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from media import real_clips, shades, write_frames, write_video

from evaluation.localisation import read_truth
from util_scripts import ucf24_truth

# By place: frames, and tubes of first and last frame (from 0, exclusive) and boxes as the annotation has them.
TUBES = {
    "Biking/v_Biking_g01_c01": (12, [(0, 12, [[1, 1, 319, 239]] * 12),
                                     (4, 9, [[11 + i, 21, 40, 60] for i in range(5)])]),
    "IceDancing/v_IceDancing_g02_c05": (9, [(3, 9, [[101, 51, 20, 30]] * 6)]),
    "Diving/v_Diving_g01_c01": (30, [(0, 3, [[5, 5, 5, 5]] * 3)])}


def structs(rows: list[dict]) -> np.ndarray:
    """A struct array as MATLAB has them, 1 x N."""
    table = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        table[0, i] = tuple(row.values())
    return table


def write_annotations(folder: Path, tubes: dict = TUBES) -> dict[str, Path]:
    """The same annotation in the layouts of finalAnnots.mat, pyannot.pkl and pyannot_with_class_names.pkl."""
    files = {kind: folder / name for kind, name in (
        ("mat", "finalAnnots.mat"), ("pkl", "pyannot.pkl"), ("named", "pyannot_with_class_names.pkl"))}
    scipy.io.savemat(files["mat"], {"annot": structs([
        {"num_imgs": float(n), "name": place, "tubes": structs([
            {"ef": float(last), "sf": float(first + 1), "class": 1.0, "boxes": np.array(boxes, dtype=float)}
            for first, last, boxes in those])} for place, (n, those) in tubes.items()])})
    database = {place: {"annotations": [{"label": 0, "ef": last, "sf": first, "boxes": np.array(boxes, dtype=np.int16)}
                                        for first, last, boxes in those], "numf": np.int32(n), "label": 0}
                for place, (n, those) in tubes.items()}
    files["pkl"].write_bytes(pickle.dumps(database, protocol=2))
    files["named"].write_bytes(pickle.dumps({"db": database, "trainvideos": [], "classes": ["Biking"]}, protocol=4))
    return files


@pytest.fixture
def videos(tmp_path) -> Path:
    """Two of the three annotated videos, the first at 320 x 240 and the other at half of that, and another one."""
    folder = tmp_path / "videos"
    write_video(folder / "Biking" / "v_Biking_g01_c01.avi", shades(12, 240, 320))
    write_frames(folder / "IceDancing" / "v_IceDancing_g02_c05", shades(9, 120, 160))
    write_video(folder / "Rowing" / "v_Rowing_g01_c01.avi", shades(4))
    return folder


def written(*words: object) -> dict:
    ucf24_truth.main([str(word) for word in words])
    return json.loads(Path(words[-1]).read_text())


@pytest.mark.parametrize("kind", ["mat", "pkl", "named"])
def test_every_layout_comes_to_the_same_tubes(videos, tmp_path, kind, capsys):
    truth = written(write_annotations(tmp_path)[kind], videos, tmp_path / "out" / "truth.json")
    biking, dancing = truth["v_Biking_g01_c01"], truth["v_IceDancing_g02_c05"]
    assert biking["class"] == "Biking" and biking["n_frames"] == 12 and len(truth) == 2
    whole, part = biking["tubes"]
    assert whole == {"first_frame": 0, "last_frame": 12, "boxes_x_y_w_h": [[0, 0, 320, 240]] * 12}  # the whole frame
    assert (part["first_frame"], part["last_frame"]) == (4, 9)
    assert part["boxes_x_y_w_h"] == [[10 + i, 20, 41, 61] for i in range(5)]
    assert dancing["tubes"] == [{"first_frame": 3, "last_frame": 9, "boxes_x_y_w_h": [[50, 25, 10.5, 15.5]] * 6}]
    assert [len(tubes) for tubes in read_truth(tmp_path / "out" / "truth.json").values()] == [2, 1]
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if "video" in line and "%|" not in line]
    assert any(line.startswith("1 of 3 annotated videos are not in") for line in lines)
    assert any(line.startswith("1 of 3 videos in") and "not annotated" in line for line in lines) and len(lines) == 2
    assert "3 tubes of 2 videos" in said.out


def test_what_does_not_fit_is_said_and_cut(videos, tmp_path, capsys):
    """A video that is shorter or of another shape, boxes out of the frame or that hold nothing, boxes that lack."""
    box = [10, 10, 20, 20]
    tubes = {"Biking/v_Biking_g01_c01": (14, [(10, 14, [box] * 4), (20, 22, [box] * 2)]),
             "IceDancing/v_IceDancing_g02_c05": (9, [
                 (0, 4, [[300, 200, 50, 80]] * 4), (2, 7, [box] * 3), (1, 6, [box, box, [500, 10, 20, 20], box, box])]),
             "Rowing/v_Rowing_g01_c01": (4, [(0, 4, [box] * 4)])}
    write_video(videos / "Rowing" / "v_Rowing_g01_c01.avi", shades(4, 60, 160))
    truth = written(write_annotations(tmp_path, tubes)["mat"], videos, tmp_path / "truth.json")
    spans = {name: [(tube["first_frame"], tube["last_frame"]) for tube in entry["tubes"]]
             for name, entry in truth.items()}
    assert spans == {"v_Biking_g01_c01": [(10, 12)], "v_Rowing_g01_c01": [(0, 4)],
                     "v_IceDancing_g02_c05": [(0, 4), (2, 5), (1, 3), (4, 6)]}
    assert truth["v_IceDancing_g02_c05"]["tubes"][0]["boxes_x_y_w_h"][0] == [149.5, 99.5, 10.5, 20.5]
    assert truth["v_Rowing_g01_c01"]["tubes"][0]["boxes_x_y_w_h"][0] == [4.5, 2.25, 10.5, 5.25]  # stretched
    said = capsys.readouterr().err
    for kind, place in (("1 videos of another number", "12, annotated 14"), ("1 videos of another shape", "160 x 60"),
                        ("1 tubes that go on after", "v_Biking_g01_c01"), ("1 tubes with more or fewer", "3 boxes"),
                        ("1 tubes that reach out", "v_IceDancing_g02_c05"), ("1 tubes with boxes that hold", "1 to 6")):
        assert any(line.startswith(kind) and place in line for line in said.splitlines()), (kind, said)


@pytest.mark.parametrize(("name", "content", "word"), [
    ("a.txt", b"1", ".mat"), ("a.mat", b"no matrix", "a.mat"), ("a.pkl", pickle.dumps(print), "any code"),
    ("a.pkl", pickle.dumps({"Biking/v": {"numf": 3}}), "annotations"), ("a.json", b"{", "a.json"),
    ("a.json", b'{"v": {"tubes": [{}]}}', "first_frame"), ("a.pkl", pickle.dumps({}), "no video"),
    ("a.mat", None, "no such"),
    ("a.json", b'{"v_Nobody_g01_c01": {"tubes": []}}', "none of the 1")])
def test_bad_input_is_one_sentence(videos, tmp_path, name, content, word, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        written(tmp_path / name, videos, tmp_path / "truth.json")
    said = capsys.readouterr().err
    assert ended.value.code == 2 and word in said and "Traceback" not in said
    assert not (tmp_path / "truth.json").exists()


@pytest.mark.parametrize("data", ["ucf101", "ucf24"])
def test_real_clips(data, tmp_path, capsys):
    """Boxes are scaled from 320 x 240; the same numbers in the published layouts lie a pixel to the upper left."""
    folder = real_clips(data)
    source = json.loads((folder / "boxes.json").read_text())
    truth = written(folder / "boxes.json", folder / "videos", tmp_path / "truth.json")
    assert truth.keys() == source.keys()
    across, down = (340 / 320, 256 / 240) if data == "ucf24" else (1, 1)
    corners = []
    for name, entry in truth.items():
        for tube, before in zip(entry["tubes"], source[name]["tubes"], strict=True):
            boxes = np.array(tube["boxes_x_y_w_h"])
            whole = np.array(before["boxes_x_y_w_h"])
            np.testing.assert_allclose(boxes, whole[:len(boxes)] * [across, down, across, down], atol=2e-3)
            assert tube["last_frame"] == min(before["last_frame"], entry["n_frames"])
            corners += [*whole[:, :2], *(whole[:, :2] + whole[:, 2:])]
    assert np.min(corners) == 1 and (np.max(corners, 0) == (320, 240)).all() or data == "ucf24"  # pixels from 1
    said = capsys.readouterr().err
    assert ("v_Basketball_g18_c04: frames 142 to 188 of 187" in said) == (data == "ucf101")

    places = {f"{entry['class']}/{name}": (entry["n_frames"], [
        (tube["first_frame"], tube["last_frame"], tube["boxes_x_y_w_h"]) for tube in entry["tubes"]])
        for name, entry in source.items()}
    files = write_annotations(tmp_path, places)
    of_mat, of_pickle = (written(files[kind], folder / "videos", tmp_path / "other.json") for kind in ("mat", "pkl"))
    assert of_mat == of_pickle
    for name, entry in of_mat.items():
        for tube, other in zip(entry["tubes"], truth[name]["tubes"], strict=True):
            boxes, others = (np.array(one["boxes_x_y_w_h"]) for one in (tube, other))
            np.testing.assert_allclose(boxes[:, :2], others[:, :2] - [across, down], atol=2e-3)
            np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:], atol=4e-3)

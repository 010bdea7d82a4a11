"""Parts of judging: rows of older versions, trunks that a method does not serve, disturbed clips, the blob."""

import json
from dataclasses import replace

import pytest
import torch
from attributable import WITHOUT_ATTENTION
from media import shades, write_frames

from attribution import METHODS
from datasets.video import Video
from evaluation.faithfulness import peak_of
from evaluation.measures import MEASURES
from evaluation.subjects import ExplainedClip
from judging import rows
from judging.heats import centre_blob
from judging.judge import Settings
from judging.rows import OF_ONE_EDITION, Rows
from judging.scenes import DisturbedClips, moved_back
from judging.table import served
from options.flags import parse_main
from options.resolve import resolve
from run.data import even_clips, make_reader


def test_rows_of_an_older_version_are_read_and_other_files_refused(tmp_path, monkeypatch):
    """Their settings lack the power of the windows, and have one edition for the whole table."""
    monkeypatch.setattr(rows, "editions", lambda table: dict.fromkeys(OF_ONE_EDITION, 3))
    settings, path = Settings("d", "prototypes", 4, 1, 1, 1, "none"), tmp_path / "rows.jsonl"
    stored = {name: value for name, value in vars(settings).items() if name != "window_power"} | {"edition": 3}
    row = {"video": "v", "explanation": "grad", "level": 0, "measures": {"insertion": 0.5}}
    lines = "".join(json.dumps(line) + "\n" for line in ({"settings": stored}, row))
    path.write_text(lines)
    assert Rows(path, settings, False).rows == [row] and path.read_text() == lines
    with pytest.raises(ValueError, match="window_power"):
        Rows(path, replace(settings, window_power=4.0), False)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl"):
        Rows(path, settings, False)
    assert Rows(path, settings, True).rows == []
    path.write_text(lines)
    monkeypatch.setattr(rows, "editions", lambda table: dict.fromkeys([*OF_ONE_EDITION, "a new measure"], 3))
    Rows(path, settings, False)
    assert "a new measure" in path.read_text()  # which the row does not have yet, whatever its edition


def test_rows_by_another_edition_of_a_method_are_measured_again(tmp_path):
    settings, path = Settings("d", "softmax", 4, 1, 1, 1, "none"), tmp_path / "rows.jsonl"
    today = {"settings": settings.stored() | {"editions": rows.editions("explanations")}}
    changed = {"video": "v", "explanation": "class_feature_pyramid", "level": 0, "measures": {"insertion": 0.5}}
    other = changed | {"explanation": "grad"}
    path.write_text("".join(json.dumps(line) + "\n" for line in (today, changed, other)))
    found = Rows(path, settings, False)
    assert found.rows == [other] and not found.missing(("v", "grad", 0))
    assert "insertion" in found.missing(("v", "class_feature_pyramid", 0))
    again = changed | {"method": METHODS["class_feature_pyramid"].edition}
    with path.open("a") as file:
        file.write(json.dumps(again) + "\n")
    found = Rows(path, settings, False)
    assert found.rows == [other, again] and not found.missing(("v", "class_feature_pyramid", 0))


def test_methods_that_a_trunk_does_not_serve_are_left_out_or_refused(capsys):
    pooling, convolution = torch.nn.AvgPool3d(4), torch.nn.Conv3d(3, 2, 4, 4)
    assert served(convolution, (8, 8, 8), None) == WITHOUT_ATTENTION
    assert "rollout is left out" in capsys.readouterr().err
    assert "class_feature_pyramid" not in served(pooling, (8, 8, 8), None) and "left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--methods rollout"):
        served(convolution, (8, 8, 8), ["rollout"])
    assert served(pooling, (8, 8, 8), ["grad_cam"]) == ["grad_cam"]
    with pytest.raises(ValueError, match="--methods class_feature_pyramid"):
        served(pooling, (8, 8, 8), ["grad_cam", "class_feature_pyramid"])


def test_a_peak_is_stable_where_it_stays_with_what_it_is_on():
    """What is in frame 4 is in frame 3 of the clip that begins a frame later, and in frame 5 of an earlier one."""
    heat = torch.zeros(9, 5, 16)
    heat[4, 2, 2] = 1

    def stable(shift: int, **disturbed: torch.Tensor) -> dict[str, float]:
        of = ExplainedClip(clip=torch.zeros(3, *heat.shape), probability=None, steps=1, seed=0, heat=heat,
                           disturbed=disturbed, moved_back=moved_back(shift, 1))
        return {name: MEASURES[f"stable_{name}"].of_clip(of) for name in disturbed}

    for shift in (1, -1):
        found = [stable(shift, jitter=heat.roll(by, 0), noise=heat.roll(by, 0)) for by in (-3, -2, -1, 0, 1, 2, 3)]
        here = [0, 1, 1, 1, 1, 1, 0]  # a quarter of nine frames
        assert [one["noise"] for one in found] == here
        assert [one["jitter"] for one in found] == (here[1:] + [0] if shift == 1 else [0] + here[:-1])
    assert stable(1, noise=heat.roll(3, 2), jpeg=heat.roll(2, 2)) == {"noise": 0, "jpeg": 1}


@pytest.mark.parametrize(("n_frames", "damaged", "shift"), [
    (12, (), 1), (8, (), -1), (12, (10,), -1), (12, (1, 10), 0)])
def test_a_clip_is_shifted_to_where_frames_can_be_read(tmp_path, n_frames, damaged, shift):
    """Clips of 8 frames, the third to the tenth of 12."""
    write_frames(tmp_path / "v", shades(n_frames), info={"n_frames": n_frames, "height": 24, "width": 32, "fps": 10})
    for i in damaged:
        (tmp_path / "v" / f"image_{i + 1:05d}.jpg").write_bytes(b"no picture")
    video = Video("v", tmp_path / "v", 0, "validation", n_frames, (0, n_frames))
    args, _ = parse_main(["--sample_size", "24", "--sample_duration", "8"])
    args = resolve(args)
    clips = even_clips(args, [video], make_reader(args), 1, normalisation="kinetics")
    found, item = DisturbedClips(clips, 1)[0], clips[0]
    assert (found["valid"], found["shift"]) == (shift != 0, shift) and item["valid"]
    assert found["disturbed"].shape == (3, *item["clip"].shape)
    if shift == 1:
        assert torch.equal(found["disturbed"][2, :, :-1], item["clip"][:, 1:])
    elif shift == -1:
        assert torch.equal(found["disturbed"][2, :, 1:], item["clip"][:, :-1])


def test_a_place_is_found_again_in_the_shifted_clip():
    assert moved_back(1, 2).tolist() == [0.5, 0, 0] and moved_back(-1, 1).tolist() == [-1, 0, 0]


def test_the_blob_is_in_the_middle():
    blob = centre_blob((5, 7, 9))
    assert blob.shape == (5, 7, 9) and peak_of(blob).tolist() == [2, 3, 4]

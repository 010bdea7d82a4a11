r"""A checkpoint of earlier code goes on: it loads, resumes, infers and explains with the same numbers.

`data/old_checkpoint.pth` is the save_4.pth that revision 812a712 wrote on a CPU with OMP_NUM_THREADS=1, from the videos
of `write_data` in /tmp/old and a tree.csv of ROWS under a Root:

    python main.py --root_path /tmp/old --video_path jpg --annotation_path ucf101_01.json --tree_file tree.csv \
        --result_path /tmp/old/results --model_depth 10 --resnet_widen_factor .03125 --conv1_t_size 3 \
        --spatial_strides 2 2 2 1 1 --sample_size 32 --sample_duration 8 --prototype_channels 6 \
        --prototypes_per_node 2 --emb_dim 8 --trunk_epochs 30 --warm_epochs 2 --n_epochs 4 --push_start 3 \
        --push_every 1 --tune_iterations 5 --checkpoint 1 --batch_size 6 --push_clips 2 --n_threads 0 --no_cuda --no_img

`data/old_checkpoint.json` is what the functions `explained`, `log_probs` and `predictions` below returned at that
revision. Both files stay as they are when the format changes: they stand for the checkpoints that users have.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from media import write_frames
from program import CALL, call, explain_ancestors, explain_classes
from torch import Tensor

from explain.match import match
from models import HIPE
from run.model import model_of
from training.checkpoint import load_checkpoint

OLD = Path(__file__).parent / "data" / "old_checkpoint.pth"
SAID = json.loads(OLD.with_suffix(".json").read_text())
ROWS = [["Run", "Legs", "Body"], ["Jump", "Legs", "Body"], ["Wave", "Arms", "Body"], ["Saw", "Tool", "Thing"]]
HERE = "--video_path jpg --annotation_path ucf101_01.json"
SEEDS = (88, 117, 7, 757)  # of a clip of each class, where no patch is so near a prototype that rounding is magnified
ROUNDING = 1e-5  # of numbers above 1 the share of them; other convolutions and vector units move them by up to 8e-6
TRAINED = 1e-4  # the same after training; optimisers whose memories of two layers are exchanged move them by 1e-3
VARIANTS = ("hyperbolic", "euclidean", "cosine", "linear", "learnt")  # scores, and a temperature that is learnt


def clip(seed: int) -> Tensor:
    """(3, 8, 32, 32), normalised: a bright box on its way over noise, of numpy's generator that never changes."""
    rng = np.random.RandomState(seed)
    frames = rng.randint(20, 90, size=(1, 1, 4, 4)).repeat(8, 2).repeat(8, 3) + rng.randint(12, size=(3, 8, 32, 32))
    height, width, y, x, dx = (rng.randint(*span) for span in ((8, 12), (8, 24), (0, 24), (-8, 24), (0, 4)))
    for t in range(8):
        left = max(x + dx * t, 0)
        frames[:, t, y:y + height, left:left + width] = 230
    return torch.from_numpy(((frames / 255 - 0.41) / 0.27).astype(np.float32))


def write_data(root: Path) -> Path:
    """Three training videos and one to validate on of each class.

    Their frames are grey squares of 16 pixels, which every JPEG codec gives back as they were.
    """
    database = {}
    for label, (name, *_) in enumerate(ROWS):
        for group in range(4):
            rng = np.random.RandomState(10 * label + group)
            squares = rng.randint(20, 90, size=(1, 3, 4)) + rng.randint(12, size=(12, 1, 1))  # (T, h, w)
            for t in range(12):
                squares[t, label // 2 * 2, t // 3 if label % 2 else slice(None)] = 230
            frames = squares.repeat(16, 1).repeat(16, 2)[..., None].repeat(3, 3).astype(np.uint8)
            info = {"n_frames": 12, "height": 96, "width": 128, "fps": 10}
            write_frames(root / "jpg" / name / f"v_{name}_g{group:02d}_c01", frames, info=info)
            database[f"v_{name}_g{group:02d}_c01"] = {"subset": "training" if group < 3 else "validation",
                                                      "annotations": {"label": name, "segment": [1, 13]}}
    content = {"labels": [row[0] for row in ROWS], "database": database}
    (root / "ucf101_01.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy of the checkpoint in a results folder."""
    (tmp_path / "results").mkdir()
    return Path(shutil.copy(OLD, tmp_path / "results" / "save_4.pth"))


def variant(name: str) -> dict:
    """The checkpoint as it would be with another --score, with one-hot classes under a linear one, or --learn_T."""
    checkpoint = load_checkpoint(OLD)
    if name == "learnt":
        checkpoint["args"]["learn_T"] = True
        checkpoint["model"]["embeddings.log_factor"] = torch.tensor(0.25)
        return checkpoint
    checkpoint["args"]["score"] = name
    if name == "linear":
        points = torch.zeros(9, 8)
        points[:4, :4] = 0.3 * torch.eye(4)
        checkpoint["embedding"]["points"] = checkpoint["model"]["embeddings.points"] = points
    return checkpoint


@torch.no_grad()
def log_probs(model: HIPE) -> list[list[float]]:
    """Of all nodes, of every clip: (4, K)."""
    return model.eval()(torch.stack([clip(seed) for seed in SEEDS])).log_probs.tolist()


@torch.no_grad()
def explained(checkpoint: dict) -> dict:
    """What the model says of the clips and why, and where its prototypes come from.

    The keys are those of the JSON; a field of `Match` that gets another name is read by it here.
    """
    model, hierarchy, record = model_of(checkpoint, OLD)
    model.eval()
    clips = [clip(seed) for seed in SEEDS]
    output = model(torch.stack(clips))
    levels = range(hierarchy.n_levels)
    return {"log_probs": output.log_probs.tolist(), "activations": output.activations.tolist(),
            "levels": [[{"level": level.level, "node": level.node, "probability": level.probability,
                         # all others' evidence has been split since into descendants' and the rest's
                         "shares": {**level.shares,
                                    "elsewhere": level.shares["elsewhere"] + level.shares["descendants"]},
                         "matches": [{"prototype": one.prototype, "node": one.node, "similarity": one.activation,
                                      "contribution": one.contribution, "peak": list(one.peak), "box": list(one.box)}
                                     for one in level.matches]}
                        for level in match(model, one, levels, record=record)] for one in clips],
            "prototypes": record.rows(hierarchy, model.prototype_layer.node_of)}


def predictions(results: Path) -> dict:
    """By video, the classes of val.json with their probabilities, the likeliest first."""
    found = json.loads((results / "val.json").read_text())["results"]
    return {video: [[guess["label"], guess["score"]] for guess in found[video]] for video in sorted(found)}


def assert_like(found: object, expected: object, within: float, name: str = "") -> None:
    """Floats agree within a tolerance and all else exactly; what is found may have more keys than are expected.

    Args:
        within: of floats, in their own units, or the share of those above 1.
    """
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_like(found[key], value, within, f"{name}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), name
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_like(one, other, within, f"{name}/{i}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=within, rel=within), name
    else:
        assert found == expected, name


def test_it_predicts_and_explains_as_it_did():
    """Later formats may add keys, to the shares of evidence for one, so the set of keys is not compared."""
    assert_like(explained(load_checkpoint(OLD)), SAID["explained"], ROUNDING)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_score_is_what_it_was(name):
    assert_like(log_probs(model_of(variant(name), OLD)[0]), SAID["log_probs"][name], ROUNDING)


def test_training_goes_on_with_what_the_optimisers_remember(data, old):
    """For an epoch without a push, and then one with a push and its tuning."""
    call("--resume_path", old, "--root_path", data, HERE, CALL, "--n_epochs 6 --push_start 6 --no_val")
    for epoch in (5, 6):
        checkpoint = load_checkpoint(old.with_name(f"save_{epoch}.pth"))
        model, _, record = model_of(checkpoint, old)
        assert_like(log_probs(model), SAID["resumed"][str(epoch)], TRAINED)
    assert checkpoint["done"] == ["last", 6, 4] and record.epoch == 6


def test_inference_and_explanations_from_the_command_line(data, old):
    call("--resume_path", old, "--root_path", data, HERE, CALL, "--no_train --no_val --inference --inference_stride 4")
    assert_like(predictions(old.parent), SAID["predictions"], ROUNDING)
    for explain, script in ((explain_classes, "local_analysis"), (explain_ancestors, "local_analysis_parents")):
        explain("--resume_path", old, "--root_path", data, *HERE.split(), "--n_videos", 2, "--heat", "upsample")
        found = [json.loads(path.read_text()) for path in (old.parent / script).glob("*/explanation.json")]
        assert len(found) == 2
        for one in found:
            (label, *_), *_ = SAID["predictions"][one["video"]]
            assert one["prediction"][0] == label

"""A folder of what local_attribution.py explains: a trunk with a head, a checkpoint, and videos of several kinds."""

import json
from pathlib import Path

import numpy as np
import torch
from media import shades, write_frames, write_video

import local_attribution
from attribution import METHODS
from hierarchy.embeddings import fit_embeddings
from hierarchy.tree import Hierarchy
from models.resnet3d import ResNet3D
from options.errors import user_errors
from options.flags import parse_main
from options.resolve import resolve
from run.model import build_model
from training.checkpoint import save_checkpoint

WITHOUT_ATTENTION = [name for name, method in METHODS.items() if not method.of_attention]  # that any trunk serves
ROWS = [("Run", "Legs"), ("Jump", "Legs"), ("Wave", "Arms")]
TRUNK = ("--model_depth 10 --resnet_widen_factor .125 --conv1_t_size 3 --spatial_strides 2 2 2 1 1")
CLIPS = "--sample_size 24 --sample_duration 8 --no_gpu --num_iter 2 --steps 2"
# Options by which methods that try hundreds of clips try a few.
CHEAP = ("--options occlusion.window=.9 rise.masks=8 lime.samples=8 kernel_shap.samples=8 lime.parts=4 "
         "kernel_shap.parts=4")
TRUNK_LINE = f"--pretrain_path trunk.pth --classes classes.json {TRUNK} {CLIPS}"


def attribution_folder(root: Path) -> Path:
    """Write weights of a trunk with a head, class names, a checkpoint, and videos of several kinds."""
    torch.manual_seed(0)
    trunk = ResNet3D(10, widen_factor=0.125, conv1_t_size=3)
    state = {f"module.{key}": value for key, value in trunk.state_dict().items()}
    torch.save({"state_dict": state}, root / "headless.pth")
    state |= {"module.fc.weight": torch.randn(3, trunk.out_channels), "module.fc.bias": torch.zeros(3)}
    torch.save({"state_dict": state}, root / "trunk.pth")
    (root / "classes.json").write_text(json.dumps([row[0] for row in ROWS]))

    write_frames(root / "clips" / "run-first one", shades(12))
    write_frames(root / "clips" / "wave-x-y", shades(8)[::-1])
    write_video(root / "clips" / "Jump" / "leap.avi", shades(9))

    flags = f"{TRUNK} --sample_size 24 --sample_duration 8 --prototype_channels 4 --prototypes_per_node 2 --emb_dim 8"
    args, _ = parse_main(flags.split())
    args.root_path, args.video_path, args.annotation_path = str(root), str(root / "jpg"), str(root / "a.json")
    args = resolve(args)
    tree = Hierarchy.from_rows(ROWS)
    points = fit_embeddings(tree, dim=8, edge=1.5)
    model = build_model(args, tree, points, 1.0)
    save_checkpoint(root / "save_1.pth", {
        "done": ["last", 1, 1], "args": vars(args), "hierarchy_rows": [list(row) for row in ROWS],
        "embedding": {"points": points, "c": 1.0}, "model": model.state_dict(), "optimizers": {}, "rng": {},
        "push_record": None})
    database = {}
    for i, (name, *_) in enumerate(ROWS):
        info = {"n_frames": 12, "height": 24, "width": 32, "fps": 10}
        write_frames(root / "jpg" / name / f"v_{name}_g01_c01", np.roll(shades(12), i, 2), info=info)
        database[f"v_{name}_g01_c01"] = {"subset": "validation", "annotations": {"label": name, "segment": [1, 13]}}
    (root / "a.json").write_text(json.dumps({"labels": [row[0] for row in ROWS], "database": database}))
    return root


def call(root: Path, line: str, *more: str) -> None:
    """local_attribution.py in this process."""
    with user_errors():
        local_attribution.main([*line.split(), "--root_path", str(root), *more])

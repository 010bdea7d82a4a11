"""A checkpoint that can be judged: an untrained model whose prototypes were pushed, its videos and their events."""

import json
from pathlib import Path

import numpy as np
import torch
from media import shades, write_frames

from evaluation.typicality import distance_spread
from hierarchy.embeddings import fit_embeddings
from hierarchy.tree import Hierarchy
from options.flags import parse_main
from options.resolve import resolve
from run.data import even_clips, make_loader, make_reader, read_videos
from run.model import build_model
from training.checkpoint import save_checkpoint
from training.push import push

ROWS = [("Run", "Legs"), ("Jump", "Legs"), ("Wave", "Arms")]
FLAGS = ("--model_depth 10 --resnet_widen_factor .125 --conv1_t_size 3 --spatial_strides 2 2 2 1 1 --sample_size 24 "
         "--sample_duration 8 --prototype_channels 4 --prototypes_per_node 2 --emb_dim 8 --push_clips 1 "
         "--inference_stride 4")


def checkpoints(root: Path, *flags: str, seed: int = 0) -> Path:
    """A folder with a checkpoint of an untrained model whose prototypes were pushed, its videos, their events."""
    tree, database, truth = Hierarchy.from_rows(ROWS), {}, {}
    for label, (name, _) in enumerate(ROWS):
        for group, subset in ((1, "training"), (2, "training"), (3, "validation")):
            video = f"v_{name}_g{group:02d}_c01"
            info = {"n_frames": 12, "height": 24, "width": 32, "fps": 10}
            write_frames(root / "jpg" / name / video, np.roll(shades(12), 5 * label + group, 2), info=info)
            database[video] = {"subset": subset, "annotations": {"label": name, "segment": [1, 13]}}
            truth[video] = {"class": name, "n_frames": 12, "way": group % 2, "tubes": [
                {"first_frame": 2, "last_frame": 10, "boxes_x_y_w_h": [[8, 6, 10, 8]] * 8}]}
    (root / "a.json").write_text(json.dumps({"labels": [name for name, _ in ROWS], "database": database}))
    (root / "truth.json").write_text(json.dumps(truth))
    (root / "other.json").write_text(json.dumps(truth, indent=1))

    torch.manual_seed(seed)
    args, _ = parse_main([*FLAGS.split(), *flags])
    args.root_path, args.video_path, args.annotation_path = str(root), str(root / "jpg"), str(root / "a.json")
    args = resolve(args)
    points = fit_embeddings(tree, dim=8, edge=1.5)
    model = build_model(args, tree, points, 1.0)
    videos = [video for video in read_videos(args, tree) if video.subset == "training"]
    clips = even_clips(args, videos, make_reader(args), 1, normalisation="kinetics")
    device = torch.device("cpu")
    record, kept = push(model, make_loader(clips, n_threads=0, device=device, batch_size=4),
                        names=[video.name for video in videos], device=device, n_clips=len(clips))
    number = {video.name: i for i, video in enumerate(videos)}
    record.spread = distance_spread(kept.distances(model.prototype_layer, device),
                                    torch.tensor([video.label for video in videos]),
                                    torch.tensor([number[video] for video in record.video]),
                                    model.prototype_layer.node_of, tree.ancestors, tree.level_of)
    checkpoint = {"done": ["last", 1, 1], "args": vars(args), "hierarchy_rows": [list(row) for row in ROWS],
                  "embedding": {"points": points, "c": 1.0}, "model": model.state_dict(), "optimizers": {}, "rng": {}}
    save_checkpoint(root / "save_1.pth", {**checkpoint, "push_record": record.to_dict()})
    save_checkpoint(root / "trunk.pth", {**checkpoint, "push_record": None})
    return root

"""Predictions of videos, accuracies over them, and the contents of {subset}.json and metrics.json."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from datasets.video import Video, VideoClips
from evaluation.recognition import (
    Believed,
    VideoPool,
    accuracy_per_level,
    level_argmax_accuracy,
    mistake_severity,
    recognition_metrics,
    topk,
)
from hierarchy.tree import Hierarchy
from models.hipe import HIPE
from training.distributed import World
from training.features import trunk_features, valid_clips
from training.precision import Precision


@torch.no_grad()
def predict(model: HIPE, loader: Iterable[dict], n_videos: int, *, device: torch.device, pooled: bool = False,
            description: str | None = None, world: World | None = None,
            precision: Precision | None = None, power: float = 1.0, keep_distances: bool = False) -> VideoPool:
    """Probabilities of all nodes for each video, pooled over its clips.

    Args:
        loader: batches of evaluation clips or of their stored features, this process's share of them in `world`.
        n_videos: number of videos that the batches' `video` indexes.
        pooled: predict with the softmax head of the trunk epochs instead of the prototypes.
        description: of the progress bar; None for no bar.
        precision: of the model (default: float32).
        power: of `VideoPool`, 1 for the mean.
        keep_distances: keep each video's distances from the prototypes, too, which `pooled` has none of.
    Returns:
        the probabilities, and for every video and class the clip in which the class is most probable.
    """
    model.eval()
    n_prototypes = len(model.prototype_layer.node_of) if keep_distances and not pooled else 0
    pool = VideoPool(n_videos, model.membership, power, n_prototypes)
    for batch in valid_clips(loader, device, description):
        with (precision or Precision(device)).in_inference():
            trunk = trunk_features(model.trunk, batch)
            output = None if pooled else model.head(trunk)
        log_probs = model.node_log_probs(model.pooled_log_probs(trunk.float())) if pooled else output.log_probs
        pool.add(batch["video"], log_probs.exp().cpu(), batch["item"], output.distances if n_prototypes else None)
    pool, *others = (world or World()).objects(pool)
    for other in others:
        pool.merge(other)
    return pool


def evaluate(model: HIPE, loader: Iterable[dict], labels: Tensor, *, device: torch.device, pooled: bool = False,
             description: str | None = None, world: World | None = None,
             precision: Precision | None = None, power: float = 1.0) -> dict[str, float]:
    """Loss and accuracies over the videos of a subset.

    Args:
        labels: (n_videos,) leaves. The others: as in `predict`.
    Returns:
        loss (-log of the video's probability of the true leaf); top1; top5; level_1 ..., accuracy of the predicted
        leaf's ancestors; own_argmax_1 ..., accuracy of each level's most probable node; severity of the mistakes;
        videos, the number of videos that could be read.
    Raises:
        ValueError: where no video could be read.
    """
    pool = predict(model, loader, len(labels), device=device, pooled=pooled, description=description,
                   world=world, precision=precision, power=power)
    seen = pool.seen
    if not seen.any():
        raise ValueError("validation: not one video can be read; repair the files named above, or give --no_val")
    probs, labels = pool.probs[seen], labels[seen]
    n_leaves = len(model.ancestors)
    leaves = probs[:, :n_leaves]
    predicted, ancestors = leaves.argmax(1), model.ancestors.cpu()
    per_level = accuracy_per_level(predicted, labels, ancestors)
    levels = range(1, len(per_level))
    own = level_argmax_accuracy(probs, labels, ancestors, model.prototype_layer.node_levels)
    return {"loss": float(-leaves.gather(1, labels[:, None]).clamp(min=1e-12).log().mean()),
            "top1": float(per_level[0]), "top5": float(topk(leaves, labels, min(5, n_leaves))),
            **{f"level_{level}": float(per_level[level]) for level in levels},
            **{f"own_argmax_{level}": float(own[level]) for level in levels},
            "severity": mistake_severity(predicted, labels, ancestors), "videos": int(seen.sum())}


def results_json(pool: VideoPool, videos: Sequence[Video], clips: VideoClips, hierarchy: Hierarchy, *,
                 top: int, believed: Believed | None = None, unseen: Sequence[dict] | None = None) -> dict:
    """The content of {subset}.json: predictions in the published form, with each class's path to the top of the tree.

    Args:
        pool: of all windows of `clips`, whose videos are `videos`. top: classes written for each video.
        believed: temperature and threshold of back-off.
        unseen: by video, as `evaluation.unseen.unseen_entries` has it; None where not known.
    Returns:
        `results`: the classes of each video, best first; `videos`: its true class, number of windows, the window in
        which the predicted class is most probable (half-open, source frames), the node that back-off returns, and how
        strange the video is to the predicted node of each level;
        `tree`: every leaf's path. Videos that could not be read are left out.
    """
    probs = pool.probs  # (n_videos, K)
    top = min(top, hierarchy.n_leaves)
    scores, leaves = probs[:, :hierarchy.n_leaves].topk(top)  # (n_videos, top)
    best = pool.best.gather(1, leaves[:, :1])[:, 0]  # (n_videos,)
    answers = (believed or Believed()).answers(probs[:, :hierarchy.n_leaves], hierarchy)
    results, about = {}, {}
    for v, video in enumerate(videos):
        if not pool.count[v]:
            continue
        results[video.name] = [
            {"label": hierarchy.names[leaf], "score": score, "path": list(hierarchy.path(leaf)),
             "path_scores": probs[v, list(hierarchy.path_ids(leaf))].tolist()}
            for leaf, score in zip(leaves[v].tolist(), scores[v].tolist(), strict=True)]
        frames = clips.item_frames(int(best[v]))
        about[video.name] = {"truth": hierarchy.names[video.label] if video.label >= 0 else None,
                             "windows": int(pool.count[v]),
                             "window": [int(frames.min()), int(frames.max()) + 1], "backoff": answers[v]}
        if unseen is not None:
            about[video.name] |= unseen[v]
    tree = {hierarchy.names[leaf]: list(hierarchy.path(leaf)) for leaf in hierarchy.levels[0]}
    return {"results": results, "videos": about, "tree": tree}


def metrics_json(pool: VideoPool, videos: Sequence[Video], hierarchy: Hierarchy, *, model: str, subset: str,
                 believed: Believed) -> dict | None:
    """The content of metrics.json: measures over the videos that could be read and whose class is known.

    Args:
        pool: predictions of `videos`. model: its fingerprint. subset: as `--inference_subset` names it.
        believed: temperature and threshold of back-off.
    Returns:
        None where there is no such video.
    """
    labels = torch.tensor([video.label for video in videos])
    known = (pool.seen & (labels >= 0)).nonzero()[:, 0]
    if not len(known):
        return None
    metrics = recognition_metrics(pool.probs[known, :hierarchy.n_leaves], labels[known],
                                  [videos[v].name for v in known.tolist()], hierarchy, believed=believed)
    return {"model": model, "subset": subset, "n_videos": len(known), "n_clips": int(pool.count[known].sum()),
            "window_power": pool.power} | metrics

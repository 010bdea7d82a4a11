"""The measures of a finished demo, one function each; itself no script."""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.reading import JpegFolder, VideoFile
from datasets.transforms import EvalTransform, normalise
from datasets.video import Video
from evaluation.baselines import mean_frame_linear
from evaluation.decisions import decision_measures
from evaluation.localisation import Tube, points_at, random_hits
from evaluation.recognition import accuracy_per_level
from explain.heat import heat_of
from hierarchy.tree import Hierarchy
from models import HIPE
from models.geometry import points_to_source
from run.data import make_loader, make_reader, window_clips, window_power
from run.predict import predict
from training.push import PushRecord
from util_scripts.demo_flags import BATCH


def mean_frames(files: list[Path]) -> np.ndarray:
    """(N, H, W, 3) mean of all frames of every video file."""
    reader = VideoFile()
    return np.stack([reader.frames(file).float().mean(0).numpy() for file in files])


def linear_accuracy(folder: Path, train: list[Video], test: list[Video]) -> float:
    """Accuracy of a linear model on the videos' mean frames alone, which shows how easy the data is."""
    groups = np.array([video.name.split("_")[2] for video in train])
    frames, labels = zip(*((mean_frames([folder / video.path.parent.name / f"{video.name}.avi" for video in videos]),
                            np.array([video.label for video in videos])) for videos in (train, test)), strict=True)
    return mean_frame_linear(frames[0], labels[0], frames[1], labels[1], groups=groups)


def window_of(video: Video, explanation: dict, size: int) -> Tensor:
    """The window that an explanation is of: (3, T, H, W), normalised."""
    return normalise(EvalTransform(size)(JpegFolder().frames(video.path, torch.arange(*explanation["window"])))[0])


def grad_cam_peak(model: HIPE, clip: Tensor, explanation: dict, label: int) -> tuple[int, int, int]:
    """Where Grad-CAM of the trunk's pooled head peaks for a class, in an explanation's window: source frame, y, x."""
    extent = tuple(clip.shape[1:])
    heat = heat_of("grad_cam", lambda clips: model.pooled_log_probs(model.trunk(clips))[:, label], clip,
                   trunk=model.trunk)
    peak, frames = torch.stack(torch.unravel_index(heat.argmax(), heat.shape)), torch.arange(*explanation["window"])
    return tuple(points_to_source(peak, frames, torch.tensor(explanation["crop"]), extent[1:]).tolist())


def share(hits: Iterable[float]) -> float:
    """Mean of hits, rounded; 0 of none."""
    hits = list(hits)
    return round(float(np.mean(hits)), 4) if hits else 0.0


def pointing(model: HIPE, videos: list[Video], clips: list[Tensor], explanations: dict[str, dict],
             truth: dict[str, list[Tube]]) -> dict[str, float]:
    """The pointing game over the correctly classified videos: prototypes, a random point, Grad-CAM; and strictly."""
    hits: dict[str, list] = {name: [] for name in ("pointing", "pointing_random", "pointing_grad_cam")}
    strictly: dict[str, list] = {f"{name}_strict": [] for name in hits}
    for video, clip in zip(videos, clips, strict=True):
        explanation = explanations[video.name]
        if explanation["prediction"][0] != explanation["truth"]:
            continue
        tubes = truth[video.name]
        own = tuple(explanation["levels"][0]["prototypes"][0]["peak"])
        cam = grad_cam_peak(model, clip, explanation, video.label)
        frames, crop = np.arange(*explanation["window"]), np.array(explanation["crop"])
        for strict, into in ((False, hits), (True, strictly)):
            suffix = "_strict" if strict else ""
            into[f"pointing{suffix}"].append(points_at(own, tubes, strict=strict))
            into[f"pointing_random{suffix}"].append(random_hits(tubes, frames, crop, strict=strict))
            into[f"pointing_grad_cam{suffix}"].append(points_at(cam, tubes, strict=strict))
    return {name: share(values) for name, values in (hits | strictly).items()}


def centred_on_event(rows: list[dict], truth: dict[str, list[Tube]], n_levels: int) -> float:
    """Share of the pushed class prototypes whose own patch is centred on the event of its training video."""
    return share(points_at(tuple(row["peak"]), truth[row["video"]]) for row in rows
                 if row["video"] is not None and len(row["node"]) == n_levels)


def decisions(model: HIPE, record: PushRecord, hierarchy: Hierarchy, videos: list[Video], clips: list[Tensor],
              explanations: dict[str, dict]) -> list[list[dict[str, float]]]:
    """How the prototypes of every level take part in the decision, in every video's explained window.

    Returns:
        by video and level, see `decision_measures`.
    """
    leaf_of = {hierarchy.full_name(leaf): leaf for leaf in hierarchy.levels[0]}
    measures = []
    for first in range(0, len(videos), BATCH):
        with torch.no_grad():
            output = model(torch.stack(clips[first:first + BATCH]))
        for i, video in enumerate(videos[first:first + BATCH]):
            leaf = leaf_of[explanations[video.name]["prediction"][0]]
            measures.append(decision_measures(
                model, output.activations[i], output.distances[i], hierarchy.path_ids(leaf),
                truth=hierarchy.path_ids(video.label), record=record))
    return measures


def decided(measures: list[dict[str, float]]) -> dict[str, float | None]:
    """The figures of one level: medians of nats and likeness, means of shares; None where nothing is known."""
    def of(name: str, how: Callable[[list[float]], float]) -> float | None:
        values = [one[name] for one in measures if name in one]
        return round(float(how(values)), 4) if values else None

    total = sum(abs(one["total_evidence"]) for one in measures)
    off = sum(abs(one["descendants_evidence"] + one["elsewhere_evidence"]) for one in measures)
    return {"off_path": round(off / total, 4) if total else None,
            **{name: of(name, np.mean) for name in ("own_evidence", "own_needed")},
            **{name: of(name, np.median) for name in ("silenced", "silenced_needed", "silenced_three", "similarity")},
            **{name: of(name, np.mean) for name in ("flips", "flips_three", "closer_than", "typical", "nearest_own")}}


def points_at_level(explanations: dict[str, dict], level: int, truth: dict[str, list[Tube]],
                    of_truth: dict[str, tuple[str, ...]]) -> dict[str, float | int]:
    """How often the first prototype of a level points at the event, over the explained videos whose node is right.

    Args:
        explanations: by video. of_truth: by video, the names of the true class and of what lies above it.
    """
    hits = []
    for video, explanation in explanations.items():
        row = next((row for row in explanation["levels"] if row["level"] == level), None)
        if row is not None and row["node"] == of_truth[video][level]:
            hits.append(points_at(tuple(row["prototypes"][0]["peak"]), truth[video]))
    return {"explained": sum(any(one["level"] == level for one in explanation["levels"])
                             for explanation in explanations.values()), "pointing": share(hits)}


def lost_at_push(log: Path, n_levels: int) -> list[float] | None:
    """Accuracy that the last push, its merging and the tuning after it cost at each level, (L,), negative for a gain.

    The last validation before the last push minus the last one after it, of metrics.jsonl; None where one is missing.
    """
    events = [json.loads(line) for line in log.read_text().splitlines()]
    pushed = max((i for i, event in enumerate(events) if event["event"] == "push"), default=0)
    before, after = ([event for event in some if event["event"] == "val" and event["done"][0] != "trunk"]
                     for some in (events[:pushed], events[pushed:]))
    if not before or not after:
        return None
    names = ["top1", *(f"level_{level}" for level in range(1, n_levels))]
    return [round(before[-1][name] - after[-1][name], 4) for name in names]


def same_way(videos: list[Video], explanations: dict[str, dict], ways: dict[str, int]) -> float | None:
    """How often the first class prototype comes from a video that shows the true class in the same way as the video.

    Over all videos whose way is known; a wrong class never does. None where no ways are known.
    """
    hits = []
    for video in videos:
        explanation = explanations[video.name]
        source = explanation["levels"][0]["prototypes"][0]["source"]
        if video.name in ways:
            hits.append(explanation["prediction"][0] == explanation["truth"] and source is not None
                        and ways[source["video"]] == ways[video.name])
    return share(hits) if hits else None


def softmax_accuracy(model: HIPE, args: argparse.Namespace, videos: list[Video], labels: Tensor) -> Tensor | None:
    """Accuracy of every level, (L,), of the trunk's softmax head on the same windows, pooled in the same way.

    None where that head has learnt nothing.
    """
    if not (args.trunk_epochs or model.head_given):
        return None
    clips = window_clips(args, videos, make_reader(args), args.inference_stride, normalisation=model.normalisation)
    loader = make_loader(clips, n_threads=0, device=model.device, batch_size=BATCH)
    pool = predict(model, loader, len(videos), device=model.device, pooled=True, description="softmax head",
                   power=window_power(args))
    return accuracy_per_level(pool.probs[:, :model.hierarchy.n_leaves].argmax(1), labels, model.hierarchy.ancestors)

"""A results folder whose figures are known, with names that are none too friendly."""

import json
from pathlib import Path

import numpy as np
import torch
from tiny import MemoryReader, Record, Spot, tiny_hipe

from datasets.sampling import SlidingWindows
from datasets.transforms import EvalTransform, normalise
from datasets.video import Video, VideoClips
from evaluation.summary import summarise, write_tables
from explain import ExplanationSettings, Sources, explain_videos, pages, render
from explain.names import PARTS, file_name
from hierarchy.tree import Hierarchy
from models.hipe import HIPE

ROWS = [["Run & <b>jump</b>", "Other", "Body"], ["Wave", "Arms", "Body"], ["Saw", "Other", "Thing"],
        ['Drum "fast"', "Music", "Thing"]]
EVIL = "<img src=x onerror='hit=1'>.avi"
VIDEOS = {EVIL: (0, 2), "v_Wave_g01": (1, 1), "v_Saw_g01": (2, 3)}  # name: truth and prediction, leaves
TREE = Hierarchy.from_rows(ROWS)
MODEL = "0123abcd"


def _frames(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, size=(6, 40, 40, 3), dtype=np.uint8)


def metrics() -> dict:
    """What inference measured."""
    curve = [{"threshold": t, "risk": r, "coverage": c, "information": i}
             for t, r, c, i in ((0.0, 0.04, 1.0, 1.0), (0.5, 0.02, 0.75, 0.9), (1.0, 0.0, None, 0.1))]
    reliability = [{"confidence": 0.55, "accuracy": 0.5, "count": 4},
                   {"confidence": 0.95, "accuracy": 0.9, "count": 16}]
    accuracy = (0.625, 0.7, 0.875)
    levels = [{"level": i, "name": name, "n_nodes": len(TREE.levels[i]), "accuracy": accuracy[i],
               "top5": 1.0 if i == 0 else None, "nll": 0.5, "ece": 0.1234, "nll_calibrated": None,
               "ece_calibrated": None, "reliability": reliability}
              for i, name in enumerate(("class", "parent", "grandparent"))]
    nodes = [{"node": TREE.full_name(i), "path": list(TREE.path(i)), "level": int(TREE.level_of[i]),
              "n_videos": 0 if i == 3 else 8, "accuracy": None if i == 3 else 0.5 + 0.05 * i} for i in range(len(TREE))]
    mistakes = [{"video": video, "truth": TREE.names[truth], "prediction": TREE.names[said], "probability": 0.61,
                 "height": 3 if truth == 0 else 2} for video, (truth, said) in VIDEOS.items() if truth != said]
    return {"subset": "val", "n_videos": 20, "n_clips": 60, "calibrated": False, "temperature": 1.0,
            "target_accuracy": 0.95, "threshold": 0.5, "levels": levels, "severity": 2.5,
            "hierarchical": {"precision": 0.8, "recall": 0.8, "f": 0.8},
            "backoff": {"accuracy": 0.98, "coverage_leaf": 0.75, "information": 0.9, "area": 0.015, "curve": curve},
            "nodes": nodes, "confusion": {"nodes": ["Body", "Thing"], "counts": [[9, 1], [2, 8]]},
            "mistakes": mistakes}


def _prototype(number: int, node: int, holds: bool) -> dict:
    source = None if number % 4 == 3 else {"video": f"train_{number}", "frames": [0, 6], "box": [1, 5, 5, 4, 20, 20],
                                           "seconds": [0.1, 0.4]}
    shares = (0.9, 0.2) if holds else (0.3, 0.8)
    return {"prototype": number, "node": TREE.full_name(node), "path": list(TREE.path(node)), "similarity": 0.92,
            "activation": 0.92, "closer_than": 0.998, "closer_than_videos": 552, "typical": 0.43, "typical_videos": 23,
            "weight": 3.0, "evidence": 2.76, "stands_by": False, "stands_for": 2,
            "contribution": 0.25, "probability_without": 0.5, "peak": [2, 10, 10], "box": [1, 5, 5, 4, 20, 20],
            "seconds": [0.1, 0.4], "source": source,
            "box_test": {"box_only": shares[0], "box_hidden": shares[1], "holds": holds}}


def explanation(video: str, levels: list[int], *, truth: int | None, said: int) -> dict:
    """An explanation.json of some levels, of one prototype each."""
    path = [int(node) for node in TREE.ancestors[said]]
    true_path = None if truth is None else TREE.ancestors[truth].tolist()
    return {"video": video, "window": [0, 6], "seconds": [0.0, 0.6],
            "prediction": [TREE.full_name(node) for node in path], "path_scores": [0.61, 0.7, 0.9],
            "truth": None if truth is None else TREE.full_name(truth), "n_levels": 3, "crop": [0, 0, 40, 40],
            "fps": 10.0, "model": MODEL, "heat": "upsample",
            "levels": [{"level": level, "node": TREE.full_name(path[level]), "probability": 0.6 + 0.1 * level,
                        "prototypes": [_prototype(2 * path[level], path[level], holds=level > 0)], "alternatives": [],
                        "n_nodes": len(TREE.levels[level]), "siblings": 2,
                        "shares": {"own": 1.0, "ancestors": 0.5, "descendants": 0.0, "elsewhere": 0.1,
                                   "total": 1.6},
                        "decision": {"silenced_three": 1.2, "flips": level == 0, "flips_three": True,
                                     "nearest_own": None if true_path is None else path[level] == true_path[level]}}
                       for level in levels]}


def _explain(folder: Path, content: dict) -> None:
    """An explanation's folder with all pictures, as the analysis scripts leave it."""
    pages.start_folder(folder, content)
    (folder / PARTS).mkdir()
    names = ["clip"]
    for level in content["levels"]:
        names.append(f"level{level['level']}")
        names += [f"level{level['level']}_1_{kind}" for kind in ("box", "heat", "source", "patch")]
        sheet = folder / PARTS / f"level{level['level']}_sheet.webp"
        sheet.write_bytes(render.webp(_frames(0)[:1]))
    for i, name in enumerate(names):
        (folder / PARTS / f"{name}.webp").write_bytes(render.webp(_frames(i)))
        (folder / PARTS / f"{name}_still.webp").write_bytes(render.webp(_frames(i)[:1]))


def explained(root: Path, score: str) -> tuple[Path, HIPE, torch.Tensor]:
    """Explain one video at all levels by a tiny model with a score of that name.

    Returns:
        the folder of its class level, with pages; the model; and the activations (P,) of the explained window.
    """
    model, tree = tiny_hipe(score=score)
    noise = np.random.default_rng(0).integers(36, 44, size=(2, 20, 96, 160, 3), dtype=np.uint8)
    pixels = [Spot((13, 16), (30, 56), (70, 100)).paint(one) for one in noise]
    reader = MemoryReader({EVIL: pixels[0], "train": pixels[1]})
    maps = torch.rand(4, 12, 6, generator=torch.Generator().manual_seed(0))
    record = Record(["train"] * len(model.prototype_layer.node_of), torch.arange(12, 20),
                    torch.tensor([0.0, 32, 96, 128]), maps, (8, 48, 48))
    clips = VideoClips([Video(EVIL, Path(EVIL), 0, "validation", 20, (0, 20))], sampler=SlidingWindows(8, 6),
                       transform=EvalTransform(48), reader=reader)
    sources = Sources(record, {"train": Video("train", Path("train"), 0, "training", 20, (0, 20))})
    settings = ExplanationSettings(progress=False, checkpoint="my results/save_14.pth")
    classes, above = root / "local_analysis", root / "local_analysis_parents"
    for levels, out, beside in (([0], classes, above), ([1, 2], above, classes)):
        (found,) = explain_videos(model, clips, hierarchy=tree, levels=levels, out=out, beside=beside, sources=sources,
                                  settings=settings)
    item = next(clips[i] for i in range(len(clips)) if int(clips[i]["frames"].min()) == found["window"][0])
    with torch.no_grad():
        activations = model(normalise(item["clip"])[None]).activations[0]
    return classes / file_name(EVIL), model, activations


def measured_rows() -> list[dict]:
    """What evaluate_explanations.py might have measured."""
    clips = {"prototypes": (0.8, 0.1), "random": (0.3, 0.4), "grad*input": (0.5, None)}
    rows = [{"table": "explanations", "explanation": name, "level": 0,
             "measures": {"insertion": insertion + shift, "deletion": deletion, "box_volume": 0.05}}
            for name, (insertion, deletion) in clips.items() for shift in (0, 0.1)]
    return [*rows, {"table": "prototypes", "explanation": "prototypes", "level": 1, "measures": {"purity": 0.9}}]


def results_folder(root: Path, *, n_more: int = 0) -> Path:
    """Write the folder: predictions, figures, pictures of prototypes, and explanations at all levels.

    Args:
        n_more: videos that were explained without pictures.
    """
    results = root / "results"
    drawn = results / "img" / "epoch_20"
    drawn.mkdir(parents=True)
    (results / "img" / "epoch_3").mkdir()
    rows = []
    for number in range(2 * len(TREE)):
        node = number // 2
        row = {"prototype": number, "node": list(TREE.path(node)), "video": None}
        if number % 4 != 3:
            row |= {"video": f"train_{number}", "frames": [0, 6], "cell": [0, 1, 1], "peak": [2, 10, 10],
                    "box": [1, 5, 5, 4, 20, 20], "distance": 0.5}
            if node:
                row["stands_for"] = list(range(3 * number, 3 * number + 1 + number % 3))
            name = f"{number:04d}_{file_name(TREE.names[node])}"
            (drawn / f"{name}.gif").write_bytes(render.gif(_frames(number), 0.1))
            (drawn / f"{name}_patch.png").write_bytes(render.png(_frames(number)))
        rows.append(row)
    predictions = {"results": {video: [] for video in VIDEOS}, "videos": {}, "tree": {row[0]: row for row in ROWS}}
    files = {"metrics": metrics(), "prototypes": rows, "val": predictions, "opts": {"model": "<i>x</i>", "heads": None}}
    for name, content in files.items():
        (results / f"{name}.json").write_text(json.dumps(content))
    for video, (truth, said) in VIDEOS.items():
        places = [results / name / file_name(video) for name in ("local_analysis", "local_analysis_parents")]
        for place, levels in zip(places, ([0], [1, 2]), strict=True):
            _explain(place, explanation(video, levels, truth=truth, said=said))
        pages.write_pages(places[0], None)
        pages.write_pages(places[1], places[0])
    for i in range(n_more):
        content = explanation(f"more_{i}", [0], truth=None, said=i % 4)
        pages.start_folder(results / "local_analysis" / f"more_{i}", content)
    (results / "explanations").mkdir()
    write_tables(summarise(measured_rows()), results / "explanations", "Explanations of a & b, 2 videos")
    pages.write_overviews(results / "local_analysis_parents", results / "local_analysis", MODEL)
    return results

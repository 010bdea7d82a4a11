"""Folders of explained videos as local_analysis.py leaves them, whose answers are known."""

import json
from functools import cache
from pathlib import Path

import numpy as np

from explain import pages, render
from explain.names import PARTS, file_name, picture_name, voice_name

NODES = [f"Class {letter} & <b>" for letter in "PQRSTU"]
FRAMES, SIDE = 20, 40


def frames(seed: int) -> np.ndarray:
    """A square on its way over noise."""
    rng = np.random.default_rng(seed)
    shown = np.broadcast_to(rng.integers(120, size=(1, SIDE, SIDE, 3)), (FRAMES, SIDE, SIDE, 3)).astype(np.uint8).copy()
    for t in range(FRAMES):
        shown[t, 8:16, t:t + 8] = 250
    return shown


@cache
def webp(seed: int, *, still: bool = False) -> bytes:
    """The same as a file."""
    return render.webp(frames(seed)[:1] if still else frames(seed), 0.05)


def _voice(prototype: int, node: str, nats: float) -> dict:
    return {"prototype": prototype, "node": node, "nats": nats, "similarity": 0.8, "peak": [12, 30, 30],
            "box": [12, 20, 24, 20, 60, 64], "seconds": None,
            "source": {"video": f"train_{prototype}", "frames": [0, 20], "box": [0, 0, 0, 8, 8, 8], "seconds": None}}


def explained_video(root: Path, video: str, *, truth: int | None, said: int, levels: tuple[int, ...] = (0,),
                    k: int = 2, model: str = "0123abcd") -> Path:
    """A folder of one video: window of frames 10..29, shown at twice the size that pictures have."""
    folder = root / file_name(video)
    content = {"video": video, "window": [10, 30], "crop": [0, 0, 2 * SIDE, 2 * SIDE], "model": model,
               "truth": None if truth is None else NODES[truth], "prediction": [NODES[said], "Top"], "levels": []}
    for level in levels:
        own = NODES[said]
        cards = [{"prototype": 10 * said + i, "node": own, "similarity": 0.9, "box": [14, 10, 20, 22, 50, 60]}
                 for i in range(k)]
        rivals = [node for node in range(len(NODES)) if node != said]
        content["levels"].append({"level": level, "node": own, "decision": {}, "prototypes": cards, "contrast": [
            {"node": NODES[rival], "prototypes": [_voice(10 * said, own, 2.0), _voice(10 * said + 1, own, 0.5),
                                                  _voice(10 * rival, NODES[rival], -1.0)]} for rival in rivals]})
    (folder / PARTS).mkdir(parents=True)
    (folder / pages.EXPLANATION).write_text(json.dumps(content))
    names = ["clip", *(picture_name(level, rank + 1, kind) for level in levels for rank in range(k)
                       for kind in ("box", "source", "patch"))]
    for i, name in enumerate(names):
        (folder / PARTS / f"{name}.webp").write_bytes(webp(i))
        (folder / PARTS / f"{name}_still.webp").write_bytes(webp(i, still=True))
    for prototype in [10 * said + 1, *(10 * node for node in range(len(NODES)))]:
        (folder / PARTS / f"{voice_name(prototype, 'moving')}.webp").write_bytes(webp(prototype))
        (folder / PARTS / f"{voice_name(prototype, 'source')}.webp").write_bytes(webp(prototype, still=True))
    return folder


def explained_videos(root: Path) -> Path:
    """Eight videos, of which two are wrong and one is of no known class."""
    for i in range(8):
        truth = None if i == 7 else i % len(NODES)
        explained_video(root, f"v_secret_{i}", truth=truth, said=(i + (i in (1, 2))) % len(NODES))
    return root

"""Sheets of the training patches that come nearest to a prototype."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets.transforms import normalise
from datasets.video import VideoClips
from explain import render
from explain.names import file_name
from explain.pictures import read_region
from machine.writing import write_bytes
from models.geometry import box_of, box_to_source

SIDE, GAP = 112, 4  # pixels of a patch on a sheet, and between two


@dataclass(frozen=True)
class Patch:
    """A clip that comes near to a prototype.

    item: of the clips. similarity: 0..1, of the highest there is. distance: squared L2.
    """

    item: int
    similarity: float
    distance: float


def patches_of(rows: Mapping[str, Tensor], prototype: int, similarity: Callable[[Tensor], Tensor],
               highest: float) -> list[Patch]:
    """The patches of one prototype, nearest first.

    Args:
        rows: `distance` and `item` (P, n), infinite where there is none.
        similarity: squared distances -> similarities, at most `highest`.
    """
    distances = rows["distance"][prototype].cpu()
    near = distances < torch.inf
    shares = similarity(distances[near]) / highest
    return [Patch(*values) for values in zip(rows["item"][prototype].cpu()[near].tolist(), shares.tolist(),
                                             distances[near].tolist(), strict=True)]


def draw_sheets(patches: Mapping[int, Mapping[str, Sequence[Patch]]], clips: VideoClips, out: Path, *,
                names: Sequence[str], class_names: Sequence[str],
                heats_of: Callable[[Tensor, Sequence[int]], Sequence[Tensor]]) -> list[dict]:
    """Draw a sheet of each prototype: a row a group of patches, each the frame at its peak with its box.

    Args:
        patches: by prototype, groups of them: "" for those nearest of all, a child's name for those below it.
        clips: that items are of. out: an existing folder.
        names: of the prototypes' nodes. class_names: by label.
        heats_of: a normalised clip and n prototypes -> n maps (T, H, W).
    Returns:
        for top_patches.json, an entry each prototype.
    """
    wanted: dict[int, list[int]] = {}
    for p, groups in patches.items():
        for group in groups.values():
            for patch in group:
                wanted.setdefault(patch.item, [])
                if p not in wanted[patch.item]:
                    wanted[patch.item].append(p)
    drawn: dict[tuple[int, int], tuple[render.Pixels, dict]] = {}
    for item, prototypes in tqdm(sorted(wanted.items()), desc="patches", unit="clip", leave=False, disable=None):
        sample = clips[item]
        clip = normalise(sample["clip"], clips.normalisation)
        for p, heat in zip(prototypes, heats_of(clip, prototypes), strict=True):
            drawn[p, item] = _drawn(clips, sample, heat, class_names)
    contents = []
    for p, groups in patches.items():
        name = f"{p:04d}_{file_name(names[p])}.webp"
        write_bytes(out / name, render.webp(_sheet([[drawn[p, patch.item][0] for patch in group]
                                                    for group in groups.values() if group])))
        rows = {group: [drawn[p, patch.item][1] | {"similarity": round(patch.similarity, 6),
                                                   "distance": round(patch.distance, 6)} for patch in some]
                for group, some in groups.items()}
        contents.append({"prototype": p, "node": names[p], "sheet": name, "patches": rows.pop(""), "children": rows})
    return contents


def _drawn(clips: VideoClips, sample: dict, heat: Tensor, class_names: Sequence[str]) -> tuple[render.Pixels, dict]:
    """The frame at the peak of a patch with its box, and where it is."""
    video, size = clips.videos[sample["video"]], tuple(heat.shape[1:])
    box, at = box_of(heat), int(heat.amax((1, 2)).argmax())
    pixels = read_region(clips.reader, video.path, sample["frames"][at:at + 1], sample["crop"], SIDE)
    picture = render.draw_box(render.resize(pixels, (SIDE, SIDE)), (0, *box[1:3], 1, *box[4:]), size)
    return picture[0], {"video": video.name, "label": class_names[video.label],
                        "frame": int(sample["frames"][at]),
                        "box": list(box_to_source(box, sample["frames"], sample["crop"], size))}


def _sheet(rows: Sequence[Sequence[render.Pixels]]) -> render.Pixels:
    """Pictures (SIDE, SIDE, 3) in rows: (1, height, width, 3)."""
    columns = max(map(len, rows))
    sheet = np.full((len(rows) * (SIDE + GAP) - GAP, columns * (SIDE + GAP) - GAP, 3), 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (SIDE + GAP), j * (SIDE + GAP)
            sheet[top:top + SIDE, left:left + SIDE] = picture
    return sheet[None]

"""Which energy finds better masks: ours, the published one, and step's, on a real network.

For the predicted class of the middle clip of three videos, a mask of a tenth of the clip is optimised under each
energy. What masks keep is compared at equal binary area: the hottest voxels of a mask, exactly so many of them, stay
sharp in a clip under one blur, and the probability of the class is read. Needs ucf101/ in --data.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

import local_attribution
from attribution.perturbation import extremal_masks
from benchmarks.filmed.boxed import markdown_table
from benchmarks.machine import machine
from datasets.loose import single_video
from datasets.reading.loose import LooseFiles
from datasets.sampling import EvenClips
from datasets.transforms import EvalTransform
from datasets.video import VideoClips
from evaluation.faithfulness import blurred
from explain.attribution import Subject
from machine.writing import append_line
from options.ranges import COUNT
from run.model import choose_device
from run.subjects import trunk_subject

VIDEOS = ("BenchPress/v_BenchPress_g05_c04", "PlayingViolin/v_PlayingViolin_g11_c02", "Archery/v_Archery_g16_c05")
ENERGIES = {"3d_ep": {"how": "3d_ep"}, "3d_ep, published energy": {"how": "3d_ep", "published_energy": True},
            "step": {"how": "step"}}
AREA = 0.1
READ_AT = (0.05, 0.1, 0.2)  # binary areas


def flags(group: argparse._ArgumentGroup) -> None:
    """Of this part."""
    add = group.add_argument
    add("--energies_iterations", type=COUNT, default=300, help="of a mask (default: 300)")
    add("--energies_size", type=COUNT, default=224, help="pixels of a clip's side (default: 224)")
    add("--energies_duration", type=COUNT, default=16, help="frames of a clip (default: 16)")
    add("--energies_stride", type=COUNT, default=4, help="from one frame of a clip to the next (default: 4)")


def hottest(mask: Tensor, share: float) -> Tensor:
    """The hottest voxels of a mask (T, H, W), a share of all: bool, exactly so many; equal ones in their order."""
    n = round(share * mask.numel())
    which = mask.flatten().argsort(descending=True, stable=True)[:n]
    return torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device).index_fill_(0, which, True).view(mask.shape)


def subject_of(args: argparse.Namespace) -> Subject:
    """The network under its published head."""
    line = ["--model", args.model, "--pretrain_path", args.pretrain_path]
    flags, _ = local_attribution.parse([*line, *(["--classes", args.classes] if args.classes else [])])
    return trunk_subject(flags, choose_device(None, args.no_cuda))


def middle_clip(path: Path, subject: Subject, args: argparse.Namespace) -> Tensor:
    """The normalised clip (3, T, H, W) from the middle of a video."""
    reader = LooseFiles()
    clips = VideoClips([single_video(path, reader.info(path).n_frames)], reader=reader, strict=True,
                       sampler=EvenClips(args.energies_duration, 1, stride=args.energies_stride),
                       transform=EvalTransform(args.energies_size))
    return subject.normalised(clips[0]["clip"])


def measure(clip: Tensor, subject: Subject, leaf: int, energy: str, iterations: int) -> dict[str, object]:
    """Optimise a mask of a clip, and read what it keeps."""
    def score(clips: Tensor) -> Tensor:
        return subject.log_probs(clips)[:, leaf]

    began = time.perf_counter()
    extremal = extremal_masks(lambda clips, _: score(clips), clip[None], areas=(AREA,), progress=True, patience=None,
                              iterations=iterations, **ENERGIES[energy])
    seconds = time.perf_counter() - began
    mask, soft = extremal.masks[0, 0, 0], blurred(clip)
    with torch.no_grad():
        whole, nothing, *kept = (float(score(shown[None]).exp()) for shown in (
            clip, soft, *(torch.where(hottest(mask, share), clip, soft) for share in READ_AT)))
    return {"class": subject.hierarchy.names[leaf], "probability": whole, "blurred": nothing, "kept": kept,
            "area": float(extremal.areas[0, 0, 0]), "seconds": round(seconds, 1)}


def run(data: Path, out: Path, args: argparse.Namespace) -> str:
    """Optimise the masks that energies.jsonl in `out` does not have yet; returns the table."""
    settings = {name: value for name, value in vars(args).items()
                if name.startswith("energies_") or name in ("model", "pretrain_path")}
    subject, log = None, out / "energies.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    rows = [row for row in rows if row["settings"] == settings]
    for name in VIDEOS:
        for energy in ENERGIES:
            if any((row["video"], row["energy"]) == (name, energy) for row in rows):
                continue
            subject = subject or subject_of(args)
            clip = middle_clip(data / "ucf101" / "videos" / f"{name}.avi", subject, args)
            with torch.no_grad():
                leaf = int(subject.log_probs(clip[None])[0].argmax())
            rows.append({"video": name, "energy": energy, "settings": settings,
                         **measure(clip, subject, leaf, energy, args.energies_iterations)})
            append_line(log, json.dumps(rows[-1]))
    return table(rows, args)


def table(rows: list[dict], args: argparse.Namespace) -> str:
    """Markdown of the rows, a line a mask, and the means of each energy."""
    columns = ["probability", "under the blur", *(f"kept at {share:g}" for share in READ_AT),
               f"area, asked for {AREA:g}", "seconds"]
    cells = {}
    for energy in ENERGIES:
        of = [row for row in rows if row["energy"] == energy]
        values = [[row["probability"], row["blurred"], *row["kept"], row["area"], row["seconds"]] for row in of]
        names = [f"{energy}: {row['video'].rpartition('/')[2]}, {row['class']}" for row in of]
        means = [sum(column) / len(of) for column in zip(*values, strict=True)]
        for name, line in zip([*names, f"{energy}: mean"], [*values, means], strict=True):
            *shares, seconds = line
            cells[name] = dict(zip(columns, [*(f"{value:.2f}" for value in shares), f"{seconds:.0f}"], strict=True))
    return (f"### Energies of extremal perturbations on {args.model} ({args.pretrain_path})\n\n"
            f"{args.energies_duration} frames at stride {args.energies_stride} of {args.energies_size} pixels, "
            f"{args.energies_iterations} iterations; {machine(no_cuda=args.no_cuda)}.\n\n"
            + markdown_table(columns, cells))

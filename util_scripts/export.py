"""Export a trained model for serving: python -m util_scripts.export --resume_path results/save_200.pth model.pt2

What is exported takes uint8 RGB clips (B, 3, T, H, W), any number at a time, and gives log-probabilities of all nodes
(B, K), similarities of all prototypes (B, P) and the flat feature cells they were found in (B, P). A JSON beside it
names the nodes, the prototypes and the grid. A file is written only where its answers are the model's.
"""

import argparse
import io
import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from datasets.transforms import normalise
from hierarchy.tree import Hierarchy
from machine.writing import check_writable, write_bytes, write_text
from models import HIPE, HIPEOutput
from options.errors import CommandLine, user_errors
from run.data import window_power
from run.model import model_of
from run.resume import stored_args
from training.checkpoint import load_checkpoint
from training.schedule import Step

TOLERANCE = 1e-4  # of log-probabilities and similarities, which reach 9.2
OUTPUTS = ["log_probs", "activations", "cells"]
Served = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


class Serving(nn.Module):
    """A model with its preprocessing: (B, 3, T, H, W) uint8 RGB -> log_probs (B, K), activations, cells (B, P)."""

    def __init__(self, model: HIPE, normalisation: str = "kinetics") -> None:
        super().__init__()
        self.model, self.normalisation = model, normalisation

    def answer(self, clips: Tensor) -> HIPEOutput:
        """The output of the model."""
        return self.model(normalise(clips, self.normalisation))

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.answer(clips)
        return output.log_probs, output.activations, output.cells


def exported(serving: Serving, clips: Tensor) -> torch.export.ExportedProgram:
    """For any number of clips of this size."""
    serving(clips)  # caches must be filled before numbers are symbols
    return torch.export.export(serving, (clips,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


def as_program(serving: Serving, clips: Tensor) -> tuple[bytes, Callable[[], Served]]:
    """By torch.export: the file's content, and how to load it again."""
    file = io.BytesIO()
    torch.export.save(exported(serving, clips), file)
    content = file.getvalue()
    return content, lambda: torch.export.load(io.BytesIO(content)).module()


def as_torchscript(serving: Serving, clips: Tensor) -> tuple[bytes, Callable[[], Served]]:
    """By tracing to TorchScript: the file's content, and how to load it again."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(serving, clips, check_trace=False), file)
    content = file.getvalue()
    return content, lambda: torch.jit.load(io.BytesIO(content))


def cdist(x: Tensor, y: Tensor, p: float = 2, _: int | None = None) -> Tensor:
    """torch.cdist in operations that ONNX has: (..., N, D), (..., M, D) -> (..., N, M)."""
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def as_onnx(serving: Serving, clips: Tensor) -> tuple[bytes, Callable[[], Served]]:
    """By torch.onnx: the file's content, and how onnxruntime answers with it.

    Raises:
        ImportError: where the packages for it are not installed.
    """
    import onnxruntime
    import onnxscript  # noqa: F401  torch would miss it deep inside

    program = exported(serving, clips).run_decompositions({torch.ops.aten.cdist.default: cdist})
    content = torch.onnx.export(program, (), dynamo=True, verbose=False, input_names=["clips"],
                                output_names=OUTPUTS).model_proto.SerializeToString()

    def load() -> Served:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return lambda clips: tuple(map(torch.from_numpy, session.run(OUTPUTS, {"clips": clips.numpy()})))

    return content, load


FORMATS = {"export": as_program, "torchscript": as_torchscript, "onnx": as_onnx}


@torch.no_grad()
def differences(serving: Serving, served: Served, size: tuple[int, int, int], seed: int = 0) -> float:
    """How far an exported model is from the model, over batches of one and of three random clips.

    Args:
        size: (T, H, W).
    Returns:
        the largest difference of a log-probability or a similarity, the latter also to the model's at the exported
        cells, because one of several equal cells may be named. Infinite where a cell is outside the grid.
    """
    generator, errors = torch.Generator().manual_seed(seed), []
    layer = serving.model.prototype_layer
    for n in (1, 3):
        clips = torch.randint(256, (n, 3, *size), generator=generator, dtype=torch.uint8)
        output, (log_probs, activations, cells) = serving.answer(clips), served(clips)
        if cells.shape != output.cells.shape or not ((cells >= 0) & (cells < output.features[0, 0].numel())).all():
            return math.inf
        at_cells = layer.similarity(layer.distance(output.features, cells))
        for ours, theirs in ((output.log_probs, log_probs), (output.activations, activations), (at_cells, activations)):
            errors.append((ours - theirs).abs().max())
    return float(torch.stack(errors).max())  # nan stays nan


def description(model: HIPE, hierarchy: Hierarchy, args: argparse.Namespace) -> dict:
    """The JSON beside an exported model: its input, outputs, nodes, prototypes and grid."""
    with torch.no_grad():
        clip = torch.zeros(1, 3, args.sample_duration, args.sample_size, args.sample_size)
        grid = model(clip).features.shape[2:]
    return {"input": {"dtype": "uint8", "channels": "RGB", "frames": args.sample_duration, "size": args.sample_size,
                      "frame_stride": args.sample_t_stride},
            "window_power": window_power(args),
            "outputs": OUTPUTS,
            "nodes": [{"name": hierarchy.full_name(node), "level": int(hierarchy.level_of[node]),
                       "path": list(hierarchy.path(node))} for node in range(len(hierarchy))],
            "prototype_nodes": model.prototype_layer.node_of.tolist(),
            "grid": list(grid), "stride": list(model.trunk.stride)}


def export(checkpoint_path: Path, out: Path, form: str) -> float:
    """Write an exported model and its description.

    Returns:
        the largest difference to the model itself.
    Raises:
        ValueError: the model cannot be exported, or the exported one answers differently.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    if Step.of_stored(checkpoint["done"]).kind == "trunk":
        raise ValueError(f"{checkpoint_path}: only its trunk is trained, its prototypes are not; give a save_*.pth")
    model, hierarchy, _ = model_of(checkpoint, checkpoint_path)
    args = stored_args(checkpoint)
    size = (args.sample_duration, args.sample_size, args.sample_size)
    check_writable(out.parent)
    serving = Serving(model.eval().requires_grad_(False), model.normalisation)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about shapes and buffers: the answers are compared below
            content, load = FORMATS[form](serving, torch.zeros(2, 3, *size, dtype=torch.uint8))
            difference = differences(serving, load(), size)
    except ImportError as error:
        raise ValueError(f"--format {form} needs packages that are not installed ({error.name}); pip install -r "
                         "requirements-export.txt, or choose another --format") from error
    except Exception as error:  # the exporters raise errors of many kinds
        other = next(name for name in FORMATS if name != form)
        said = next(iter(str(error).splitlines()), "without a word")
        raise ValueError(f"{checkpoint_path}: --model {args.model} does not go through --format {form} "
                         f"({type(error).__name__}: {said}); try --format {other}") from error
    if not difference <= TOLERANCE:
        raise ValueError(f"{checkpoint_path}: the answers of --format {form} are off by {difference:.2g}, so that it "
                         "was not written; try another --format")
    write_bytes(out, content, durable=True)
    write_text(out.with_suffix(".json"), json.dumps(description(model, hierarchy, args), indent=1), durable=True)
    return difference


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(prog="python -m util_scripts.export", allow_abbrev=False,
                         description="Export a trained model for serving.")
    parser.add_argument("--resume_path", type=Path, required=True, help="checkpoint of the model")
    parser.add_argument("--format", default="export", choices=sorted(FORMATS),
                        help="torch.export (.pt2), TorchScript (.pt) or ONNX (.onnx) (default: %(default)s)")
    parser.add_argument("out", type=Path, help="file to write; its description goes beside it as .json")
    args = parser.parse_args(argv)
    if args.out.suffix == ".json":
        raise ValueError(f"{args.out}: .json is for the description; name the model .pt2, .pt or .onnx")
    if args.out.is_dir():
        raise ValueError(f"{args.out}: is a folder; name a file in it")
    if args.out.resolve() == args.resume_path.resolve():
        raise ValueError(f"{args.out}: is the checkpoint itself, which would be lost; choose another name")
    beside = args.out.with_suffix(".json")
    if beside.is_file() and '"prototype_nodes"' not in beside.read_text():
        raise ValueError(f"{beside}: is there already and no description of an exported model; choose another name "
                         f"than {args.out.name}")
    difference = export(args.resume_path, args.out, args.format)
    print(f"{args.out}: largest difference to the model {difference:.2g}")


if __name__ == "__main__":
    with user_errors():
        main()

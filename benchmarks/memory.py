"""Peak memory of the prototype search, as it is here and as published.

    python -m benchmarks.memory [--batch_size 32]

As published, squared features are convolved with P x C ones, and the (B, P, t, h, w) distances are kept for the
backward pass. Here the nearest cells are found by a matrix product, some prototypes at a time, and their distances,
computed exactly, are computed again in the backward pass. A training step finds the nearest of all cells, of the
focused and of the background ones. Each is run forward and backward in a process of its own, where its peak is what
the system (Linux) counted above what was there after a run with a single clip; on a GPU it is what PyTorch counted.
Where the neck has channels for each level, the published search, which knows of one space for all, sees the first ones.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.bench import Bench
from benchmarks.tables import saved_tables
from models import PrototypeLayer
from options.errors import CommandLine, user_errors
from training.losses import focused_and_background


def published(layer: PrototypeLayer, features: Tensor) -> Tensor:
    """(B, P) squared distances to the nearest cell, by the expanded square of all of them."""
    kernels = layer.prototypes[:, :, None, None, None]
    features = features[:, :kernels.shape[1]]
    squares = F.conv3d(features.square(), torch.ones_like(kernels))
    norms = layer.prototypes.square().sum(1)[:, None, None, None]
    distances = F.relu(squares - 2 * F.conv3d(features, kernels) + norms)  # (B, P, t, h, w)
    return distances.flatten(2).amin(-1)


def ours(layer: PrototypeLayer, features: Tensor) -> Tensor:
    """(B, P) squared distances to the nearest cell, by this project's layer."""
    return layer(features)[0]


def masked(layer: PrototypeLayer, features: Tensor) -> Tensor:
    """(B, P) sums of the distances that a training step uses."""
    value = torch.rand(features.shape[0], features[0, 0].numel(), device=features.device)
    return sum(nearest for nearest, _ in layer.nearest(features, focused_and_background(value, 0.04, 0.8)))


def counted(key: str) -> int:
    """Bytes of this process's memory that the system counts under a name."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def run(search: Callable, layer: PrototypeLayer, features: Tensor) -> None:
    """A search, forward and backward."""
    leaf = features.clone().requires_grad_()
    layer.similarity(search(layer, leaf)).mean().backward()


def peak(search: Callable, layer: PrototypeLayer, features: Tensor) -> int:
    """Bytes that a search takes, forward and backward, at its peak."""
    if features.device.type == "cuda":
        run(search, layer, features)  # with cuDNN's search for algorithms
        torch.cuda.reset_peak_memory_stats(features.device)
        before = torch.cuda.memory_allocated(features.device)
        run(search, layer, features)
        return torch.cuda.max_memory_allocated(features.device) - before
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=measure, args=(answers, search, layer, features))
    # freed memory must go back to the system: used again, it would not count
    with mock.patch.dict(os.environ, MALLOC_MMAP_THRESHOLD_=str(1 << 16)):
        process.start()
    process.join()
    if process.exitcode:
        raise ValueError(f"the search ended with exit code {process.exitcode}; it may want more memory than there is: "
                         "give a smaller --batch_size")
    return answers.get()


def measure(answers: multiprocessing.SimpleQueue, search: Callable, layer: PrototypeLayer, features: Tensor) -> None:
    """Put the answer of `peak` into a queue, in a process that does nothing else."""
    features = features.clone()
    run(search, layer, features[:1])  # the libraries allocate their own memory
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = counted("VmRSS")
    run(search, layer, features)
    answers.put(counted("VmHWM") - before)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print the peaks; returns the ratio by name."""
    parser = CommandLine(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's.")
    bench = Bench(parser, argv, batch_size=32)
    model = bench.model()
    with torch.no_grad():
        trunk = model.trunk(bench.batch["clip"][:1])
        cells = model.neck(trunk).expand(bench.args.batch_size, -1, -1, -1, -1).contiguous()
    layer = model.prototype_layer
    searches = {"published": published, "here": ours, "here, with the masks of a training step": masked}
    peaks = {name: peak(search, layer, cells) for name, search in searches.items()}
    features = bench.args.batch_size * trunk.numel() * trunk.element_size()
    print(f"{bench}, {len(layer.node_of)} prototypes\n\n| search | peak, MB |\n| --- | --- |")
    for name, size in [*peaks.items(), ("the trunk's features, for comparison", features)]:
        print(f"| {name} | {size / 1e6:.1f} |")
    return {"search's memory / published": peaks["here"] / max(peaks["published"], 1)}


if __name__ == "__main__":
    with user_errors(), saved_tables("memory"):
        main()

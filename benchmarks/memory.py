"""Peak memory of the prototype search, as it is here and as published.

    python -m benchmarks.memory [--batch_size 32]

As published, squared features are convolved with P x C ones, and the (B, P, t, h, w) distances are kept for the
backward pass. Here the nearest cells are found by one matrix product, and only the chosen distances, computed again,
take part in it. Each is run forward and backward in a process of its own, where its peak is what the system counted
above what was there before; on a GPU it is what PyTorch counted.
"""

import argparse
import multiprocessing
import resource
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.step import Bench
from models import PrototypeLayer
from util_scripts.errors import user_errors


def published(layer: PrototypeLayer, features: Tensor) -> Tensor:
    """(B, P) squared distances to the nearest cell, by the expanded square of all of them."""
    kernels = layer.prototypes[:, :, None, None, None]
    squares = F.conv3d(features.square(), torch.ones_like(kernels))
    norms = layer.prototypes.square().sum(1)[:, None, None, None]
    distances = F.relu(squares - 2 * F.conv3d(features, kernels) + norms)  # (B, P, t, h, w)
    return distances.flatten(2).amin(-1)


def ours(layer: PrototypeLayer, features: Tensor) -> Tensor:
    """The same, as a training step computes them."""
    return layer(features)[0]


def peak(search: Callable, layer: PrototypeLayer, features: Tensor) -> int:
    """Bytes that a search takes, forward and backward, at its peak."""
    def work() -> None:
        leaf = features.clone().requires_grad_()
        layer.similarity(search(layer, leaf)).mean().backward()

    if features.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(features.device)
        before = torch.cuda.memory_allocated(features.device)
        work()
        return torch.cuda.max_memory_allocated(features.device) - before
    context = multiprocessing.get_context("fork")  # which starts with what this process has now
    answers = context.SimpleQueue()

    def measure() -> None:
        torch.set_num_threads(1)  # a forked process has lost the other threads
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        answers.put(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))

    process = context.Process(target=measure)
    process.start()
    process.join()
    if process.exitcode:
        raise ValueError(f"the search ended with exit code {process.exitcode}; it may want more memory than there is: "
                         "give a smaller --batch_size")
    return answers.get()


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print both peaks; their ratio by name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0],
                                     allow_abbrev=False, epilog="The other flags are main.py's.")
    bench = Bench(parser, argv, batch_size=32)
    model = bench.model()
    with torch.no_grad():
        trunk = model.trunk(bench.batch["clip"][:1])
        cells = model.neck(trunk).expand(bench.args.batch_size, -1, -1, -1, -1).contiguous()
    layer = model.prototype_layer
    peaks = {name: peak(search, layer, cells) for name, search in (("published", published), ("here", ours))}
    features = bench.args.batch_size * trunk.numel() * trunk.element_size()
    print(f"{bench}, {len(layer.node_of)} prototypes\n\n| search | peak, MB |\n| --- | --- |")
    for name, size in [*peaks.items(), ("the trunk's features, for comparison", features)]:
        print(f"| {name} | {size / 1e6:.1f} |")
    return {"search's memory / published": peaks["here"] / max(peaks["published"], 1)}


if __name__ == "__main__":
    with user_errors():
        main()

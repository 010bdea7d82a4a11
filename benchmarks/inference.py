"""Clips a second of inference, as main.py computes it and in other ways.

    python -m benchmarks.inference [--batch_size 8] [--repeats 10] [--ways plain channels_last bf16]

All take turns in one process; the ratio is how many times the clips a second of plain float32 in PyTorch's own memory
format each way comes to.
"""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.bench import Bench
from benchmarks.tables import saved_tables
from benchmarks.turns import in_turns, ratio
from options.errors import CommandLine, user_errors
from training.precision import Precision

WAYS = ("plain", "channels_last", "fp16", "bf16", "compile", "compile_bf16")


def forward(bench: Bench, way: str) -> Callable[[], Tensor]:
    """A pass over the batch in one way, as a function that returns a number of the output."""
    model, clips = bench.model().eval(), bench.batch["clip"]
    if way == "plain":
        model, clips = model.to(memory_format=torch.contiguous_format), clips.contiguous()
    if way.startswith("compile"):
        model.trunk.compile()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(way.removeprefix("compile_"))
    precision = Precision(bench.device, inference=dtype)

    @torch.no_grad()
    def run() -> Tensor:
        with precision.in_inference():
            return model(clips).log_probs[0, 0]
    return run


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print the clips a second of every way; returns the ratios by name."""
    parser = CommandLine(prog="python -m benchmarks.inference", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's.")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["channels_last", "bf16"],
                        help="beside plain (default: channels_last bf16)")
    bench = Bench(parser, argv, batch_size=8)
    ways = list(dict.fromkeys(["plain", *bench.own.ways]))
    times = in_turns({way: forward(bench, way) for way in ways}, bench.own.repeats)
    print(f"{bench}\n\n| way | clips a second | times plain |\n| --- | --- | --- |")
    for way in ways:
        print(f"| {way} | {bench.args.batch_size / statistics.median(times[way]):.1f} | "
              f"{ratio(times, 'plain', way):.2f} |")
    return {f"inference, {way} / plain": ratio(times, "plain", way) for way in ways[1:]}


if __name__ == "__main__":
    with user_errors(), saved_tables("inference"):
        main()

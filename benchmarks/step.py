"""A joint training step of HIPE costs at most 1.03 times one of the same trunk under a pooled softmax head.

    python -m benchmarks.step [--batch_size 8] [--sample_size 112] [--repeats 10] [--device cpu] [--amp bf16]

HIPE is what main.py trains by default on UCF-101's tree: 3D-ResNet-18, 16 frames, 126 nodes of six prototypes (of ten
with --prototypes_per_node 10); its step is forward, all losses, backward and optimiser. The softmax head's step is
`bench.softmax_step`, with the same trunk, memory format, optimiser and input; beside it stands the trunk alone,
forward and backward, and what share of the machine's rate of float32 matrix products, measured here too, its arithmetic
reaches. All take turns in one process, so that a machine that slows down does so for all; of each turn the ratio is
taken, and of these the median. Only the ratio travels from one machine to another.
"""

import statistics
import sys
from pathlib import Path

from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.bench import Bench, make_trainer, matrix_rate, softmax_step, trunk_pass
from benchmarks.tables import saved_tables
from benchmarks.turns import in_turns, ratio, table
from options.errors import CommandLine, user_errors
from training.schedule import Step

GOAL = 1.03


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print times and ratios; returns the ratios by name."""
    parser = CommandLine(prog="python -m benchmarks.step", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's.")
    bench = Bench(parser, argv, batch_size=8)
    batch, precision = bench.batch, bench.precision
    model, other, alone = (bench.model() for _ in range(3))
    trainer = make_trainer(bench.args, model, precision)
    work = {"HIPE": lambda: trainer.step(Step("joint", 1, 0), 0.0, batch)["loss"],
            "softmax": softmax_step(bench.args, other.trunk, bench.hierarchy.n_leaves, batch, precision),
            "trunk alone": trunk_pass(alone.trunk, batch, precision)}
    times = in_turns(work, bench.own.repeats)
    with FlopCounterMode(display=False) as flops:
        trunk_pass(bench.model().trunk, batch, precision)()
    rate = flops.get_total_flops() / statistics.median(times["trunk alone"])
    share = rate / matrix_rate(bench.device)
    to_softmax = ratio(times, "HIPE", "softmax")
    print(f"{bench}, {len(model.prototype_layer.node_of)} prototypes\n\n{table(times)}\n\n"
          f"ratio {to_softmax:.3f} (in {bench.own.repeats} turns; goal: at most {GOAL})\n"
          f"trunk alone: {rate / 1e9:.1f} GFLOP/s, {share:.2f} of the rate of float32 matrix products")
    return {"training step / softmax head": to_softmax,
            "training step / trunk alone": ratio(times, "HIPE", "trunk alone"), "trunk / matrix products": share}


if __name__ == "__main__":
    with user_errors(), saved_tables("step"):
        main()

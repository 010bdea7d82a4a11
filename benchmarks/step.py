"""A joint training step of HIPE costs at most 1.03 times one of the same trunk under a pooled softmax head.

    python -m benchmarks.step [--batch_size 8] [--sample_size 112] [--repeats 10] [--device cpu] [--amp bf16]

HIPE is what main.py trains by default on UCF-101's tree: 3D-ResNet-18, 16 frames, 126 nodes of six prototypes (of ten
with --prototypes_per_node 10); its step is forward, all losses, backward and optimiser. The softmax head's step is
written out plainly below, with the same trunk, memory format, optimiser and input; beside it stands the trunk alone,
forward and backward, and what share of the machine's rate of float32 matrix products, measured here too, its arithmetic
reaches. All take turns in one process, so that a machine that slows down does so for all; of each turn the ratio is
taken, and of these the median. Only the ratio travels from one machine to another.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import HIPE
from options.errors import CommandLine, user_errors
from options.flags import parse_main
from options.resolve import resolve
from run.model import build_model, choose_device, fresh_embedding
from run.resume import check_tree
from training.engine import OPTIMIZERS, Phase, Trainer
from training.losses import LOSSES, LossWeights
from training.precision import Precision, choose_precision, prepare_device
from training.schedule import Step

GOAL = 1.03


def loss_weights(args: argparse.Namespace) -> LossWeights:
    """Of all losses, as main.py has them where there are class maps."""
    return LossWeights(**{name: getattr(args, f"{name}_weight") for name in LOSSES})


def make_trainer(args: argparse.Namespace, model: HIPE, precision: Precision) -> Trainer:
    """What main.py takes warm and joint steps and tunes with."""
    joint = Phase(args.optimizer, args.learning_rate, args.head_learning_rate, args.weight_decay, args.momentum,
                  score_rate=args.score_learning_rate)
    warm = Phase("adam", 0, args.warm_learning_rate, score_rate=args.warm_score_learning_rate)
    phases = {"joint": joint, "warm": warm,
              "tune": Phase("adam", 0, args.last_learning_rate)}
    return Trainer(model, phases, loss_weights(args), margin=args.separation_margin, focus=args.focus,
                   background=args.background, precision=precision)


def softmax_step(args: argparse.Namespace, trunk: nn.Module, n_classes: int, batch: dict,
                 precision: Precision) -> Callable[[], Tensor]:
    """A step of the trunk under mean pooling and a linear layer; the function returns the loss."""
    head = nn.Linear(trunk.out_channels, n_classes).to(batch["clip"].device)
    parameters = [*trunk.parameters(), *head.parameters()]
    group = {"params": parameters, "lr": args.learning_rate, "weight_decay": args.weight_decay}
    fused = True if batch["clip"].device.type == "cuda" else None
    optimizer = OPTIMIZERS[args.optimizer]([group], args.momentum, fused=fused)

    def step() -> Tensor:
        with precision.in_training():
            features = trunk(batch["clip"])
        loss = F.cross_entropy(head(features.float().mean((2, 3, 4))), batch["label"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()
    return step


def seconds(step: Callable[[], Tensor]) -> float:
    """How long a step takes until its loss is known, which waits for the device."""
    began = time.perf_counter()
    float(step())
    return time.perf_counter() - began


def trunk_pass(trunk: nn.Module, batch: dict, precision: Precision) -> Callable[[], Tensor]:
    """Forward and backward of the trunk and nothing else; the function returns a number of it."""
    def step() -> Tensor:
        with precision.in_training():
            total = trunk(batch["clip"]).float().sum()
        trunk.zero_grad(set_to_none=True)
        total.backward()
        return total.detach()
    return step


def in_turns(work: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, list[float]]:
    """The seconds of each of `repeats` turns, after one not counted, in which all do their work one after the other."""
    turns = [{name: seconds(step) for name, step in work.items()} for _ in range(repeats + 1)][1:]
    return {name: [turn[name] for turn in turns] for name in work}


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """The median over the turns of how much longer one takes than the other."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def table(times: dict[str, list[float]]) -> str:
    """Median and fastest seconds of each."""
    rows = [f"| {name} | {statistics.median(row):.4f} | {min(row):.4f} |" for name, row in times.items()]
    return "\n".join(["| what | median s | fastest s |", "| --- | --- | --- |", *rows])


class Bench:
    """What a benchmark works on: main.py's default model with fresh weights, and a batch of noise.

    Args:
        argv: the benchmark's flags, of which those that `parser` does not know are main.py's.
    """

    def __init__(self, parser: argparse.ArgumentParser, argv: list[str] | None, *, batch_size: int) -> None:
        parser.add_argument("--repeats", type=int, default=10, help="turns, after one not counted (default: 10)")
        self.own, others = parser.parse_known_args(argv)
        if self.own.repeats < 1:
            raise ValueError("--repeats must be at least 1")
        self.args, given = parse_main(["--batch_size", str(batch_size), *others])
        args = self.args
        resolve(args)
        if args.batch_size < 2:
            raise ValueError("--batch_size must be at least 2, for batch-norm")
        self.device = choose_device(args.device, args.no_cuda)
        prepare_device(self.device, deterministic=args.deterministic)
        self.precision = choose_precision(args.amp, self.device)
        torch.manual_seed(args.manual_seed)
        self.hierarchy = check_tree(args, given, None, None)
        self.embedding = fresh_embedding(args, self.hierarchy, cache=None)
        size = (args.batch_size, 3, args.sample_duration, args.sample_size, args.sample_size)
        clips = torch.randn(size, device=self.device).contiguous(memory_format=torch.channels_last_3d)
        self.batch = {"clip": clips, "label": torch.randint(self.hierarchy.n_leaves, size[:1], device=self.device),
                      "way": torch.randint(args.prototypes_per_node, size[:1])}

    def model(self) -> HIPE:
        """Another model."""
        model = build_model(self.args, self.hierarchy, *self.embedding).to(self.device).train()
        if self.args.compile:
            model.trunk.compile()
        return model

    def __str__(self) -> str:
        size = " x ".join(map(str, self.batch["clip"].shape[2:]))
        return (f"{self.args.batch_size} clips of {size}, {self.device}, {torch.get_num_threads()} threads, training "
                f"in {self.precision.training or torch.float32}")


def matrix_rate(device: torch.device, repeats: int = 5, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of the fastest of a few products of matrices that fill the device."""
    n = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n ** 3 / min(seconds(lambda: (one @ other)[0, 0]) for _ in range(repeats))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print what takes how long; the ratios by name."""
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
    found = ratio(times, "HIPE", "softmax")
    print(f"{bench}, {len(model.prototype_layer.node_of)} prototypes\n\n{table(times)}\n\n"
          f"ratio {found:.3f} (in {bench.own.repeats} turns; goal: at most {GOAL})\n"
          f"trunk alone: {rate / 1e9:.1f} GFLOP/s, {share:.2f} of the rate of float32 matrix products")
    return {"training step / softmax head": found, "training step / trunk alone": ratio(times, "HIPE", "trunk alone"),
            "trunk / matrix products": share}


if __name__ == "__main__":
    with user_errors():
        main()

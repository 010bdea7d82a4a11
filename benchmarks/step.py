"""A joint training step of HIPE costs at most 1.05 times one of the same trunk under a pooled softmax head.

    python -m benchmarks.step [--batch_size 8] [--sample_size 112] [--repeats 10] [--device cpu]

HIPE is what main.py trains by default on UCF-101's tree: 3D-ResNet-18, 16 frames, 126 nodes of ten prototypes; its step
is forward, all losses, backward and optimiser. The softmax head's step is written out plainly below, with the same
trunk, memory format, optimiser and input. Both take turns in one process, so that a machine that slows down does so for
both; of each turn the ratio is taken, and of these the median. Only the ratio travels from one machine to another.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import build
from models import HIPE
from options import parse_main, resolve
from training.engine import OPTIMIZERS, LossWeights, Phase, Trainer
from training.schedule import Step
from util_scripts.errors import user_errors

GOAL = 1.05
WEIGHT_NAMES = ("ce", "cluster", "separation", "background", "coverage", "group", "orthogonality", "sharing")


def hipe_step(args: argparse.Namespace, model: HIPE, batch: dict) -> Callable[[], Tensor]:
    """A joint step as main.py takes it; the function returns the loss."""
    phase = Phase(args.optimizer, args.learning_rate, args.head_learning_rate, args.weight_decay, args.momentum)
    trainer = Trainer(model, {"joint": phase}, LossWeights(**{n: getattr(args, f"{n}_weight") for n in WEIGHT_NAMES}),
                      margin=args.separation_margin, focus=args.focus, background=args.background)
    return lambda: trainer.step(Step("joint", 1, 0), 0.0, batch)["loss"]


def softmax_step(args: argparse.Namespace, trunk: nn.Module, n_classes: int, batch: dict) -> Callable[[], Tensor]:
    """A step of the trunk under mean pooling and a linear layer; the function returns the loss."""
    head = nn.Linear(trunk.out_channels, n_classes).to(batch["clip"].device)
    parameters = [*trunk.parameters(), *head.parameters()]
    group = {"params": parameters, "lr": args.learning_rate, "weight_decay": args.weight_decay}
    optimizer = OPTIMIZERS[args.optimizer]([group], args.momentum)

    def step() -> Tensor:
        loss = F.cross_entropy(head(trunk(batch["clip"]).mean((2, 3, 4))), batch["label"])
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=8, help="clips a step (default: 8)")
    parser.add_argument("--sample_size", type=int, default=112, help="pixels of a clip, high and wide (default: 112)")
    parser.add_argument("--repeats", type=int, default=10, help="turns, after one not counted (default: 10)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    own = parser.parse_args()
    if own.batch_size < 2 or own.repeats < 1:
        raise ValueError("--batch_size must be at least 2, for batch-norm, and --repeats at least 1")
    args, _ = parse_main(["--sample_size", str(own.sample_size)])
    resolve(args)
    device = build.choose_device(own.device, no_cuda=False)
    torch.manual_seed(args.manual_seed)
    hierarchy = build.check_tree(args, set(), None, None)
    points, c = build.fresh_embedding(args, hierarchy, cache=None)
    model, other = (build.build_model(args, hierarchy, points, c).to(device).train() for _ in range(2))
    clips = torch.randn(own.batch_size, 3, args.sample_duration, args.sample_size, args.sample_size, device=device)
    batch = {"clip": clips.contiguous(memory_format=torch.channels_last_3d),
             "label": torch.randint(hierarchy.n_leaves, (own.batch_size,), device=device)}
    steps = {"HIPE": hipe_step(args, model, batch),
             "softmax": softmax_step(args, other.trunk, hierarchy.n_leaves, batch)}
    turns = [{name: seconds(step) for name, step in steps.items()} for _ in range(own.repeats + 1)][1:]
    ratios = sorted(turn["HIPE"] / turn["softmax"] for turn in turns)
    print(f"{own.batch_size} clips of {args.sample_duration} x {args.sample_size} x {args.sample_size}, "
          f"{len(model.prototype_layer.node_of)} prototypes, {device}, {torch.get_num_threads()} threads\n")
    print("| step | median s | fastest s |\n| --- | --- | --- |")
    for name in steps:
        times = [turn[name] for turn in turns]
        print(f"| {name} | {statistics.median(times):.4f} | {min(times):.4f} |")
    print(f"\nratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f} in {own.repeats} turns; "
          f"goal: at most {GOAL})")


if __name__ == "__main__":
    with user_errors():
        main()

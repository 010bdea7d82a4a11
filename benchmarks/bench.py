"""The default model on a batch of noise, and the steps that benchmarks take with it; itself no benchmark."""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.turns import seconds
from models import HIPE
from options.flags import parse_main
from run.model import build_model, choose_device, fresh_embedding
from run.resume import fresh
from training.engine import OPTIMIZERS, Phase, Trainer
from training.losses import LossWeights
from training.precision import Precision, choose_precision, prepare_device

WEIGHT_NAMES = ("ce", "cluster", "separation", "background", "coverage", "group", "orthogonality", "sharing",
                "batch_ce", "l1", "ways", "even", "pooled")


def loss_weights(args: argparse.Namespace) -> LossWeights:
    """Weights of all losses, as of main.py where there are class maps."""
    return LossWeights(**{name: getattr(args, f"{name}_weight") for name in WEIGHT_NAMES},
                       level_ce=args.level_ce_weight if any(args.level_ce_weight) else 0.0)


def make_trainer(args: argparse.Namespace, model: HIPE, precision: Precision) -> Trainer:
    """A trainer for warm and joint steps and for tuning, as main.py's."""
    joint = Phase(args.optimizer, args.learning_rate, args.head_learning_rate, args.weight_decay, args.momentum,
                  score_rate=args.score_learning_rate)
    warm = Phase("adam", 0, args.warm_learning_rate, score_rate=args.warm_score_learning_rate)
    phases = {"joint": joint, "warm": warm,
              "tune": Phase("adam", 0, args.last_learning_rate)}
    return Trainer(model, phases, loss_weights(args), margin=args.separation_margin, focus=args.focus,
                   background=args.background, precision=precision)


def softmax_step(args: argparse.Namespace, trunk: nn.Module, n_classes: int, batch: dict,
                 precision: Precision) -> Callable[[], Tensor]:
    """A training step of the trunk under mean pooling and a linear layer, as a function that returns the loss."""
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


def trunk_pass(trunk: nn.Module, batch: dict, precision: Precision) -> Callable[[], Tensor]:
    """Forward and backward of the trunk alone, as a function that returns a number of the output."""
    def step() -> Tensor:
        with precision.in_training():
            total = trunk(batch["clip"]).float().sum()
        trunk.zero_grad(set_to_none=True)
        total.backward()
        return total.detach()
    return step


class Bench:
    """main.py's default model with fresh weights, and a batch of noise.

    Args:
        parser: of the benchmark's own flags. argv: all flags; the others are main.py's. batch_size: the default.
    """

    def __init__(self, parser: argparse.ArgumentParser, argv: list[str] | None, *, batch_size: int) -> None:
        parser.add_argument("--repeats", type=int, default=10, help="turns, after one not counted (default: 10)")
        self.own, others = parser.parse_known_args(argv)
        if self.own.repeats < 1:
            raise ValueError("--repeats must be at least 1")
        args, _ = parse_main(["--batch_size", str(batch_size), *others])
        self.args, self.hierarchy = fresh(args)
        args = self.args
        if args.batch_size < 2:
            raise ValueError("--batch_size must be at least 2, for batch-norm")
        self.device = choose_device(args.device, args.no_cuda)
        prepare_device(self.device, deterministic=args.deterministic)
        self.precision = choose_precision(args.amp, self.device)
        torch.manual_seed(args.manual_seed)
        self.embedding = fresh_embedding(args, self.hierarchy, cache=None)
        size = (args.batch_size, 3, args.sample_duration, args.sample_size, args.sample_size)
        clips = torch.randn(size, device=self.device).contiguous(memory_format=torch.channels_last_3d)
        self.batch = {"clip": clips, "label": torch.randint(self.hierarchy.n_leaves, size[:1], device=self.device),
                      "way": torch.randint(args.prototypes_per_node, size[:1])}

    def model(self) -> HIPE:
        """A new model with fresh weights."""
        model = build_model(self.args, self.hierarchy, *self.embedding).to(self.device).train()
        if self.args.compile:
            model.trunk.compile()
        return model

    def __str__(self) -> str:
        size = " x ".join(map(str, self.batch["clip"].shape[2:]))
        return (f"{self.args.batch_size} clips of {size}, {self.device}, {torch.get_num_threads()} threads, training "
                f"in {self.precision.training or torch.float32}")


def matrix_rate(device: torch.device, repeats: int = 5, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of the fastest of a few products of large matrices."""
    n = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n ** 3 / min(seconds(lambda: (one @ other)[0, 0]) for _ in range(repeats))

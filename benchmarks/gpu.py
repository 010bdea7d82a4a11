"""Clips a second of training and inference on a GPU, and the errors of its half precision.

    python -m benchmarks.gpu [--depths 18 50] [--batch_size 128] [--repeats 5] [--no_compile]

Training and inference as main.py does them on a GPU (bf16, channels last), and with --compile, beside the same trunk
under a pooled softmax head in plain PyTorch: float32, TF32 and bf16, in PyTorch's own memory format and without
cuDNN's search for algorithms. All ways of a depth take turns. The share is the trunk's arithmetic over the card's rate
of bf16 matrix products, measured here too. Then every kind of convolution of those trunks, and one
whose input has more than 2^31 elements, is computed in bf16 and in float32: the error of output, input gradient and
weight gradient, relative to their norms.
"""

import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.bench import Bench, make_trainer, matrix_rate, softmax_step
from benchmarks.machine import versions
from benchmarks.tables import saved_tables
from benchmarks.turns import in_turns
from models import HIPE
from options.errors import CommandLine, user_errors
from training.precision import Precision
from training.schedule import Step

BF16 = torch.bfloat16
TOLERANCE = 0.02  # of a relative error


@contextlib.contextmanager
def plain_pytorch(*, tf32: bool) -> Iterator[None]:
    """PyTorch without cuDNN's search for algorithms, and with TF32 or without."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark = tf32, tf32, False
    try:
        yield
    finally:
        cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark = before


def plainly(bench: Bench) -> tuple[HIPE, dict]:
    """A model and a batch in PyTorch's own memory format."""
    return (bench.model().to(memory_format=torch.contiguous_format),
            {**bench.batch, "clip": bench.batch["clip"].contiguous()})


def rounded(work: Callable[[], Tensor], allowed: bool) -> Callable[[], Tensor]:
    """The same work in plain PyTorch, with TF32 or without."""
    def run() -> Tensor:
        with plain_pytorch(tf32=allowed):
            return work()
    return run


def trainings(bench: Bench, *, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """A training step in every way; each returns its loss."""
    n_classes, half = bench.hierarchy.n_leaves, Precision(bench.device, BF16, BF16)
    work = {}
    for name, precision, allowed in (("plain float32", Precision(bench.device), False),
                                     ("plain TF32", Precision(bench.device), True), ("plain bf16", half, False)):
        model, batch = plainly(bench)
        work[name] = rounded(softmax_step(bench.args, model.trunk, n_classes, batch, precision), allowed)
    work["softmax head, bf16, channels last"] = softmax_step(bench.args, bench.model().trunk, n_classes, bench.batch,
                                                             half)
    for name in ("HIPE", "HIPE --compile")[:1 + compiled]:
        model = bench.model()
        if name != "HIPE":
            model.trunk.compile()
        trainer = make_trainer(bench.args, model, half)
        work[name] = lambda trainer=trainer: trainer.step(Step("joint", 1, 0), 0.0, bench.batch)["loss"]
    return work


def inferences(bench: Bench, *, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """A forward pass in every way; each returns a number of it."""
    half = Precision(bench.device, inference=BF16)

    def forward(model: nn.Module, clips: Tensor, precision: Precision) -> Callable[[], Tensor]:
        @torch.no_grad()
        def run() -> Tensor:
            with precision.in_inference():
                out = model(clips)
            return out.log_probs[0, 0] if isinstance(model, HIPE) else out.float().mean()
        return run

    work = {}
    for name, precision, allowed in (("plain float32", Precision(bench.device), False),
                                     ("plain TF32", Precision(bench.device), True), ("plain bf16", half, False)):
        model, batch = plainly(bench)
        work[name] = rounded(forward(model.trunk.eval(), batch["clip"], precision), allowed)
    work["trunk, bf16, channels last"] = forward(bench.model().trunk.eval(), bench.batch["clip"], half)
    for name in ("HIPE", "HIPE --compile")[:1 + compiled]:
        model = bench.model().eval()
        if name != "HIPE":
            model.trunk.compile()
        work[name] = forward(model, bench.batch["clip"], half)
    return work


def table(what: str, work: dict[str, Callable[[], Tensor]], bench: Bench, flops: float,
          peak: float) -> dict[str, float]:
    """Print clips a second, the same over plain float32, share of the matrix rate, and peak memory of a turn.

    Returns clips a second by way.
    """
    memory = {}
    for name, step in work.items():  # the first call includes cuDNN's search
        step()
        torch.cuda.reset_peak_memory_stats(bench.device)
        step()
        memory[name] = torch.cuda.max_memory_allocated(bench.device) / 1e9
    times = {name: statistics.median(row) for name, row in in_turns(work, bench.own.repeats).items()}
    n = bench.args.batch_size
    print(f"\n3D-ResNet-{bench.args.model_depth}, {what}, {n} clips\n\n| way | clips a second | times plain float32 | "
          "share of the bf16 matrix rate | GB |\n| --- | --- | --- | --- | --- |")
    for name, seconds in times.items():
        print(f"| {name} | {n / seconds:.0f} | {times['plain float32'] / seconds:.2f} | "
              f"{flops / seconds / peak:.3f} | {memory[name]:.1f} |", flush=True)
    return {f"3D-ResNet-{bench.args.model_depth}, {what}, {name}, clips/s": n / seconds
            for name, seconds in times.items()}


def convolutions(bench: Bench) -> dict[tuple, tuple[nn.Conv3d, torch.Size]]:
    """Every kind of convolution of the trunk on the whole batch, by the shapes of weight and input."""
    kinds = {}

    def note(module: nn.Conv3d, inputs: tuple[Tensor, ...]) -> None:
        kinds.setdefault((module.weight.shape, module.stride, inputs[0].shape), (module, inputs[0].shape))

    trunk = bench.model().trunk
    hooks = [module.register_forward_pre_hook(note) for module in trunk.modules() if isinstance(module, nn.Conv3d)]
    with torch.no_grad():
        trunk(bench.batch["clip"])
    for hook in hooks:
        hook.remove()
    return kinds


def errors(weight: Tensor, size: torch.Size, **options: tuple) -> list[float]:
    """Relative errors of output, input gradient and weight gradient in bf16, for inputs and gradients of noise.

    Both precisions see the same numbers, which bf16 holds exactly.
    """
    def noise(shape: torch.Size) -> Tensor:
        made = torch.randn(shape, device=weight.device, dtype=BF16)
        return made.contiguous(memory_format=torch.channels_last_3d)

    clips, weight = noise(size), weight.detach().to(BF16)
    results = []
    probe = None
    for dtype in (torch.float32, BF16):
        leaves = [clips.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
        out = F.conv3d(*leaves, **options)
        probe = noise(out.shape) if probe is None else probe
        gradients = torch.autograd.grad(out, leaves, probe.to(dtype))
        results.append([out.detach(), *gradients])
        del leaves, out, gradients
    return [float((half.float() - full.float()).norm() / full.float().norm())
            for full, half in zip(*results, strict=True)]


def parity(bench: Bench) -> float:
    """Print the largest errors of bf16 convolutions over all kinds; returns the largest of these."""
    kinds = [(f"{bench.args.model_depth}: {tuple(module.weight.shape)}, stride {module.stride}, input {tuple(size)}",
              module.weight, size, {"stride": module.stride, "padding": module.padding, "groups": module.groups})
             for module, size in convolutions(bench).values()]
    if bench.args.model_depth == 18:
        n = 2 ** 31 // (64 * 16 * 28 * 28) + 1
        kinds.append((f"more than 2^31 elements: (64, 64, 3, 3, 3), input ({n}, 64, 16, 28, 28)",
                      torch.randn(64, 64, 3, 3, 3, device=bench.device) / 41, torch.Size((n, 64, 16, 28, 28)),
                      {"padding": 1}))
    rows = {}
    with plain_pytorch(tf32=False):
        for name, weight, size, options in kinds:
            try:
                rows[name] = errors(weight, size, **options)
            except torch.OutOfMemoryError:
                print(f"| {name} | not enough memory | | |")
            torch.cuda.empty_cache()
    print(f"\nbf16 against float32, {len(rows)} kinds of convolution; the largest error of each, and where\n\n"
          "| of | error | where |\n| --- | --- | --- |")
    for i, of in enumerate(("output", "input gradient", "weight gradient")):
        where = max(rows, key=lambda name: rows[name][i] if rows[name][i] == rows[name][i] else float("inf"))
        print(f"| {of} | {rows[where][i]:.1e} | {where} |")
    worst = max(error if error == error else float("inf") for row in rows.values() for error in row)
    wrong = [name for name, row in rows.items() if not max(row) <= TOLERANCE]
    print(f"wrong by more than {TOLERANCE}: {'; '.join(wrong) or 'none'}", flush=True)
    return worst


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print all tables; clips a second by way, and the largest error of a bf16 convolution by depth.

    Raises:
        ValueError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("benchmarks.gpu needs a CUDA GPU; benchmarks.step and benchmarks.inference run on a CPU")
    parser = CommandLine(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's.")
    parser.add_argument("--depths", type=int, nargs="+", default=[18, 50], help="of 3D-ResNets (default: 18 50)")
    parser.add_argument("--no_compile", action="store_true", help="leave out what --compile does")
    own, others = parser.parse_known_args(argv)
    figures: dict[str, float] = {}
    peak = 0.0
    for depth in own.depths:
        flags = [*others, "--model_depth", str(depth)]
        bench = Bench(CommandLine(allow_abbrev=False), flags, batch_size=128)
        if not peak:
            with plain_pytorch(tf32=False):
                single = matrix_rate(bench.device)
            peak = matrix_rate(bench.device, dtype=BF16)
            print(f"{versions(no_cuda=False)}; "
                  f"matrix products: {peak / 1e12:.0f} TFLOP/s in bf16, "
                  f"{single / 1e12:.0f} in float32")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            bench.model().trunk(bench.batch["clip"][:1])
        forward = counter.get_total_flops() * bench.args.batch_size
        figures |= table("training", trainings(bench, compiled=not own.no_compile), bench, 3 * forward, peak)
        torch.cuda.empty_cache()
        figures |= table("inference", inferences(bench, compiled=not own.no_compile), bench, forward, peak)
        torch.cuda.empty_cache()
        figures[f"bf16 error, 3D-ResNet-{depth}"] = parity(bench)
    return figures


if __name__ == "__main__":
    with user_errors(), saved_tables("gpu"):
        main()

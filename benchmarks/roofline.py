"""Where the time of a training step goes, what it should cost, and what other ways to compute convolutions bring.

    python -m benchmarks.roofline [--model_depth 18] [--batch_size 128] [--repeats 5] [--batches 64 256] [--no_compile]

Of main.py's default model on a batch of noise: the ten most expensive kernels of a step; each kind of convolution,
forward and both gradients, by every way of benchmarks/convolutions.py, beside what arithmetic and memory allow on this
device, whose rates of matrix products and of copies are measured first; then whole steps with the fastest ways,
compiled and with other batch sizes, HIPE beside the softmax head, and the error of their gradients against float32.
On a GPU in bf16 and channels last, on a CPU in float32.
"""

import copy
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.bench import Bench, make_trainer, matrix_rate, softmax_step
from benchmarks.convolutions import WAYS, Kind, fitting, kinds_of, use
from benchmarks.tables import saved_tables
from benchmarks.turns import in_turns, ratio, seconds
from models import HIPE
from options.errors import CommandLine, user_errors
from options.ranges import COUNT
from training.precision import Precision
from training.schedule import Step

GROUPS = {"convolution": ("conv", "wgrad", "dgrad", "fprop", "xmma", "cudnn", "implicit"),
          "batch-norm": ("batch_norm", "bn_", "batchnorm"), "matrix product": ("gemm", "mm", "cutlass"),
          "optimiser": ("adam", "multi_tensor", "sgd"), "copy": ("copy", "memcpy", "nchw", "nhwc", "memset", "contig"),
          "elementwise": ("elementwise", "relu", "threshold", "add", "mul", "reduce", "pool", "fill", "exp", "softmax")}
PASSES = ("forward", "input gradient", "weight gradient")


def group_of(kernel: str) -> str:
    """The kind of work of a kernel, by its name."""
    return next((name for name, signs in GROUPS.items() if any(sign in kernel.lower() for sign in signs)), "other")


def copy_rate(device: torch.device, repeats: int = 5) -> float:
    """Bytes a second, read and written, of the fastest of a few copies of a large tensor."""
    one = torch.ones(2 ** (28 if device.type == "cuda" else 23), device=device)
    other = torch.empty_like(one)
    return 2 * one.nbytes / min(seconds(lambda: other.copy_(one)[0]) for _ in range(repeats))


def hipe_step(bench: Bench, model: HIPE) -> Callable[[], Tensor]:
    """A joint training step as a function that returns the loss."""
    trainer = make_trainer(bench.args, model, bench.precision)
    return lambda: trainer.step(Step("joint", 1, 0), 0.0, bench.batch)["loss"]


def kernels(step: Callable[[], Tensor], device: torch.device) -> dict[str, tuple[int, float]]:
    """Calls and milliseconds of every kernel of a step, the most expensive first."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    float(step())
    with profile(activities=activities) as record:
        float(step())
    times = {}
    for event in record.key_averages():
        if on_gpu and event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        times[event.key] = (event.count, spent / 1e3)
    return dict(sorted(times.items(), key=lambda item: -item[1][1]))


def print_kernels(times: dict[str, tuple[int, float]]) -> None:
    """The ten most expensive, and the sums of each group."""
    total = sum(ms for _, ms in times.values())
    print(f"\nKernels of a training step, {total:.1f} ms in all\n\n| kernel | kind of work | calls | ms | share |\n"
          "| --- | --- | --- | --- | --- |")
    for name, (calls, ms) in list(times.items())[:10]:
        print(f"| {name[:90].replace('|', '/')} | {group_of(name)} | {calls} | {ms:.2f} | {ms / total:.3f} |")
    sums: dict[str, float] = {}
    for name, (_, ms) in times.items():
        sums[group_of(name)] = sums.get(group_of(name), 0.0) + ms
    print("\n| kind of work | ms | share |\n| --- | --- | --- |")
    for name, ms in sorted(sums.items(), key=lambda item: -item[1]):
        print(f"| {name} | {ms:.2f} | {ms / total:.3f} |", flush=True)


def passes_of(kind: Kind, way: str, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """Forward and both gradients of a kind of convolution by a way, on noise."""
    compute, _ = WAYS[way]
    x, weight = (torch.randn(size, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
                 for size in (kind.size, kind.weight))
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    outs = (compute(leaves[0], weight, kind.stride, kind.padding), compute(x, leaves[1], kind.stride, kind.padding))
    noise = torch.randn_like(outs[0])

    def forward() -> Tensor:
        with torch.no_grad():
            return compute(x, weight, kind.stride, kind.padding).flatten()[0]

    def gradient(i: int) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(outs[i], leaves[i], noise, retain_graph=True)[0].flatten()[0]
    return dict(zip(PASSES, (forward, gradient(0), gradient(1)), strict=True))


def times_of(kind: Kind, dtype: torch.dtype, device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each pass by every way that fits, and that this device can do."""
    times: dict[str, dict[str, float]] = {}
    for way in fitting(kind):
        try:
            work = passes_of(kind, way, dtype, device)
            times[way] = {name: 1e3 * statistics.median(row) for name, row in in_turns(work, repeats).items()}
        except (RuntimeError, NotImplementedError) as error:
            print(f"{kind}, {way}: {str(error).splitlines()[0]}", file=sys.stderr)
    return times


def measure_convolutions(kinds: dict[Kind, list], bench: Bench, peak: float, bandwidth: float) -> dict[Kind, str]:
    """Print what each kind costs and should cost; returns the fastest way of each kind, over all passes."""
    dtype = bench.precision.training or torch.float32
    print(f"\nConvolutions of a step in {dtype}: ms of all of a kind, today, by the fastest way, and at least (the "
          "larger of arithmetic and memory)\n\n| kind | how many | pass | today | fastest way | ms | at least |\n"
          "| --- | --- | --- | --- | --- | --- | --- |")
    chosen, today, fastest, least = {}, 0.0, 0.0, 0.0
    for kind, modules in sorted(kinds.items(), key=lambda item: -item[0].flops * len(item[1])):
        times, n = times_of(kind, dtype, bench.device, bench.own.repeats), len(modules)
        chosen[kind] = min(times, key=lambda way: sum(times[way].values()))
        bound = 1e3 * max(kind.flops / peak, kind.bytes(dtype.itemsize) / bandwidth)
        for name in PASSES[:1] + PASSES[2:] if kind.weight[1] == 3 else PASSES:  # clips need no gradient
            way = min(times, key=lambda way: times[way][name])
            print(f"| {kind} | {n} | {name} | {n * times['direct'][name]:.3f} | {way} | {n * times[way][name]:.3f} | "
                  f"{n * bound:.3f} |", flush=True)
            today, fastest, least = (total + n * ms for total, ms in zip(
                (today, fastest, least), (times["direct"][name], times[chosen[kind]][name], bound), strict=True))
    print(f"\nAll convolutions: {today:.2f} ms today, {fastest:.2f} ms with one way for each kind, {least:.2f} ms at "
          "least")
    return chosen


def gradients_of(model: HIPE, clips: Tensor, precision: Precision) -> Tensor:
    """The gradient of all weights of the trunk for fixed output gradients, in one row."""
    with precision.in_training():
        out = model.trunk(clips)
    generator = torch.Generator(out.device).manual_seed(1)
    out.float().backward(torch.randn(out.shape, device=out.device, generator=generator))
    return torch.cat([weight.grad.float().flatten() for weight in model.trunk.parameters() if weight.grad is not None])


def variant(bench: Bench, state: dict[str, Tensor], chosen: dict[Kind, str], compiled: str | None) -> HIPE:
    """A model of these weights whose convolutions compute by the chosen ways, compiled in this mode or not."""
    model = bench.model()
    model.load_state_dict(state)
    use(kinds_of(model.trunk, bench.batch["clip"]), chosen)
    if compiled:
        model.trunk.compile(mode=compiled)
    return model


def measure_steps(bench: Bench, chosen: dict[Kind, str], flops: float, peak: float) -> dict[str, float]:
    """Print whole steps in every variant; returns clips a second, and the ratio to a softmax head, by variant."""
    state, n, clips = bench.model().state_dict(), bench.args.batch_size, bench.batch["clip"]
    variants = {"today": ({}, None), "fastest ways": (chosen, None), "compiled": ({}, "default"),
                "fastest ways, compiled": (chosen, "default"), "compiled, CUDA graphs": ({}, "reduce-overhead")}
    exact = gradients_of(variant(bench, state, {}, None), clips, Precision(bench.device))
    rates = {}
    print(f"\nWhole steps, {bench}\n\n| variant | clips/s | share of the matrix rate | HIPE / softmax head | "
          "error of gradients |\n| --- | --- | --- | --- | --- |")
    for name, (ways, compiled) in variants.items():
        if compiled and bench.own.no_compile:
            continue
        try:
            gradients = gradients_of(variant(bench, state, ways, compiled), clips, bench.precision)
            work = {"HIPE": hipe_step(bench, variant(bench, state, ways, compiled)),
                    "softmax": softmax_step(bench.args, variant(bench, state, ways, compiled).trunk,
                                            bench.hierarchy.n_leaves, bench.batch, bench.precision)}
            times = in_turns(work, bench.own.repeats)
        except RuntimeError as error:  # no memory, no compiler: the other variants are measured all the same
            print(f"| {name} | {str(error).splitlines()[0][:60]} | | | |", flush=True)
            continue
        rates[name] = n / statistics.median(times["HIPE"])
        rates[f"{name}, HIPE / softmax head"] = ratio(times, "HIPE", "softmax")
        print(f"| {name} | {rates[name]:.1f} | {flops * rates[name] / n / peak:.3f} | "
              f"{rates[f'{name}, HIPE / softmax head']:.3f} | {float((gradients - exact).norm() / exact.norm()):.1e} |",
              flush=True)
    return rates


def measure_batches(bench: Bench, sizes: list[int]) -> dict[str, float]:
    """Print and return clips a second of training with other batch sizes."""
    rates = {}
    for size in sizes:
        other = copy.copy(bench)
        other.batch = {name: values.repeat(-(-size // len(values)), *[1] * (values.dim() - 1))[:size]
                       for name, values in bench.batch.items()}
        other.batch["clip"] = other.batch["clip"].contiguous(memory_format=torch.channels_last_3d)
        times = in_turns({"HIPE": hipe_step(other, other.model())}, bench.own.repeats)["HIPE"]
        rates[f"batches of {size}"] = size / statistics.median(times)
        print(f"\nbatches of {size}: {rates[f'batches of {size}']:.1f} clips/s", flush=True)
    return rates


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print all tables; returns clips a second of training by variant."""
    parser = CommandLine(prog="python -m benchmarks.roofline", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's.")
    parser.add_argument("--no_compile", action="store_true", help="leave out what is compiled")
    parser.add_argument("--batches", type=COUNT, nargs="+", default=[], help="other batch sizes, too (default: none)")
    bench = Bench(parser, argv, batch_size=128 if torch.cuda.is_available() else 2)
    peak = matrix_rate(bench.device, dtype=bench.precision.training or torch.float32)
    bandwidth = copy_rate(bench.device)
    print(f"{bench}: matrix products {peak / 1e12:.2f} TFLOP/s, copies {bandwidth / 1e12:.3f} TB/s")
    print_kernels(kernels(hipe_step(bench, bench.model()), bench.device))
    kinds = kinds_of(bench.model().trunk, bench.batch["clip"])
    chosen = measure_convolutions(kinds, bench, peak, bandwidth)
    flops = 3 * sum(kind.flops * len(modules) for kind, modules in kinds.items())
    return measure_steps(bench, chosen, flops, peak) | measure_batches(bench, bench.own.batches)


if __name__ == "__main__":
    with user_errors(), saved_tables("roofline"):
        main()

"""What each trunk costs: parameters, operations, clips a second forward, and memory of a training step.

    python -m benchmarks.trunks [--models resnet i3d ...] [--batch_size 2] [--sample_size 112] [--no_time]

Parameters and operations (two a multiply-add) are exact and the same everywhere; --no_time prints only these. Every
trunk is measured in a process of its own with its default strides, on one kind of clip for all.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import build
from models import TRUNKS
from options import parse_main, resolve
from util_scripts.errors import user_errors


def operations(trunk: nn.Module, clips: torch.Tensor) -> int:
    """Floating-point operations of a forward pass: two a multiply-add of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trunk(clips)
    return counter.get_total_flops()


def seconds(work, device: torch.device) -> float:
    """How long something takes until the device is done with it."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def measure(name: str, depth: int | None, own: argparse.Namespace) -> dict:
    """The figures of one trunk."""
    line = ["--model", name, "--sample_size", str(own.sample_size), "--sample_duration", str(own.sample_duration)]
    args, _ = parse_main(line + (["--model_depth", str(depth)] if depth else []))
    resolve(args)
    device = build.choose_device(own.device, no_cuda=own.device is None and not torch.cuda.is_available())
    torch.manual_seed(args.manual_seed)
    trunk = build.build_trunk(args).eval()
    size = (3, args.sample_duration, args.sample_size, args.sample_size)
    found = {"parameters": sum(parameter.numel() for parameter in trunk.parameters()),
             "gflops": operations(trunk, torch.zeros(1, *size)) / 1e9}
    with torch.no_grad():
        found["grid"] = tuple(trunk(torch.zeros(1, *size)).shape[1:])
    if own.no_time:
        return found
    trunk = trunk.to(device, memory_format=torch.channels_last_3d)
    clips = torch.randn(own.batch_size, *size, device=device).contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        times = [seconds(lambda: trunk(clips), device) for _ in range(own.repeats + 1)][1:]
    found["clips_per_s"] = own.batch_size / statistics.median(times)
    trunk.train()(clips).square().mean().backward()
    if device.type == "cuda":
        found["megabytes"] = torch.cuda.max_memory_allocated(device) / 1e6
    else:
        found["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trunks", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=sorted(TRUNKS), choices=sorted(TRUNKS), help="(default: all)")
    parser.add_argument("--all_depths", action="store_true", help="every depth, not only each family's default")
    parser.add_argument("--batch_size", type=int, default=2, help="clips at a time (default: 2)")
    parser.add_argument("--sample_size", type=int, default=112, help="pixels of a clip, high and wide (default: 112)")
    parser.add_argument("--sample_duration", type=int, default=16, help="frames of a clip (default: 16)")
    parser.add_argument("--repeats", type=int, default=3, help="passes, after one not counted (default: 3)")
    parser.add_argument("--no_time", action="store_true", help="only what no machine changes")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    own = parser.parse_args()
    if min(own.batch_size, own.repeats) < 1:
        raise ValueError("--batch_size and --repeats must be at least 1")
    timed = "" if own.no_time else " clips/s, forward | MB, training step |"
    print(f"clips of {own.sample_duration} x {own.sample_size} x {own.sample_size}, batches of {own.batch_size}\n\n"
          f"| trunk | parameters, M | GFLOPs a clip | features |{timed}\n| --- | --- | --- | --- |"
          + ("" if own.no_time else " --- | --- |"))
    for name in own.models:
        depths = TRUNKS[name].depths if own.all_depths else ()
        for depth in depths or (None,):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(measure, name, depth, own).result()
            grid = " x ".join(map(str, found["grid"]))
            times = "" if own.no_time else f" {found['clips_per_s']:.2f} | {found['megabytes']:.0f} |"
            print(f"| {name}{'' if depth is None else f' {depth}'} | {found['parameters'] / 1e6:.2f} | "
                  f"{found['gflops']:.1f} | {grid} |{times}", flush=True)


if __name__ == "__main__":
    with user_errors():
        main()

"""Everything that needs a GPU, in under ten minutes, with a short table at the end.

    python -m benchmarks.card [--budget 560] [--only gpu roofline ...] [--out results/card] [--weizmann DIR]

Each part runs by itself with what is left of the budget, and its output is kept as OUT/PART.txt: a part that fails or
takes too long costs only itself. Parts: clips a second and errors of half precision (gpu), where a step's time goes and
what other convolutions bring (roofline), what a loader feeds (feeding), the tests that compare CPU and GPU (tests), the
layout that synchronised batch-norm leaves (syncbn), and runs of the demo's recipe and of Weizmann (demo, weizmann).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.machine import versions
from benchmarks.tables import saved_tables
from machine.writing import write_text
from options.errors import CommandLine, user_errors
from options.ranges import COUNT
from run.paths import HERE

ROOFLINE = ["--repeats", "3", "--batches", "64", "256"]


def syncbn(_: list[str]) -> dict[str, float]:
    """1 where synchronised batch-norm keeps channels last, in outputs and in gradients.

    Raises:
        ValueError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("PyTorch synchronises batch-norm on GPUs alone; leave out syncbn")
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    clips = torch.randn(4, 16, 4, 8, 8, device="cuda").contiguous(memory_format=torch.channels_last_3d)
    clips.requires_grad_()
    out = nn.SyncBatchNorm(16).to("cuda")(clips)
    out.backward(torch.randn_like(out))
    dist.destroy_process_group()
    return {f"synchronised batch-norm keeps channels last, {name}":
            float(values.is_contiguous(memory_format=torch.channels_last_3d))
            for name, values in (("outputs", out), ("gradients", clips.grad))}


def asked(module: str, words: list[str], out: Path, function: str = "main") -> list[str]:
    """The command of a benchmark whose figures are written to a JSON file."""
    code = (f"import json, sys; from benchmarks.{module} import {function}; from options.errors import user_errors\n"
            f"with user_errors(): figures = {function}(sys.argv[2:])\n"
            "from pathlib import Path; from machine.writing import write_text\n"
            "write_text(Path(sys.argv[1]), json.dumps({name: float(value) for name, value in figures.items()}))")
    return [sys.executable, "-c", code, str(out), *words]


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each part, which leaves its figures in OUT/PART.json where it has some."""
    device = ["--no_cuda"] if args.no_cuda else []
    small, compiled = args.flags.split(), ["--no_compile"] if args.no_compile else []

    def figures(name: str) -> Path:
        return args.out / f"{name}.json"

    parts = {"gpu": asked("gpu", ["--depths", "18", "--repeats", "3", "--no_compile", *small, *device], figures("gpu")),
             "roofline": asked("roofline", [*ROOFLINE, *small, *compiled, *device], figures("roofline")),
             "feeding": asked("feeding", [*small, *device], figures("feeding")),
             "tests": [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-k", "cuda or device",
                       "tests/test_precision.py"],
             "syncbn": asked("card", [], figures("syncbn"), "syncbn"),
             "demo": [sys.executable, "-m", "util_scripts.demo", str(args.out / "demo"), *device]}
    if args.weizmann:
        parts["weizmann"] = [sys.executable, "-m", "benchmarks.weizmann", "--data", str(args.weizmann.resolve()),
                             "--work", str(args.out / "weizmann_run"), "--seeds", "1"]
    return parts


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run all parts and print the table of their figures; returns them.

    Raises:
        ValueError: a part is not known.
    """
    parser = CommandLine(prog="python -m benchmarks.card", description=__doc__,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=COUNT, default=560, help="seconds for all parts (default: 560)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts (default: all)")
    parser.add_argument("--out", type=Path, default=Path("results/card"), help="folder to fill (default: results/card)")
    parser.add_argument("--weizmann", type=Path, help="folder of the Weizmann clips (default: that part is left out)")
    parser.add_argument("--flags", default="", metavar="'...'", help="more flags of gpu, roofline and feeding")
    parser.add_argument("--no_compile", action="store_true", help="leave out what is compiled")
    parser.add_argument("--no_cuda", action="store_true", help="run on the CPU what can")
    args = parser.parse_args(argv)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    parts, ends, figures = commands(args), time.monotonic() + args.budget, {}
    if unknown := [name for name in args.only or () if name not in parts]:
        raise ValueError(f"--only {unknown[0]}: is none of {', '.join(parts)}")
    rows = []
    for name in args.only or parts:
        left, began = ends - time.monotonic(), time.monotonic()
        (args.out / f"{name}.json").unlink(missing_ok=True)
        state = "no time left"
        if left > 0:
            try:
                done = subprocess.run(parts[name], cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      timeout=left)
                log, state = done.stdout, "done" if done.returncode == 0 else f"exit code {done.returncode}"
            except subprocess.TimeoutExpired as stop:
                log, state = stop.stdout or b"", "stopped, out of time"
            write_text(args.out / f"{name}.txt", log.decode(errors="replace"))
        rows.append((name, state, time.monotonic() - began))
        print(f"{name}: {state} after {rows[-1][2]:.0f} s", flush=True)
        if (args.out / f"{name}.json").is_file():
            figures |= {f"{name}: {of}": value for of, value in json.loads(
                (args.out / f"{name}.json").read_text()).items()}
    text = "\n".join([versions(no_cuda=args.no_cuda), "", "| figure | value |", "| --- | --- |",
                      *(f"| {name} | {value:.4g} |" for name, value in figures.items()), "",
                      "| part | end | seconds |", "| --- | --- | --- |",
                      *(f"| {name} | {state} | {seconds:.0f} |" for name, state, seconds in rows)])
    write_text(args.out / "card.md", text + "\n")
    print(f"\n{text}")
    return figures


if __name__ == "__main__":
    with user_errors(), saved_tables("card"):
        main()

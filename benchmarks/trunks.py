"""What each trunk costs: parameters, operations, clips a second forward, and memory of a training step.

    python -m benchmarks.trunks [--models resnet i3d ...] [--batch_size 2] [--sample_size 112] [--no_time]
    python -m benchmarks.trunks --models videomae vivit --usual --frozen --batch_size 1
    python -m benchmarks.trunks --docs

Parameters and operations (two a multiply-add) are exact and the same everywhere; --no_time prints only these. Every
trunk is measured in a process of its own with its default strides, on one kind of clip for all or, with --usual, on
clips such as its weights were published for. --frozen measures the memory of a forward pass alone. --docs measures
nothing: it writes the table of trunks in docs/TRUNKS.md anew, from what their classes state. --save adds to the rows
that a file has, or measures them anew; a table of other columns goes into a file beside it.
"""

import argparse
import importlib.util
import math
import multiprocessing
import re
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.machine import machine
from benchmarks.tables import saved_tables
from machine.writing import write_text
from models import TRUNKS
from options.errors import CommandLine, user_errors
from options.flags import parse_main
from options.resolve import resolve
from run.model import build_trunk, channels_last, check_size, choose_device

PAGE = Path(__file__).parents[1] / "docs" / "TRUNKS.md"
HEADER = ("| `--model` | depths | `--pretrain_path`: layouts of files | torchvision's networks, by name "
          "| published for clips of | cells in time, of 16 frames |")


def trunk_table() -> str:
    """The table of trunks of docs/TRUNKS.md: a line for each, of what its class states."""
    rows = [HEADER, "| --- | --- | --- | --- | --- | --- |"]
    stated = [option.flag for trunk in TRUNKS.values() for option in trunk.options.values()]
    for name, trunk in TRUNKS.items():
        size = (16, *[trunk.clip[1]] * 2)
        if hasattr(trunk, "stride"):  # needs no network, nor the library that it is from
            cells = trunk.cells(trunk, size)[0]
        else:
            with torch.device("meta"):
                cells = trunk().cells(size)[0]
        depths = [*map(str, trunk.depths)] if len(trunk.depths) > 1 else []
        own = [f"`--{option.flag}`" for option in trunk.options.values() if stated.count(option.flag) == 1]
        layouts = dict.fromkeys(layout.name for layout in trunk.layouts)
        named = list(trunk.torchvision_names.values()) or [trunk.torchvision_name] * bool(trunk.torchvision_name)
        clip = f"{trunk.clip[0]} x {trunk.clip[1]} x {trunk.clip[1]}"
        rows.append(f"| {' '.join([f'`{name}`', *own])} | {' '.join(depths)} | {', '.join(layouts)} | "
                    f"{' '.join(named)} | {clip} | {cells} |")
    return "".join(f"{' '.join(row.split())}\n" for row in rows)


def write_page() -> None:
    """Put the table into docs/TRUNKS.md, in place of the one that is there.

    Raises:
        ValueError: where there is none.
    """
    text = PAGE.read_text(encoding="utf-8")
    whole, n = re.subn(r"^\| `--model` \|.*\n(\|.*\n)*", lambda _: trunk_table(), text, flags=re.MULTILINE)
    if n != 1:
        raise ValueError(f"{PAGE}: holds {n} tables of trunks; there should be one, beginning with | `--model` |")
    write_text(PAGE, whole)


def exact(args: argparse.Namespace) -> dict:
    """What no machine changes, by shapes alone: parameters, operations a clip forward, shape of the features."""
    with torch.device("meta"):
        trunk = build_trunk(args).eval()
        clip = torch.empty(1, 3, args.sample_duration, args.sample_size, args.sample_size)
    check_size(trunk, tuple(clip.shape[2:]))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = trunk(clip)
    return {"parameters": sum(parameter.numel() for parameter in trunk.parameters()),
            "gflops": counter.get_total_flops() / 1e9, "grid": features.shape[1:]}


def buildable() -> list[str]:
    """The names of trunks whose library is here."""
    missing = importlib.util.find_spec("transformers") is None
    return [name for name in sorted(TRUNKS) if not (missing and TRUNKS[name].on_hub)]


def seconds(work, device: torch.device) -> float:
    """How long something takes until the device is done with it."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def flags(name: str, depth: int | None, own: argparse.Namespace) -> argparse.Namespace:
    """main.py's flags for a trunk, all others by default."""
    frames, pixels = TRUNKS[name].clip if own.usual else (own.sample_duration, own.sample_size)
    line = ["--model", name, "--sample_size", str(pixels), "--sample_duration", str(frames)]
    args, _ = parse_main(line + (["--model_depth", str(depth)] if depth else []))
    return resolve(args)


def measure(args: argparse.Namespace, own: argparse.Namespace) -> dict:
    """Clips a second forward, and the memory of a training step, or of what is frozen a forward pass; on a CPU, of the
    whole process at its peak."""
    device = choose_device(own.device, no_cuda=own.device is None and not torch.cuda.is_available())
    torch.manual_seed(args.manual_seed)
    trunk = build_trunk(args).eval()
    size = (3, args.sample_duration, args.sample_size, args.sample_size)
    trunk = channels_last(trunk).to(device)
    clips = torch.randn(own.batch_size, *size, device=device).contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        times = [seconds(lambda: trunk(clips), device) for _ in range(own.repeats + 1)][1:]
    found = {"clips_per_s": own.batch_size / statistics.median(times)}
    if not own.frozen:
        trunk.train()(clips).square().mean().backward()
    if device.type == "cuda":
        found["megabytes"] = torch.cuda.max_memory_allocated(device) / 1e6
    else:
        found["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return found


def main() -> None:
    parser = CommandLine(prog="python -m benchmarks.trunks", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=buildable(), choices=sorted(TRUNKS), help="(default: all)")
    parser.add_argument("--all_depths", action="store_true", help="every depth, not only each family's default")
    parser.add_argument("--batch_size", type=int, default=2, help="clips at a time (default: 2)")
    parser.add_argument("--sample_size", type=int, default=112, help="pixels of a clip, high and wide (default: 112)")
    parser.add_argument("--sample_duration", type=int, default=16, help="frames of a clip (default: 16)")
    parser.add_argument("--usual", action="store_true", help="each trunk on clips that its weights were published for")
    parser.add_argument("--frozen", action="store_true", help="memory of a forward pass, not of a training step")
    parser.add_argument("--repeats", type=int, default=3, help="passes, after one not counted (default: 3)")
    parser.add_argument("--no_time", action="store_true", help="only what no machine changes")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    parser.add_argument("--docs", action="store_true", help="only write the table of trunks in docs/TRUNKS.md")
    own = parser.parse_args()
    if own.docs:
        write_page()
        return
    if min(own.batch_size, own.repeats) < 1:
        raise ValueError("--batch_size and --repeats must be at least 1")
    timed = "" if own.no_time else (f" clips/s, forward, batches of {own.batch_size} | "
                                    f"MB, {'forward' if own.frozen else 'training step'} |")
    named = machine(no_cuda=own.device == "cpu")
    how = "" if own.no_time else f", batches of {own.batch_size}, {named}, torch {torch.__version__}"
    fresh = multiprocessing.get_context("forkserver")  # processes that have imported, and done, nothing more
    fresh.set_forkserver_preload(["run.model", "torchvision"])
    began = time.perf_counter()
    size = f"clips of {own.sample_duration} x {own.sample_size} x {own.sample_size}"
    print(f"{'their usual clips' if own.usual else size}{how}\n\n"
          f"| trunk | clip | parameters, M | GFLOPs a clip | features | cells |{timed}\n"
          "| --- | --- | --- | --- | --- | --- |" + ("" if own.no_time else " --- | --- |"))
    for name in own.models:
        depths = TRUNKS[name].depths if own.all_depths else ()
        for depth in depths or (None,):
            args, times = flags(name, depth, own), ""
            found = exact(args)
            if not own.no_time:  # in a process of its own, whose memory is no other trunk's
                with ProcessPoolExecutor(1, mp_context=fresh) as pool:
                    cost = pool.submit(measure, args, own).result()
                times = f" {cost['clips_per_s']:.2f} | {cost['megabytes']:.0f} |"
            grid = " x ".join(map(str, found["grid"]))
            layers = f" {args.model_depth}" if len(TRUNKS[name].depths) > 1 else ""
            clip = f"{args.sample_duration} x {args.sample_size} x {args.sample_size}"
            print(f"| {name}{layers} | {clip} | {found['parameters'] / 1e6:.2f} | {found['gflops']:.1f} | {grid} | "
                  f"{math.prod(found['grid'][1:])} |{times}", flush=True)
    print(f"\n{(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    with user_errors(), saved_tables("trunks", keys=2):
        main()

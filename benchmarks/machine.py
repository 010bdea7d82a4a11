"""The machine that a benchmark runs on; itself no benchmark."""

import platform
from pathlib import Path

import torch


def machine(*, no_cuda: bool) -> str:
    """Name of the GPU, or of the processor where there is none or `no_cuda`."""
    if torch.cuda.is_available() and not no_cuda:
        return torch.cuda.get_device_name()
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").is_file() else []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"

"""The machine that a benchmark runs on; itself no benchmark."""

import platform
import subprocess
from pathlib import Path

import torch


def machine(*, no_cuda: bool) -> str:
    """Name of the GPU, or of the processor where there is none or `no_cuda`."""
    if torch.cuda.is_available() and not no_cuda:
        return torch.cuda.get_device_name()
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").is_file() else []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def versions(*, no_cuda: bool) -> str:
    """The machine, and what its figures depend on: PyTorch, CUDA, cuDNN and the driver where there is a GPU."""
    parts = [machine(no_cuda=no_cuda), f"Python {platform.python_version()}", f"PyTorch {torch.__version__}"]
    if torch.cuda.is_available() and not no_cuda:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            driver = "unknown"
        parts += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}", f"driver {driver}"]
    return ", ".join(parts)

"""How precisely the trunk and the neck compute, and what the device may do to be fast."""

import contextlib
import os
import sys
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "none": None}


class Precision:
    """The type in which trunk and neck compute; distances, losses and scores are float32 always, and so is a push.

    Args:
        device: where. training, inference: of gradient steps and of evaluation; None for float32.
    Attributes:
        scaler: of the loss, where gradients would vanish in float16; None elsewhere.
    """

    def __init__(self, device: torch.device, training: torch.dtype | None = None,
                 inference: torch.dtype | None = None) -> None:
        self.device, self.training, self.inference = device, training, inference
        self.scaler = torch.amp.GradScaler(device.type) if training == torch.float16 else None

    def in_training(self) -> AbstractContextManager:
        """For the forward pass of a gradient step."""
        return self._autocast(self.training)

    def in_inference(self) -> AbstractContextManager:
        """For a forward pass of evaluation."""
        return self._autocast(self.inference)

    def _autocast(self, dtype: torch.dtype | None) -> AbstractContextManager:
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def choose_precision(mode: str | None, device: torch.device) -> Precision:
    """What --amp says; by default bf16 on a GPU that has it, and float32 elsewhere.

    Training falls back to float32, and says so, where the device is seen to compute wrong gradients.
    """
    if mode is None:
        has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        mode = "bf16" if has_it else "none"
    dtype = DTYPES[mode]
    right = dtype is None or right_gradients(device, dtype)
    if not right:
        print(f"{mode} weight gradients of 3D convolutions are wrong on this {device.type}: training in float32",
              file=sys.stderr)
    return Precision(device, dtype if right else None, dtype)


def right_gradients(device: torch.device, dtype: torch.dtype, tolerance: float = 0.02) -> bool:
    """Whether 3 x 3 x 3 convolutions in half precision have the weight gradients of float32; takes milliseconds.

    On some CPUs those of clips of two frames are wrong by as much as they are large, and nothing else is.

    Args:
        tolerance: of the error's norm, relative to the gradient's.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, 3, 3, 3, generator=generator).to(device)
    for frames in (1, 2, 4):
        clips, probe = (torch.randn(2, 64, frames, 7, 7, generator=generator).to(device).contiguous(
            memory_format=torch.channels_last_3d) for _ in range(2))
        gradients = []
        for enabled in (False, True):
            leaf = weight.clone().requires_grad_()
            with torch.autocast(device.type, dtype, enabled=enabled):
                out = F.conv3d(clips, leaf, padding=1)
            gradients += torch.autograd.grad((out.float() * probe).sum(), leaf)
        if not (gradients[1] - gradients[0]).norm() <= tolerance * gradients[0].norm():  # nor where it is NaN
            return False
    return True


def check_compiler(device: torch.device) -> None:
    """See that torch.compile has what it needs, which takes seconds the first time.

    Raises:
        ValueError: where it has not: a C++ compiler for a CPU, Triton for a GPU.
    """
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except Exception as error:  # each backend has its own
        why = str(error).strip().splitlines()[0]
        raise ValueError(f"--compile: PyTorch cannot compile here ({why}); install a C++ compiler, or leave the flag "
                         "out") from error


def prepare_device(device: torch.device, *, deterministic: bool) -> None:
    """Let cuDNN try which of its ways is the fastest, or have everything computed in the same way every time."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # what has no such way, as the gradient of max-pooling on a GPU, is warned of
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic

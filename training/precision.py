"""The floating-point type of trunk and neck, and how the device trades speed for determinism."""

import contextlib
import os
import sys
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "none": None}


class Precision:
    """The floating-point type of trunk and neck; distances, losses and scores are always float32.

    Args:
        device: where the model runs. training, inference: types of gradient steps and of evaluation; None for float32.
    Attributes:
        scaler: scales the loss of float16 training, whose gradients would vanish; None for other types.
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
    """The precision of --amp; by default bf16 on a GPU that supports it, and float32 elsewhere.

    Training falls back to float32, with a message, on a device that computes wrong gradients.
    """
    if mode is None:
        supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        mode = "bf16" if supported else "none"
    dtype = DTYPES[mode]
    right = dtype is None or right_gradients(device, dtype)
    if not right:
        print(f"{mode} weight gradients of 3D convolutions are wrong on this {device.type}: training in float32",
              file=sys.stderr)
    return Precision(device, dtype if right else None, dtype)


def right_gradients(device: torch.device, dtype: torch.dtype, tolerance: float = 0.02) -> bool:
    """Whether 3 x 3 x 3 convolutions in half precision have the weight gradients of float32; takes milliseconds.

    On some CPUs the gradients for clips of two frames are wrong by their own size; all others are right.

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
    """Check that torch.compile works here, which takes seconds the first time.

    Raises:
        ValueError: where it does not; it needs a C++ compiler for a CPU, Triton for a GPU.
    """
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except Exception as error:  # each backend raises its own type
        why = str(error).strip().splitlines()[0]
        raise ValueError(f"--compile: PyTorch cannot compile here ({why}); install a C++ compiler, or leave the flag "
                         "out") from error


def prepare_device(device: torch.device, *, deterministic: bool) -> None:
    """Let cuDNN choose its fastest algorithms by trial, or use deterministic algorithms everywhere."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # only warn where there is no deterministic algorithm, as for the gradient of max-pooling on a GPU
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic

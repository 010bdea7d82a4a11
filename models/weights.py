"""Published weights for trunks."""

from pathlib import Path

import torch
from torch import nn

HEADS = ("fc.", "classifier.")


def read_state(path: str | Path) -> dict:
    """Read a checkpoint file, of tensors and plain types only.

    Raises:
        FileNotFoundError, ValueError: naming the file, where there is none or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a truncated, foreign or unsafe file
        raise ValueError(f"{path}: cannot be read as a checkpoint of tensors and plain types; it may be truncated, or "
                         f"a pickle that must be saved again as a state dict ({type(error).__name__})") from error


def load_pretrained(trunk: nn.Module, path: str | Path) -> list[str]:
    """Load published weights (a `state_dict`, with or without `module.`) into a trunk; the head is dropped.

    Returns:
        the keys that were dropped.
    Raises:
        ValueError: naming the keys, where anything but the head is missing, unexpected or of another shape.
    """
    state = read_state(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds no weights; give the checkpoint of a trunk, with a state_dict")
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, torch.Tensor)}
    dropped = [key for key in state if key.startswith(HEADS)]
    state = {key: value for key, value in state.items() if key not in dropped}
    own = trunk.state_dict()
    # files older than PyTorch 0.4.1 lack the batch-norm counters, which no output depends on
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    reshaped = [f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}" for key in own
                if key in state and state[key].shape != own[key].shape]
    if missing or unexpected or reshaped:
        lists = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        problems = "; ".join(f"{len(keys)} {name}: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}"
                             for name, keys in lists if keys)
        raise ValueError(f"{path}: not the weights of this trunk: {problems}; check --model_depth, --resnet_shortcut, "
                         f"--resnet_widen_factor and --conv1_t_size")
    trunk.load_state_dict(state, strict=False)
    return dropped

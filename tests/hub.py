"""Networks of the transformers library, tiny and with random weights, in folders as the hub has them."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import TRUNKS
from models.hub_trunk import HubTrunk

if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs requirements-transformers.txt", allow_module_level=True)

FAMILIES = [name for name, trunk in TRUNKS.items() if trunk.on_hub]
CLASSES = {"videomae": "VideoMAEForVideoClassification", "vjepa2": "VJEPA2ForVideoClassification",
           "vivit": "VivitForVideoClassification", "timesformer": "TimesformerForVideoClassification"}


def library_network(name: str, sizes: dict | None = None, *, labels: list[str] | None = None,
                    kind: str = "", seed: int = 0) -> nn.Module:
    """The library's network with a head, in eval mode, all parameters drawn from a wide normal distribution.

    Args:
        sizes: of its configuration; by default tiny ones. labels: of the head. kind: another class of the library.
    """
    import transformers  # here, for it takes seconds

    transformers.logging.set_verbosity_error()
    kind = getattr(transformers, kind or CLASSES[name])
    sizes = json.loads(TRUNKS[name].small["config"]) if sizes is None else sizes
    if name == "vjepa2":
        sizes = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1} | sizes
    names = dict(enumerate(labels or ["LABEL_0", "LABEL_1", "LABEL_2"]))
    network = kind(kind.config_class(**sizes, id2label=names, label2id={label: i for i, label in names.items()})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 2 * parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3, generator=generator)
    return network


def published(folder: Path, name: str, sizes: dict | None = None, **options) -> nn.Module:
    """A network of the library, saved as the hub has it."""
    network = library_network(name, sizes, **options)
    network.save_pretrained(folder)
    return network


def last_hidden_state(network: nn.Module, trunk: HubTrunk, clips: Tensor) -> Tensor:
    """The library's tokens of clips (B, 3, T, H, W), rearranged cell by cell: (B, C, t, h, w)."""
    base = getattr(network, network.base_model_prefix, network)
    more = {"skip_predictor": True} if trunk.family == "vjepa2" else {}
    tokens = base(clips.transpose(1, 2), **more).last_hidden_state
    t, h, w = trunk.cells(clips.shape[2:])
    grid = torch.empty(len(clips), tokens.shape[2], t, h, w)
    for i in range(t):
        for j in range(h):
            for k in range(w):
                at = (j * w + k) * t + i if trunk.family == "timesformer" else (i * h + j) * w + k
                grid[:, :, i, j, k] = tokens[:, at + trunk.class_tokens]
    return grid

"""Parts of the transformers library as trunks use them: networks by their configuration, SDPA attention that can be
watched, rotary positions of any grid. The only module that imports the library."""

import textwrap
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import TimesformerConfig, VideoMAEConfig, VivitConfig, VJEPA2Config
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.timesformer.modeling_timesformer import TimesformerModel, TimesformerSelfAttention
from transformers.models.videomae.modeling_videomae import VideoMAEModel, VideoMAESelfAttention
from transformers.models.vivit.modeling_vivit import VivitAttention, VivitModel
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2AttentivePooler, VJEPA2Model, VJEPA2RopeAttention

from models.attention import Attended

__all__ = ["ATTENTION_LAYERS", "VJEPA2AttentivePooler", "network_of", "rotation_of"]

ATTENTION = "hipe_sdpa"  # its name among the library's attention functions


def _sdpa(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
          **options: object) -> tuple[Tensor, None]:
    """The library's SDPA, told to whoever watches the layer."""
    watch = getattr(module, "watch", None)
    if watch is not None:
        watch.attended.append(Attended(query.detach(), key.detach(), options.get("scaling") or query.shape[-1] ** -0.5))
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _sdpa)


class SelfAttention(TimesformerSelfAttention):
    """TimeSformer's attention, of which the library has no SDPA: (S, N, C) -> (S, N, C)."""

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor]:
        query, key, value = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        watch = getattr(self, "watch", None)
        if watch is not None:
            watch.attended.append(Attended(query.detach(), key.detach(), self.scale))
        dropout = self.attn_drop.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=self.scale)
        return (mixed.transpose(1, 2).flatten(2),)


class RotaryAttention(VJEPA2RopeAttention):
    """V-JEPA 2's attention, which turns queries and keys by what `rotation_of` gives in place of position numbers: that
    knows grids of any size, is computed once for all layers, and stays in float32."""

    def get_position_ids(self, x: Tensor, masks: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        return masks

    def apply_rotary_embeddings(self, qk: Tensor, pos_ids: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = pos_ids
        x = qk.float()
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        return (x * cos + torch.stack((-second, first), -1).flatten(-2) * sin).to(qk.dtype)


ATTENTION_LAYERS = (SelfAttention, RotaryAttention, VideoMAESelfAttention, VivitAttention)


def rotation_of(grid: tuple[int, int, int], usual: tuple[int, int], width: int,
                device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of V-JEPA 2's rotary positions (Assran et al., 2025), each (t h w, width) in float32.

    A third of a head's channels, rounded down to an even number, turns by each of frame, row and column; channel i of
    these by position / 10000^(2 i / n), the two halves alike. Rows and columns of another grid than the usual one are
    interpolated: they span the same; frames count from 0 as ever.

    Args:
        usual: rows and columns of the grid that the weights were trained on. width: channels of a head.
    """
    n = 2 * (width // 3 // 2)
    rates = 10000.0 ** -(torch.arange(n // 2, device=device, dtype=torch.float32) / (n / 2))
    t, h, w = grid
    along = [torch.arange(size, device=device, dtype=torch.float32) * scale
             for size, scale in ((t, 1.0), (h, usual[0] / h), (w, usual[1] / w))]
    places = torch.stack(torch.meshgrid(*along, indexing="ij"), -1).flatten(0, 2)  # (t h w, 3)
    angles = (places[:, :, None] * rates).repeat(1, 1, 2).flatten(1)
    angles = F.pad(angles, (0, width - angles.shape[1]))  # channels that are left do not turn
    return angles.cos(), angles.sin()


CONFIGS = {"videomae": VideoMAEConfig, "vjepa2": VJEPA2Config, "vivit": VivitConfig, "timesformer": TimesformerConfig}
_NETWORKS = {"videomae": VideoMAEModel, "vjepa2": VJEPA2Model, "timesformer": TimesformerModel,
             "vivit": lambda config: VivitModel(config, add_pooling_layer=False)}
# what costs time and is not used: a table of positions in a loop, and a predictor
_SPARED = {"videomae": ("image_size", "num_frames"), "vjepa2": ("pred_num_hidden_layers",)}


def network_of(family: str, sizes: Mapping[str, object]) -> tuple[nn.Module, object]:
    """A fresh network of the library, with SDPA that can be watched, and its configuration.

    Args:
        family: "videomae", "vjepa2", "vivit" or "timesformer". sizes: of its configuration, where they differ from the
            library's defaults.
    Raises:
        ValueError: where the library takes no such sizes.
    """
    try:
        config = CONFIGS[family](**sizes)
        config._attn_implementation = ATTENTION if family != "timesformer" else "eager"
        spared = {name: getattr(config, name) for name in _SPARED.get(family, ())}
        if family == "videomae":
            config.image_size, config.num_frames = config.patch_size, config.tubelet_size
        elif family == "vjepa2":
            config.pred_num_hidden_layers = 0
        network = _NETWORKS[family](config)
    except Exception as error:  # the library checks types, ranges and divisors by errors of many kinds
        said = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise ValueError(f"sizes of --model {family}: {said}; mend config.json or --trunk_config") from error
    for name, value in spared.items():
        setattr(config, name, value)
    for module in network.modules():
        if type(module) is TimesformerSelfAttention:
            module.__class__ = SelfAttention
        elif type(module) is VJEPA2RopeAttention:
            module.__class__ = RotaryAttention
    return network, config

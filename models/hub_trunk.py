"""What trunks of the transformers library share: sizes by depth or config.json, the grid of tokens, positions of other
grids, and what their attention tells."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Watch, watching
from models.hub_files import NEEDS
from models.patches import as_product
from models.trunk import Option, State, Stride, Trunk

CONFIG = Option("trunk_config", "", "sizes of a transformer: its config.json, or JSON such as {\"hidden_size\":384} "
                                    "(default: those of the config.json beside the weights, "
                                    "else of --model_depth)")


def library(family: str) -> ModuleType:
    """What is taken from the transformers library, which takes seconds to import.

    Raises:
        ValueError: where it is not installed.
    """
    try:
        from models import library_parts
    except ImportError as error:
        raise ValueError(f"--model {family} {NEEDS.format(error)}") from error
    return library_parts


def resized(positions: Tensor, usual: Stride, grid: Stride) -> Tensor:
    """Positions of cells interpolated to another grid, linearly along each axis: (t h w, C) -> (t' h' w', C).

    Both grids span the same; that of sums of one position in time and one in space is exact.
    """
    if usual == grid:
        return positions
    cells = positions.unflatten(0, usual)
    for axis, (n, m) in enumerate(zip(usual, grid, strict=True)):
        if n != m:
            along = torch.eye(n, dtype=positions.dtype, device=positions.device)[None]
            weights = F.interpolate(along, m, mode="linear")[0]  # (n, m)
            cells = torch.tensordot(cells, weights, ([axis], [0])).movedim(-1, axis)
    return cells.flatten(0, 2)


def sinusoids(n: int, width: int) -> Tensor:
    """Fixed positions of Vaswani et al. (NeurIPS 2017): (n, width), sine and cosine of i / 10000^(2 k / width) by
    turns."""
    rates = 10000.0 ** (-2.0 * torch.arange(width, dtype=torch.float64).div(2, rounding_mode="floor") / width)
    angles = torch.arange(n, dtype=torch.float64)[:, None] * rates
    even = torch.arange(width, device=angles.device) % 2 == 0
    return torch.where(even, angles.sin(), angles.cos()).float()


def pair(value: object) -> tuple[int, int]:
    """A size in pixels, high and wide, of one number or two."""
    high, wide = value if isinstance(value, list | tuple) else (value, value)
    return int(high), int(wide)


class HubTrunk(Trunk):
    """A transformer whose weights are published as folders of the hub; its cells are its patches.

    Args:
        depth: blocks, by which its sizes are those of the published networks; None for those of `config`, else the
            family's usual ones.
        config: JSON of sizes, by the library's names.
    Raises:
        ValueError: where the library is missing, or takes no such sizes.
    Attributes:
        family: in config.json. known: further names of sizes. sizes: those of published networks by depth. centred: as
            of hub_files.normalisation_in. usual: (t, h, w) cells of the clips that its positions were learned for.
        class_tokens: before the patches, 0 or 1. watch: what is told of a pass; None for nothing.
    """

    on_hub = True
    rounding = "down"
    offset: Stride = (0, 7, 7)
    options: Mapping[str, Option] = {"config": CONFIG}
    family: str
    known: tuple[str, ...] = ()
    sizes: Mapping[int, Mapping[str, object]] = {}
    centred = False
    class_tokens = 0
    watch: Watch | None = None

    def __init__(self, depth: int | None = None, *, config: str = "") -> None:
        super().__init__()
        network, self.config = library(self.family).network_of(self.family, self.sizes_of(depth, config))
        patch, usual = self._shape()
        if any(size < 1 for size in (*patch, *(n // k for n, k in zip(usual, patch, strict=True)))):
            raise ValueError(f"sizes of --model {self.family}: clips of {usual} hold no patch of {patch}; mend "
                             "config.json or --trunk_config")
        self.clip = usual[:2]
        self.usual: Stride = tuple(n // k for n, k in zip(usual, patch, strict=True))
        self.stride: Stride = patch
        self.offset: Stride = tuple((k - 1) // 2 for k in patch)
        self.out_channels = self.config.hidden_size
        self._take(network)
        as_product(self._projection())
        if self._projection().in_channels != 3:
            raise ValueError(f"sizes of --model {self.family}: clips have 3 channels, not "
                             f"{self._projection().in_channels}; mend config.json or --trunk_config")

    @classmethod
    def sizes_of(cls, depth: int | None, config: str) -> dict[str, object]:
        """The library's sizes for a depth and JSON of others."""
        other = json.loads(config) if config else {}
        blocks = other.get("num_hidden_layers")
        if depth is not None and blocks is not None and depth != blocks:
            raise ValueError(f"--model_depth {depth} contradicts config.json or --trunk_config, which has {blocks} "
                             "blocks; leave the flag out")
        if depth is None and blocks is None:
            depth = cls.default_depth
        if depth is not None and depth not in cls.depths and blocks is None:
            raise ValueError(f"--model {cls.family} does not come in --model_depth {depth}; choose one of "
                             f"{', '.join(map(str, cls.depths))}, or give its sizes as --trunk_config")
        return {**cls.sizes.get(depth, {}), **other}

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, C, t, h, w)."""
        tokens, grid = self._seen(clips)
        return self._on_grid(tokens[:, self.class_tokens:], grid)

    def attention(self) -> AbstractContextManager[Watch]:
        """A context in which one pass over one clip tells what its tokens attend to."""
        kinds = library(self.family).ATTENTION_LAYERS
        layers = [module for module in self.modules() if isinstance(module, kinds)]
        return watching(self, layers, Watch(self._steps, lambda weights, grid: self._on_grid(
            weights[None, self.class_tokens:, None], grid)[0, 0]))

    def _seen(self, clips: Tensor) -> tuple[Tensor, Stride]:
        """The tokens that leave the network, told to whoever watches it."""
        if self.watch is None:
            return self._tokens(clips)
        with torch.no_grad():
            tokens, self.watch.grid = self._tokens(clips)
        self.watch.runs += 1
        self.watch.tokens = tokens.detach().clone().requires_grad_()
        return self.watch.tokens, self.watch.grid

    def _tokens(self, clips: Tensor) -> tuple[Tensor, Stride]:
        """The network: (B, 3, T, H, W) -> tokens (B, N, C), and the grid (t, h, w)."""
        raise NotImplementedError

    def _shape(self) -> tuple[Stride, Stride]:
        """A patch, and the clip that the positions were learned for: (T, H, W) each."""
        raise NotImplementedError

    def _take(self, network: nn.Module) -> None:
        """Take over the parts of the library's network, so that their parameters have the published names."""
        self.embeddings, self.encoder, self.layernorm = network.embeddings, network.encoder, network.layernorm

    def _projection(self) -> nn.Module:
        return self.embeddings.patch_embeddings.projection

    def _on_grid(self, tokens: Tensor, grid: Stride) -> Tensor:
        """Tokens of cells in their order (B, t h w, C) -> (B, C, t, h, w)."""
        return tokens.transpose(1, 2).unflatten(2, grid)

    def _steps(self, watch: Watch) -> list[Callable[[Tensor], Tensor]]:
        """Of every layer of attention, from weights (N,) of what comes out to those of what goes in."""
        return [lambda weights, layer=layer: layer.back(weights[None])[0] for layer in watch.attended]

    @classmethod
    def arguments_of(cls, state: State) -> dict[str, object]:
        """The number of blocks."""
        numbers = [int(part) for key in state for before, part in zip(key.split("."), key.split(".")[1:], strict=False)
                   if before in ("layer", "layers") and part.isdecimal() and "decoder" not in key]
        return {"depth": max(numbers) + 1} if numbers else {}

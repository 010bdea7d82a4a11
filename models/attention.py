"""What a transformer attends to while it runs on one clip: attention between its tokens, for attention rollout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

NUMBERS = 2 ** 24  # of attention between tokens, over all heads, that are in memory at a time


@dataclass(frozen=True)
class Attended:
    """What an attention layer compared: queries and keys (S, heads, N, d) of S sequences, and what scales products."""

    query: Tensor
    key: Tensor
    scale: float

    def back(self, weights: Tensor) -> Tensor:
        """Weights of the tokens that come out, carried to those that went in by the mean attention of the heads.

        Args:
            weights: (S, N).
        Returns:
            (S, N), with the same sum: sum over n of weights[n] mean over heads softmax(q[n] k^T scale).
        """
        s, heads, n, _ = self.query.shape
        carried, step = torch.zeros_like(weights), max(1, NUMBERS // (s * heads * n))
        keys = self.key.float().transpose(-2, -1)
        for first in range(0, n, step):
            rows = (self.query[:, :, first:first + step].float() @ keys * self.scale).softmax(-1).mean(1)
            carried += torch.einsum("sn,snm->sm", weights[:, first:first + step], rows)
        return carried


@dataclass
class Watch:
    """One pass of a trunk over one clip.

    Attributes:
        grid: (t, h, w) of its tokens. attended: what its attention layers compared, in their order.
        tokens: (1, N, C) that left it, a leaf to differentiate by. runs: how many passes there were.
        steps: from what attention layers compared to functions (N,) -> (N,) that carry weights of tokens back through
            each, first layer first. on_grid: from weights (N,) of tokens to those of cells (t, h, w).
    """

    steps: Callable[["Watch"], list[Callable[[Tensor], Tensor]]]
    on_grid: Callable[[Tensor, tuple[int, int, int]], Tensor]
    grid: tuple[int, int, int] = (0, 0, 0)
    attended: list[Attended] = field(default_factory=list)
    tokens: Tensor | None = None
    runs: int = 0

    def layers(self) -> list[Callable[[Tensor], Tensor]]:
        """Functions (N,) -> (N,) that carry weights of tokens back through each layer of attention, the first first."""
        return self.steps(self)

    def cells(self, weights: Tensor) -> Tensor:
        """Weights (N,) of the tokens that went in as a map of cells (t, h, w); those of a class token are left out."""
        return self.on_grid(weights, self.grid)


@contextmanager
def watching(trunk: nn.Module, layers: list[nn.Module], watch: Watch) -> Iterator[Watch]:
    """Let a trunk, and its layers of attention, tell what they do; both look at their attribute `watch`."""
    for module in (trunk, *layers):
        module.watch = watch
    try:
        yield watch
    finally:
        for module in (trunk, *layers):
            module.watch = None

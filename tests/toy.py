"""A network whose score is a known function of one region of voxels, for attribution to find."""

import torch
from torch import Tensor, nn

SIZE = (8, 28, 35)
STRIDE = (2, 4, 5)
REGION = (slice(2, 6), slice(8, 20), slice(15, 30))  # frames, rows, columns; whole cells
CELLS = tuple(slice(part.start // s, part.stop // s) for part, s in zip(REGION, STRIDE, strict=True))
INSIDE = torch.zeros(SIZE, dtype=torch.bool)
INSIDE[REGION] = True


class Toy(nn.Module):
    """Channel 0 is the brightness of a cell, the others are noise that no score reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, STRIDE, STRIDE, bias=False)
        nn.init.normal_(self.conv.weight, std=0.001)
        nn.init.constant_(self.conv.weight[:1], 1 / self.conv.weight[0].numel())

    def forward(self, clips: Tensor) -> Tensor:
        return self.conv(clips).relu()

    def log_prob(self, clips: Tensor, _: Tensor | None = None) -> Tensor:
        """Surer the brighter the region is: (B, 3, T, H, W) -> (B,)."""
        brightness = self(clips)[(slice(None), 0, *CELLS)].mean((1, 2, 3))
        return nn.functional.logsigmoid(8 * (brightness - 0.5))


def toy_clip(seed: int = 0) -> Tensor:
    """(3, T, H, W) of faint noise, bright in the region alone."""
    clip = 0.2 * torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(seed))
    clip[(slice(None), *REGION)] += 1
    return clip

"""The video networks of torchvision, from the library itself and with its parameter names, up to the feature grid."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.patches import as_product
from models.trunk import Layout, State, Stride, Trunk, five_strides, offset_of, product


def set_stride(convs: nn.Module, stride: Stride) -> None:
    """Give a convolution its stride; of a split one, the half in space and the half in time take their shares."""
    first, *rest = (module for module in convs.modules() if isinstance(module, nn.Conv3d))
    if rest:
        first.stride, rest[-1].stride = (1, *stride[1:]), (stride[0], 1, 1)
    else:
        first.stride = stride


# A split convolution is a Sequential in a Sequential, which tells R(2+1)D from its relatives.
RESNETS = Layout("torchvision's video ResNets", (r"stem\.0\.weight", r"layer1\.0\.conv1\.0\.weight"),
                 normalisation="torchvision")
SPLIT = Layout("torchvision's R(2+1)D", (r"stem\.3\.weight", r"layer1\.0\.conv1\.0\.0\.weight"),
               normalisation="torchvision")


class VideoResNet(Trunk):
    """A network of Tran et al. (CVPR 2018) without pooling over the grid and classifier.

    Args:
        depth: 18.
        temporal_strides, spatial_strides: of the stem, its max-pool, which there is not (1), layer2, layer3 and layer4;
            no weight depends on them.
    Raises:
        ValueError: where an argument is outside its range.
    """

    depths = (18,)
    default_depth = 18
    strides = ((1, 1, 2, 2, 2), (2, 1, 2, 2, 2))
    places = ("stem", None, "layer2", "layer3", "layer4")
    out_channels = 512
    frame_stride = 2  # evaluated at 15 frames a second
    layouts = (RESNETS,)

    def __init__(self, depth: int = 18, *, temporal_strides: Sequence[int] | None = None,
                 spatial_strides: Sequence[int] | None = None) -> None:
        super().__init__()
        if depth not in self.depths:
            raise ValueError(f"{self.torchvision_name} has no depth but 18, so not {depth}")
        strides = five_strides(temporal_strides or self.strides[0], spatial_strides or self.strides[1])
        if strides[1] != (1, 1, 1):
            raise ValueError(f"{self.torchvision_name} has no max-pool; make the second strides 1")
        from torchvision.models import video  # here, for it takes a second to import
        network = getattr(video, self.torchvision_name)(weights=None)
        self.stem, self.layer1, self.layer2 = network.stem, network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        set_stride(self.stem, strides[0])
        for stage, stride in zip((self.layer2, self.layer3, self.layer4), strides[2:], strict=True):
            set_stride(stage[0].conv1, stride)
            set_stride(stage[0].downsample, stride)
        self.stride: Stride = product(strides)

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, 512, t, h, w)."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(clips)))))


class R3D18(VideoResNet):
    """3D convolutions throughout."""

    torchvision_name = "r3d_18"
    heavy = True

    @classmethod
    def is_of(cls, state: State) -> bool:
        return not MC318.is_of(state)


class MC318(VideoResNet):
    """3D convolutions in the stem and layer1, 2D ones after: these neither mix nor, as published, subsample frames."""

    torchvision_name = "mc3_18"
    strides = ((1, 1, 1, 1, 1), (2, 1, 2, 2, 2))

    @classmethod
    def is_of(cls, state: State) -> bool:
        kernel = state.get("layer2.0.conv1.0.weight")
        return kernel is not None and kernel.shape[2:3] == (1,)


class R2Plus1D18(VideoResNet):
    """Convolutions split into space and time."""

    torchvision_name = "r2plus1d_18"
    layouts = (SPLIT,)
    heavy = True


class S3D(Trunk):
    """Separable Inception (Xie et al., ECCV 2018).

    Grids are rounded down in the last pooling, which has no padding.
    Args:
        temporal_strides, spatial_strides: of the first convolution and the four max-pools; no weight depends on them.
    Raises:
        ValueError: where they are not five each.
    """

    strides = ((2, 1, 1, 2, 2), (2, 2, 2, 2, 2))
    places = ("conv1", "max-pool 1", "max-pool 2", "max-pool 3", "max-pool 4")
    rounding = "down"
    out_channels = 1024
    clip = (128, 224)
    frame_stride = 2  # evaluated at 15 frames a second
    head_window = (2, 7, 7)
    layouts = (Layout("torchvision's S3D", (r"features\.0\.0\.0\.weight",), heads=("classifier.1",),
                      normalisation="torchvision"),)
    torchvision_name = "s3d"

    def __init__(self, *, temporal_strides: Sequence[int] = strides[0],
                 spatial_strides: Sequence[int] = strides[1]) -> None:
        super().__init__()
        strides = five_strides(temporal_strides, spatial_strides)
        from torchvision.models import video  # here, for it takes a second to import
        self.features = video.s3d(weights=None).features
        set_stride(self.features[0], strides[0])
        *padded, last = (layer for layer in self.features if isinstance(layer, nn.MaxPool3d))
        for pool, stride in zip(padded, strides[1:4], strict=True):
            pool.stride = stride
        last.stride = last.kernel_size = strides[4]  # it has no padding: its tiles must not overlap
        self.stride: Stride = product(strides)
        padded = [((1, 1, 1), (0, 0, 0), stride) for stride in strides[:4]]
        self.offset = offset_of([*padded, (strides[4], (0, 0, 0), strides[4])])

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, 1024, t, h, w)."""
        return self.features(clips)


class MViT(Trunk):
    """A multiscale vision transformer: the tokens of its last block, normalised.

    The class token takes part in the attention and is then left out.
    """

    out_channels = 768
    stride: Stride = (2, 32, 32)
    clip = (16, 224)
    frame_stride = 4  # evaluated at 7.5 frames a second
    layouts = (Layout("torchvision's MViT", (r"pos_encoding\.class_token",), heads=("head.1",), normalisation="mvit"),)

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import video  # here, for it takes a second to import
        network = getattr(video, self.torchvision_name)(weights=None)
        self.conv_proj, self.pos_encoding = network.conv_proj, network.pos_encoding
        self.blocks, self.norm = network.blocks, network.norm

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, 768, t, h, w)."""
        tokens, grid = self._tokens(clips)
        return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)

    def class_token(self, clips: Tensor) -> Tensor:
        """What the published head reads instead of the grid: (B, 3, T, H, W) -> (B, 768)."""
        return self._tokens(clips)[0][:, 0]

    def _tokens(self, clips: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        patches = self.conv_proj(clips)
        grid = tuple(patches.shape[2:])
        tokens = self._placed(patches.flatten(2).transpose(1, 2), grid)  # (B, 1 + N, C), the class token first
        for block in self.blocks:
            tokens, grid = block(tokens, grid)
        return self.norm(tokens), grid

    def _placed(self, tokens: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Tokens (B, N, C) of a grid with their positions, behind the class token."""
        return self.pos_encoding(tokens)


class MViTV1B(MViT):
    """MViT v1, base (Fan et al., ICCV 2021). Clips of another size than 16 x 224 x 224 see its absolute positions
    interpolated: trilinearly, which of positions that are sums of one in time and one in space is exact."""

    torchvision_name = "mvit_v1_b"
    heavy = True

    @classmethod
    def is_of(cls, state: State) -> bool:
        return "pos_encoding.spatial_pos" in state

    def _placed(self, tokens: Tensor, grid: tuple[int, int, int]) -> Tensor:
        own = self.pos_encoding
        if grid == (own.temporal_size, *own.spatial_size):
            return own(tokens)
        space = own.spatial_pos.T.unflatten(1, own.spatial_size)  # (C, h, w)
        space = F.interpolate(space[None], grid[1:], mode="bilinear")[0].flatten(1)  # (C, h w)
        time = F.interpolate(own.temporal_pos.T[None], grid[0], mode="linear")[0]  # (C, t)
        positions = (time[:, :, None] + space[:, None]).flatten(1).T  # (N, C)
        # not len(tokens), which torch.export takes for a constant
        first = (own.class_token + own.class_pos).expand(tokens.shape[0], 1, -1)
        return torch.cat((first, tokens + positions), 1)


class MViTV2S(MViT):
    """MViT v2, small (Li et al., CVPR 2022). Clips of another size than 16 x 224 x 224 see its relative positions
    interpolated, as the library does it."""

    torchvision_name = "mvit_v2_s"

    @classmethod
    def is_of(cls, state: State) -> bool:
        return not MViTV1B.is_of(state)


class Swin3DT(Trunk):
    """Video Swin transformer, tiny (Liu et al., CVPR 2022): the tokens of its last block, normalised."""

    out_channels = 768
    stride: Stride = (2, 32, 32)
    offset: Stride = (0, 15, 15)  # its cells are tiles
    clip = (32, 224)
    frame_stride = 2  # evaluated at 15 frames a second
    layouts = (Layout("torchvision's video Swin", (r"patch_embed\.proj\.weight",), heads=("head",),
                      normalisation="imagenet"),)
    torchvision_name = "swin3d_t"
    long = False  # whether its third stage has eighteen blocks

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import video  # here, for it takes a second to import
        network = getattr(video, self.torchvision_name)(weights=None)
        self.patch_embed, self.pos_drop = network.patch_embed, network.pos_drop
        as_product(self.patch_embed.proj)
        self.features, self.norm = network.features, network.norm

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, 768, t, h, w)."""
        tokens = self.features(self.pos_drop(self.patch_embed(clips)))  # (B, t, h, w, C)
        return self.norm(tokens).movedim(-1, 1)

    @classmethod
    def is_of(cls, state: State) -> bool:
        """By the width of its patches, and whether the third stage has as many blocks."""
        width = state.get("patch_embed.proj.weight")
        return width is not None and len(width) * 8 == cls.out_channels and (
            "features.4.6.norm1.weight" in state) == cls.long


class Swin3DS(Swin3DT):
    """The same, small: with eighteen blocks in place of six in its third stage."""

    torchvision_name = "swin3d_s"
    long = True
    heavy = True


class Swin3DB(Swin3DS):
    """The same, base: wider."""

    out_channels = 1024
    torchvision_name = "swin3d_b"

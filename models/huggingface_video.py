"""VideoMAE, V-JEPA 2, ViViT and TimeSformer: transformers of the transformers library as trunks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.attention import Attended, Watch
from models.hub_trunk import HubTrunk, library, pair, resized, sinusoids
from models.trunk import Layout, State, Stride

NON_COMMERCIAL = "its publishers' weights are CC BY-NC 4.0, for non-commercial use"
# names that all configurations have
SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "hidden_act", "initializer_range", "layer_norm_eps",
         "qkv_bias", "attention_probs_dropout_prob", "patch_size")
VIT = {12: {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
       24: {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096},
       32: {"num_hidden_layers": 32, "hidden_size": 1280, "num_attention_heads": 16, "intermediate_size": 5120}}


def biased_name(key: str) -> str:
    """A name in VideoMAE's files, whose biases of queries and values stand beside their layers."""
    return key.replace("attention.attention.query.bias", "attention.attention.q_bias").replace(
        "attention.attention.value.bias", "attention.attention.v_bias")


class VideoMAE(HubTrunk):
    """VideoMAE (Tong et al., NeurIPS 2022): patches of two frames, fixed positions, no class token.

    Its last tokens are normalised only where the published head does not average them first.
    """

    family = "videomae"
    depths = (12, 24, 32)
    default_depth = 12
    sizes = VIT
    known = (*SIZES, "image_size", "num_channels", "num_frames", "tubelet_size", "intermediate_size",
             "hidden_dropout_prob", "qv_bias", "use_mean_pooling")
    out_channels = 768
    stride: Stride = (2, 16, 16)
    clip = (16, 224)
    frame_stride = 4
    small = {"config": '{"hidden_size":24,"image_size":32,"intermediate_size":32,"num_attention_heads":2,'
                       '"num_frames":8,"num_hidden_layers":2,"patch_size":8}'}
    layouts = (
        Layout("the hub's VideoMAE", (r"embeddings\.patch_embeddings\.projection\.weight",
                                      r"encoder\.layer\.0\.attention\.attention\.q_bias"), naming=biased_name,
               heads=("classifier",), between=("fc_norm",), normalisation="imagenet", licence=NON_COMMERCIAL),
        Layout("the library's VideoMAE", (r"embeddings\.patch_embeddings\.projection\.weight",
                                          r"encoder\.layer\.0\.attention\.attention\.query\.bias"),
               absent=(r"embeddings\.cls_token",), heads=("classifier",), between=("fc_norm",),
               normalisation="imagenet", licence=NON_COMMERCIAL))

    def _shape(self) -> tuple[Stride, Stride]:
        config = self.config
        return (int(config.tubelet_size), *pair(config.patch_size)), (int(config.num_frames), *pair(config.image_size))

    def _take(self, network: nn.Module) -> None:
        super()._take(network)
        n = self.usual[0] * self.usual[1] * self.usual[2]
        self.register_buffer("positions", sinusoids(n, self.out_channels), persistent=False)  # (t h w, C)

    def _tokens(self, clips: Tensor) -> tuple[Tensor, Stride]:
        patches = self._projection()(clips)
        grid = tuple(patches.shape[2:])
        tokens = patches.flatten(2).transpose(1, 2) + resized(self.positions, self.usual, grid)
        for block in self.encoder.layer:
            tokens = block(tokens)
        return tokens if self.layernorm is None else self.layernorm(tokens), grid

    def pooled(self, features: Tensor) -> Tensor:
        """(B, C, t, h, w) -> (B, C): the mean, or the first cell where the published head reads that."""
        return super().pooled(features) if self.config.use_mean_pooling else features[:, :, 0, 0, 0]

    def pooler(self, between: State) -> nn.Module | None:
        """The normalised mean."""
        if "fc_norm.weight" not in between or not self.config.use_mean_pooling:
            return None
        norm = nn.LayerNorm(self.out_channels)
        norm.load_state_dict({name: between[f"fc_norm.{name}"] for name in ("weight", "bias")})
        return nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), norm)


class VJEPA2(HubTrunk):
    """V-JEPA 2 (Assran et al., 2025), the encoder: patches of two frames, rotary positions, no class token."""

    family = "vjepa2"
    depths = (24, 32, 40)
    default_depth = 24
    sizes = {24: {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16},
             32: {"num_hidden_layers": 32, "hidden_size": 1280, "num_attention_heads": 16},
             40: {"num_hidden_layers": 40, "hidden_size": 1408, "num_attention_heads": 22, "mlp_ratio": 48 / 11}}
    known = (*SIZES, "crop_size", "in_chans", "frames_per_clip", "tubelet_size", "mlp_ratio", "drop_path_rate",
             "attention_dropout", "num_pooler_layers")
    out_channels = 1024
    stride: Stride = (2, 16, 16)
    clip = (64, 256)
    frame_stride = 7  # pretrained at 4 frames a second
    small = {"config": '{"crop_size":32,"frames_per_clip":8,"hidden_size":24,"mlp_ratio":2,"num_attention_heads":2,'
                       '"num_hidden_layers":2,"num_pooler_layers":1,"patch_size":8}'}
    layouts = (Layout("the hub's V-JEPA 2", (r"embeddings\.patch_embeddings\.proj\.weight",
                                             r"layer\.0\.attention\.proj\.weight"), heads=("classifier",),
                      between=("pooler",), normalisation="imagenet",
                      licence="its publishers' weights are MIT or Apache-2.0, as their page says"),)

    def _shape(self) -> tuple[Stride, Stride]:
        config = self.config
        return ((int(config.tubelet_size), *pair(config.patch_size)),
                (int(config.frames_per_clip), *pair(config.crop_size)))

    def _take(self, network: nn.Module) -> None:
        encoder = network.encoder
        self.embeddings, self.layer, self.layernorm = encoder.embeddings, encoder.layer, encoder.layernorm

    def _projection(self) -> nn.Module:
        return self.embeddings.patch_embeddings.proj

    def _tokens(self, clips: Tensor) -> tuple[Tensor, Stride]:
        patches = self._projection()(clips)
        grid, width = tuple(patches.shape[2:]), self.out_channels // self.config.num_attention_heads
        rotation = library(self.family).rotation_of(grid, self.usual[1:], width, clips.device)
        tokens = patches.flatten(2).transpose(1, 2)
        for block in self.layer:
            tokens = block(tokens, rotation)[0]
        return self.layernorm(tokens), grid

    def pooler(self, between: State) -> nn.Module | None:
        """The library's attentive pooler over all cells."""
        if "pooler.query_tokens" not in between:
            return None
        pooler = library(self.family).VJEPA2AttentivePooler(self.config)
        try:
            pooler.load_state_dict({name.removeprefix("pooler."): value for name, value in between.items()})
        except RuntimeError as error:
            raise ValueError("the attentive pooler of its head does not fit its config.json; fetch both again"
                             ) from error
        return nn.Sequential(nn.Flatten(2), Transposed(), pooler)


class Transposed(nn.Module):
    """(B, C, N) -> (B, N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def vit_name(key: str) -> str:
    """A name in ViViT's files, which are of before the library's transformers for images shared theirs."""
    if not key.startswith("layers."):
        return key
    for ours, theirs in ((".attention.q_proj.", ".attention.attention.query."),
                         (".attention.k_proj.", ".attention.attention.key."),
                         (".attention.v_proj.", ".attention.attention.value."),
                         (".attention.o_proj.", ".attention.output.dense."), (".mlp.fc1.", ".intermediate.dense."),
                         (".mlp.fc2.", ".output.dense.")):
        key = key.replace(ours, theirs)
    return f"encoder.layer.{key.removeprefix('layers.')}"


class ViViT(HubTrunk):
    """ViViT (Arnab et al., ICCV 2021), the first of its models: joint attention over space and time.

    The class token, which the published head reads, takes part in the attention and is then left out.
    """

    family = "vivit"
    depths = (12,)
    default_depth = 12
    sizes = {12: VIT[12]}
    known = (*SIZES, "image_size", "num_channels", "num_frames", "tubelet_size", "intermediate_size",
             "hidden_dropout_prob")
    out_channels = 768
    stride: Stride = (2, 16, 16)
    clip = (32, 224)
    frame_stride = 2
    centred = True
    class_tokens = 1
    small = {"config": '{"hidden_size":24,"image_size":32,"intermediate_size":32,"num_attention_heads":2,'
                       '"num_frames":8,"num_hidden_layers":2,"tubelet_size":[2,8,8]}'}
    layouts = (
        Layout("the hub's ViViT", (r"embeddings\.cls_token", r"encoder\.layer\.0\.attention\.attention\.query\.weight"),
               naming=vit_name, heads=("classifier",), between=("pooler",), normalisation="vivit",
               licence="its publishers' weights are MIT, their code Apache-2.0"),
        Layout("the library's ViViT", (r"embeddings\.cls_token", r"layers\.0\.attention\.q_proj\.weight"),
               heads=("classifier",), between=("pooler",), normalisation="vivit",
               licence="its publishers' weights are MIT, their code Apache-2.0"))

    def _shape(self) -> tuple[Stride, Stride]:
        config = self.config
        return tuple(map(int, config.tubelet_size)), (int(config.num_frames), *pair(config.image_size))

    def _take(self, network: nn.Module) -> None:
        self.embeddings, self.layers, self.layernorm = network.embeddings, network.layers, network.layernorm

    def class_token(self, clips: Tensor) -> Tensor:
        """What the published head reads instead of the grid: (B, 3, T, H, W) -> (B, C)."""
        return self._seen(clips)[0][:, 0]

    def _tokens(self, clips: Tensor) -> tuple[Tensor, Stride]:
        own, patches = self.embeddings, self._projection()(clips)
        grid = tuple(patches.shape[2:])
        tokens = torch.cat((own.cls_token.expand(patches.shape[0], -1, -1), patches.flatten(2).transpose(1, 2)), 1)
        first, cells = own.position_embeddings[0].tensor_split((1,))
        tokens = own.dropout(tokens + torch.cat((first, resized(cells, self.usual, grid))))
        for block in self.layers:
            tokens = block(tokens)
        return self.layernorm(tokens), grid


class TimeSformer(HubTrunk):
    """TimeSformer (Bertasius et al., ICML 2021): patches of one frame, attention in time and then in space.

    The class token, which the published head reads, attends in space to all frames and is then left out. Tokens stand
    in the order row, column, frame.
    """

    family = "timesformer"
    depths = (12,)
    default_depth = 12
    sizes = {12: VIT[12]}
    known = (*SIZES, "image_size", "num_channels", "num_frames", "intermediate_size", "hidden_dropout_prob",
             "attention_type", "drop_path_rate")
    out_channels = 768
    stride: Stride = (1, 16, 16)
    clip = (8, 224)
    frame_stride = 32
    class_tokens = 1
    small = {"config": '{"hidden_size":24,"image_size":32,"intermediate_size":32,"num_attention_heads":2,'
                       '"num_frames":8,"num_hidden_layers":2,"patch_size":8}'}
    layouts = (Layout("the hub's TimeSformer", (r"embeddings\.cls_token",
                                                r"encoder\.layer\.0\.attention\.attention\.qkv\.weight"),
                      heads=("classifier",), normalisation="mvit", licence=NON_COMMERCIAL),)

    def _shape(self) -> tuple[Stride, Stride]:
        config = self.config
        patch, size = pair(config.patch_size), pair(config.image_size)
        if config.attention_type == "space_only" or patch[0] != patch[1]:
            raise ValueError("sizes of --model timesformer: attention of frames alone, or patches that are not square, "
                             "are not served; give a config.json with attention_type divided_space_time or "
                             "joint_space_time")
        config.patch_size = patch[0]
        return (1, *patch), (int(config.num_frames), *size)

    def class_token(self, clips: Tensor) -> Tensor:
        """What the published head reads instead of the grid: (B, 3, T, H, W) -> (B, C)."""
        return self._seen(clips)[0][:, 0]

    def _on_grid(self, tokens: Tensor, grid: Stride) -> Tensor:
        t, h, w = grid
        return tokens.transpose(1, 2).unflatten(2, (h, w, t)).movedim(-1, 2)

    def _tokens(self, clips: Tensor) -> tuple[Tensor, Stride]:
        own, n_frames = self.embeddings, clips.shape[2]
        patches = self._projection()(clips.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, n_frames))
        grid = (n_frames, *patches.shape[3:])  # of (B, t, C, h, w)
        first, cells = own.position_embeddings[0].tensor_split((1,))
        space = resized(cells, (1, *self.usual[1:]), (1, *grid[1:]))  # (h w, C)
        time = resized(own.time_embeddings[0], (self.usual[0], 1, 1), (n_frames, 1, 1))  # (t, C)
        tokens = patches.flatten(3).permute(0, 3, 1, 2) + space[:, None] + time  # (B, h w, t, C)
        whole = torch.cat(((own.cls_token + first).expand(tokens.shape[0], -1, -1), tokens.flatten(1, 2)), 1)
        whole = own.pos_drop(whole)
        # the library's blocks read the grid from their configuration
        sizes = {"num_frames": n_frames, "image_size": grid[2] * self.config.patch_size}
        for name, size in sizes.items():
            if getattr(self.config, name) != size:
                setattr(self.config, name, size)
        for block in self.encoder.layer:
            whole = block(whole)[0]
        return self.layernorm(whole), grid

    def _steps(self, watch: Watch) -> list[Callable[[Tensor], Tensor]]:
        """Of divided attention two a block: each place over its frames, then each frame over its places and the class
        token, whose answers are averaged over the frames."""
        if self.config.attention_type != "divided_space_time":
            return super()._steps(watch)
        t = watch.grid[0]

        def in_time(layer: Attended) -> Callable[[Tensor], Tensor]:
            return lambda weights: torch.cat((weights[:1], layer.back(weights[1:].unflatten(0, (-1, t))).flatten()))

        def in_space(layer: Attended) -> Callable[[Tensor], Tensor]:
            def back(weights: Tensor) -> Tensor:
                frames = weights[1:].unflatten(0, (-1, t)).T  # (t, h w)
                carried = layer.back(torch.cat(((weights[:1] / t).expand(t, 1), frames), 1))
                return torch.cat((carried[:, 0].sum()[None], carried[:, 1:].T.flatten()))
            return back

        return [(in_space if i % 2 else in_time)(layer) for i, layer in enumerate(watch.attended)]

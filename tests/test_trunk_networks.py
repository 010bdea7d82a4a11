"""Every trunk computes what the published network computes, written down a second time from the papers."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from trunks import HARA, PUBLISHED, assert_close, clips, light, on_meta, shuffle, small

from models import TRUNKS
from models.i3d import SamePool


@pytest.mark.parametrize(("cardinality", "widen_factor"), [(7, 0.125), (8, 0.125), (2, 0.01)])
def test_groups_that_do_not_divide_the_channels(cardinality, widen_factor):
    with pytest.raises(ValueError, match=f"--resnext_cardinality {cardinality} does not divide the . channels"):
        on_meta("resnext", 50, cardinality=cardinality, widen_factor=widen_factor)
    assert on_meta("resnext", 50, cardinality=7, widen_factor=0.25).layer1[0].conv2.groups == 7


def bn(state: dict[str, Tensor], name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    mean, var, weight, bias = (state[f"{name}.{key}"].view(1, -1, 1, 1, 1)
                               for key in ("running_mean", "running_var", "weight", "bias"))
    return (x - mean) / (var + eps).sqrt() * weight + bias


def conv(state: dict[str, Tensor], name: str, x: Tensor, **how) -> Tensor:
    return F.conv3d(x, state[f"{name}.weight"], **how)


def hara_block(state, name: str, x: Tensor, kind: str, stride: int, groups: int) -> Tensor:
    """What a block adds to its shortcut."""
    def split(i, x, stride=1):
        out = conv(state, f"{name}.conv{i}_s", x, stride=(1, stride, stride), padding=(0, 1, 1))
        out = bn(state, f"{name}.bn{i}_s", out).relu()
        return bn(state, f"{name}.bn{i}_t", conv(state, f"{name}.conv{i}_t", out, stride=(stride, 1, 1),
                                                 padding=(1, 0, 0)))

    deep = f"{name}.conv3.weight" in state
    if kind == "preresnet":
        first = {"padding": 0} if deep else {"padding": 1, "stride": stride}
        second = {"padding": 1, "stride": stride} if deep else {"padding": 1}
        out = conv(state, f"{name}.conv1", bn(state, f"{name}.bn1", x).relu(), **first)
        out = conv(state, f"{name}.conv2", bn(state, f"{name}.bn2", out).relu(), **second)
        return conv(state, f"{name}.conv3", bn(state, f"{name}.bn3", out).relu()) if deep else out
    if kind == "resnet2p1d" and not deep:
        return split(2, split(1, x, stride).relu())
    if not deep:
        out = bn(state, f"{name}.bn1", conv(state, f"{name}.conv1", x, stride=stride, padding=1)).relu()
        return bn(state, f"{name}.bn2", conv(state, f"{name}.conv2", out, padding=1))
    out = bn(state, f"{name}.bn1", conv(state, f"{name}.conv1", x)).relu()
    if kind == "resnet2p1d":
        out = split(2, out, stride).relu()
    else:
        out = conv(state, f"{name}.conv2", out, stride=stride, padding=1, groups=groups)
        out = bn(state, f"{name}.bn2", out).relu()
    return bn(state, f"{name}.bn3", conv(state, f"{name}.conv3", out))


def hara(state: dict[str, Tensor], x: Tensor, kind: str, groups: int = 1) -> Tensor:
    """The residual networks of Hara et al. (CVPR 2018), figure 2 and section 3, by the names of their weights."""
    if kind == "resnet2p1d":
        x = bn(state, "bn1_s", conv(state, "conv1_s", x, stride=(1, 2, 2), padding=(0, 3, 3))).relu()
        x = bn(state, "bn1_t", conv(state, "conv1_t", x, padding=(3, 0, 0))).relu()
    else:
        x = bn(state, "bn1", conv(state, "conv1", x, stride=(1, 2, 2), padding=3)).relu()
    x = F.max_pool3d(x, 3, stride=2, padding=1)
    for layer in (1, 2, 3, 4):
        for i in range(100):
            name = f"layer{layer}.{i}"
            if not any(key.startswith(f"{name}.") for key in state):
                break
            stride = 2 if layer > 1 and i == 0 else 1
            out = hara_block(state, name, x, kind, stride, groups)
            if f"{name}.downsample.0.weight" in state:
                x = bn(state, f"{name}.downsample.1", conv(state, f"{name}.downsample.0", x, stride=stride))
            elif x.shape != out.shape:
                x = F.avg_pool3d(x, 1, stride=stride)
                x = torch.cat((x, torch.zeros(len(x), out.shape[1] - x.shape[1], *x.shape[2:])), 1)
            x = out + x if kind == "preresnet" else (out + x).relu()
    return x


@torch.no_grad()
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("name", HARA)
def test_haras_residual_networks(name, shortcut):
    trunk = small(name, shortcut=shortcut, **PUBLISHED)
    groups = 4 if name == "resnext" else 1
    assert_close(trunk(clips()), hara(trunk.state_dict(), clips(), name, groups))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("name", "depth"), [(name, depth) for name, trunk in HARA.items() for depth in trunk.depths])
def test_haras_residual_networks_of_all_depths(name, depth):
    options = {"depth": depth, "widen_factor": 0.25, **({"cardinality": 8} if name == "resnext" else {})}
    trunk = shuffle(TRUNKS[name](**options, **PUBLISHED))
    assert_close(trunk(clips()), hara(trunk.state_dict(), clips(), name, options.get("cardinality", 1)))


def dense(state: dict[str, Tensor], x: Tensor, layers: tuple[int, ...]) -> Tensor:
    """DenseNet-BC (Huang et al., CVPR 2017) in three dimensions, by the names of Hara's weights."""
    x = bn(state, "features.norm1", conv(state, "features.conv1", x, stride=(1, 2, 2), padding=3)).relu()
    x = F.max_pool3d(x, 3, stride=2, padding=1)
    for i, n in enumerate(layers, 1):
        for j in range(1, n + 1):
            name = f"features.denseblock{i}.denselayer{j}"
            out = conv(state, f"{name}.conv1", bn(state, f"{name}.norm1", x).relu())
            out = conv(state, f"{name}.conv2", bn(state, f"{name}.norm2", out).relu(), padding=1)
            x = torch.cat((x, out), 1)
        if i < 4:
            name = f"features.transition{i}"
            x = F.avg_pool3d(conv(state, f"{name}.conv", bn(state, f"{name}.norm", x).relu()), 2, stride=2)
    return bn(state, "features.norm5", x).relu()


@torch.no_grad()
@pytest.mark.parametrize(("depth", "layers"), [
    (121, (6, 12, 24, 16)), *(pytest.param(*more, marks=pytest.mark.slow) for more in
                              ((169, (6, 12, 32, 32)), (201, (6, 12, 48, 32)), (264, (6, 12, 64, 48))))])
def test_haras_densenets(depth, layers):
    trunk, some = small("densenet", depth=depth, **PUBLISHED), clips(size=(16, 32, 32))
    assert_close(trunk(some), dense(trunk.state_dict(), some, layers))


def last_grid(library: nn.Module, before: nn.Module, x: Tensor) -> Tensor:
    """What one of torchvision's networks hands to a layer of its own."""
    seen = []
    handle = before.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    library(x)
    handle.remove()
    return seen[0]


@torch.no_grad()
@pytest.mark.parametrize("name", light(["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t", "swin3d_s", "swin3d_b"]))
def test_torchvisions_features(name):
    torch.manual_seed(3)
    library, trunk = shuffle(torchvision.models.get_model(name, weights=None)), TRUNKS[name]().eval()
    state = library.state_dict()
    trunk.load_state_dict({key: state[key] for key in trunk.state_dict()})
    if name == "s3d":
        library.avgpool = nn.AvgPool3d(1)  # its own is made for 7 x 7 cells
    some = clips(size=(16, 32, 32) if name == "s3d" else (8, 32, 40))
    assert torch.equal(trunk(some), last_grid(library, library.avgpool, some))


@torch.no_grad()
def test_torchvisions_mvit():
    """The tokens behind the class token, which the library's classifier takes."""
    torch.manual_seed(3)
    library, trunk = torchvision.models.video.mvit_v2_s(weights=None).eval(), TRUNKS["mvit_v2_s"]().eval()
    trunk.load_state_dict({key: value for key, value in library.state_dict().items() if not key.startswith("head.")})
    # the library takes clips of one size only, which it is told here
    library.pos_encoding.temporal_size, library.pos_encoding.spatial_size = 4, (16, 8)
    some, seen = clips(size=(8, 64, 32)), []
    library.norm.register_forward_hook(lambda *given: seen.append(given[2]))
    library(some)
    features = trunk(some)
    assert features.shape == (1, 768, 4, 2, 1)
    assert torch.equal(features.flatten(2), seen[0][:, 1:].transpose(1, 2))


@pytest.mark.slow
@torch.no_grad()
def test_torchvisions_first_mvit():
    """Whose positions are absolute, and interpolated for clips of another size."""
    torch.manual_seed(3)
    library, trunk = torchvision.models.video.mvit_v1_b(weights=None).eval(), TRUNKS["mvit_v1_b"]().eval()
    own = library.pos_encoding
    for positions in (own.spatial_pos, own.temporal_pos, own.class_pos):
        positions.normal_()
    trunk.load_state_dict({key: value for key, value in library.state_dict().items() if not key.startswith("head.")})
    tokens = torch.randn(2, 8 * 56 * 56, 96)
    placed = trunk._placed(tokens, (8, 56, 56))
    trunk.pos_encoding.temporal_size = 0  # so that the same positions are interpolated to what they are
    torch.testing.assert_close(trunk._placed(tokens, (8, 56, 56)), placed)
    some, seen = clips(size=(8, 64, 32)), []
    own.temporal_size, own.spatial_size = 4, (16, 8)
    own.spatial_pos = nn.Parameter(F.interpolate(own.spatial_pos.T.view(1, 96, 56, 56), (16, 8), mode="bilinear")
                                   .flatten(2)[0].T)
    own.temporal_pos = nn.Parameter(F.interpolate(own.temporal_pos.T[None], 4, mode="linear")[0].T)
    library.norm.register_forward_hook(lambda *given: seen.append(given[2]))
    library(some)
    features = trunk(some)
    assert features.shape == (1, 768, 4, 2, 1)
    torch.testing.assert_close(features.flatten(2), seen[0][:, 1:].transpose(1, 2), atol=1e-4, rtol=1e-4)


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's SAME padding, as its documentation has it, axis by axis."""
    for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), 2):
        size = x.shape[axis]
        pad = max(k - s, 0) if size % s == 0 else max(k - size % s, 0)
        before, behind = list(x.shape), list(x.shape)
        before[axis], behind[axis] = pad // 2, pad - pad // 2
        x = torch.cat((torch.zeros(before), x, torch.zeros(behind)), axis)
    return x


def i3d(state: dict[str, Tensor], x: Tensor, temporal=(2, 1, 1, 2, 2), spatial=(2, 2, 2, 2, 2)) -> Tensor:
    """Inflated Inception-v1 (Carreira and Zisserman, figure 3), by the names of the port."""
    strides = [(t, s, s) for t, s in zip(temporal, spatial, strict=True)]

    def unit(name, x, stride=(1, 1, 1)):
        kernel = tuple(state[f"{name}.conv3d.weight"].shape[2:])
        out = conv(state, f"{name}.conv3d", same(x, kernel, stride), stride=stride)
        return bn(state, f"{name}.bn", out, eps=1e-3).relu()

    def pool(x, kernel, stride):
        return F.max_pool3d(same(x, kernel, stride), kernel, stride=stride)

    def mixed(name, x):
        pooled = pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat((unit(f"{name}.b0", x), unit(f"{name}.b1b", unit(f"{name}.b1a", x)),
                          unit(f"{name}.b2b", unit(f"{name}.b2a", x)), unit(f"{name}.b3b", pooled)), 1)

    x = pool(unit("Conv3d_1a_7x7", x, strides[0]), (1, 3, 3), strides[1])
    x = pool(unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x)), (1, 3, 3), strides[2])
    for i, (blocks, kernel) in enumerate((("3b 3c", (3, 3, 3)), ("4b 4c 4d 4e 4f", (2, 2, 2)), ("5b 5c", None)), 3):
        for block in blocks.split():
            x = mixed(f"Mixed_{block}", x)
        x = x if kernel is None else pool(x, kernel, strides[i])
    return x


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 32, 32), (9, 23, 41)])
def test_i3d(size):
    trunk = small("i3d")
    assert_close(trunk(clips(size=size)), i3d(trunk.state_dict(), clips(size=size)))


@torch.no_grad()
@pytest.mark.parametrize(("temporal", "spatial", "size"), [
    ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (3, 6, 5)), ((2, 1, 1, 2, 1), (2, 2, 2, 2, 1), (8, 64, 64)),
    ((2, 1, 1, 2, 2), (2, 2, 2, 2, 1), (9, 23, 41)), ((2, 1, 1, 2, 1), (2, 2, 2, 2, 2), (8, 33, 40)),
    ((1, 2, 1, 1, 2), (2, 1, 2, 1, 1), (5, 17, 22))])
def test_i3d_of_other_strides(temporal, spatial, size):
    """A layer of stride 1 pads both sides alike only where its kernel is odd, which the last pooling's is not."""
    trunk = small("i3d", temporal_strides=temporal, spatial_strides=spatial)
    features = trunk(clips(size=size))
    assert tuple(features.shape[2:]) == trunk.cells(size)
    assert_close(features, i3d(trunk.state_dict(), clips(size=size), temporal, spatial))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("kernel", "stride", "size"), [
    ((1, 3, 3), (1, 2, 2), (4, 9, 8)), ((3, 3, 3), (1, 1, 1), (4, 5, 7)), ((3, 3, 3), (2, 2, 2), (5, 8, 7)),
    ((2, 2, 2), (1, 2, 2), (1, 3, 2)), ((3, 3, 3), (1, 1, 1), (1, 1, 1))])
def test_pooling_of_i3d_with_and_without_a_gradient(kernel, stride, size):
    x = torch.randn(2, 3, *size)
    x[0, 0, 0, 0, 0] = torch.nan
    pool = SamePool(kernel, stride)
    torch.testing.assert_close(pool(x), pool(x.clone().requires_grad_()), rtol=0, atol=0, equal_nan=True)


def test_i3d_resnet50_keeps_time_and_sees_still_videos_as_a_resnet50_sees_images():
    """The test of Carreira and Zisserman: 2D weights, repeated and divided, give a still video the image's features."""
    features = on_meta("i3d_resnet50")(torch.empty(1, 3, 16, 224, 224, device="meta"))
    assert features.shape == (1, 2048, 16, 7, 7)
    flat, trunk = shuffle(torchvision.models.resnet50(weights=None)), TRUNKS["i3d_resnet50"]().eval()
    for key, value in trunk.state_dict().items():
        weight = flat.state_dict()[key]
        value.copy_(weight if value.dim() < 5 else weight.unsqueeze(2).expand_as(value) / value.shape[2])
    image = clips(size=(1, 32, 16))
    expected = last_grid(flat, flat.avgpool, image[:, :, 0])
    # conv1 and 16 blocks reach 17 frames to either side, where no padding may be
    assert_close(trunk(image.expand(-1, -1, 37, -1, -1))[:, :, 17:20], expected[:, :, None].expand(-1, -1, 3, -1, -1))


@torch.no_grad()
@pytest.mark.parametrize("name", light(["tsm_resnet50", "tsm_mobilenetv2"]))
def test_tsm(name):
    """A loop over clips, frames and channels around each layer under which the paper shifts."""
    torch.manual_seed(0)
    flat = shuffle(torchvision.models.get_model("resnet50" if "resnet" in name else "mobilenet_v2", weights=None))
    trunk, some = TRUNKS[name]().eval(), clips(2, (8, 32, 32))
    state = {key: flat.state_dict()[key.removeprefix("base_model.").replace(".net.", ".")]
             for key in trunk.state_dict()}
    trunk.load_state_dict(state)

    def shift(_, given):
        x, = given
        out = x.clone()
        for clip in range(2):
            for t in range(8):
                for c in range(2 * (x.shape[1] // 8)):
                    source = t + 1 if c < x.shape[1] // 8 else t - 1
                    out[8 * clip + t, c] = x[8 * clip + source, c] if 0 <= source < 8 else 0
        return out

    if "resnet" in name:
        shifted = [block.conv1 for i in (1, 2, 3, 4) for block in getattr(flat, f"layer{i}")]
    else:
        shifted = [block.conv[0] for block in flat.features if getattr(block, "use_res_connect", False)]
    assert len(shifted) == (16 if "resnet" in name else 10)
    for layer in shifted:
        layer.register_forward_pre_hook(shift)
    frames = some.transpose(1, 2).flatten(0, 1)
    expected = last_grid(flat, flat.avgpool, frames) if "resnet" in name else flat.features(frames)
    assert_close(trunk(some), expected.unflatten(0, (2, 8)).transpose(1, 2))


def mfnet(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Multi-fiber network (Chen et al., table 1), by the names of its weights."""
    def layer(name, x, groups=1, stride=(1, 1, 1)):
        kernel = state[f"{name}.conv.weight"].shape[2:]
        return conv(state, f"{name}.conv", bn(state, f"{name}.bn", x).relu(), stride=stride, groups=groups,
                    padding=tuple(size // 2 for size in kernel))

    x = bn(state, "conv1.bn", conv(state, "conv1.conv", x, stride=(1, 2, 2), padding=(1, 2, 2))).relu()
    x = F.max_pool3d(x, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
    for stage, units in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for i in range(1, units + 1):
            name, stride = f"conv{stage}.B{i:02}", (1, 1, 1) if i > 1 else (2, 1, 1) if stage == 2 else (1, 2, 2)
            out = layer(f"{name}.conv_m1", x + layer(f"{name}.conv_i2", layer(f"{name}.conv_i1", x)), 16, stride)
            out = layer(f"{name}.conv_m2", out, 1 if i == 1 else 16)
            x = out + (layer(f"{name}.conv_w1", x, stride=stride) if i == 1 else x)
    return bn(state, "tail.bn", x).relu()


@torch.no_grad()
def test_mfnet():
    trunk = small("mfnet")
    assert on_meta("mfnet")(torch.empty(1, 3, 16, 224, 224, device="meta")).shape == (1, 768, 8, 7, 7)
    assert_close(trunk(clips()), mfnet(trunk.state_dict(), clips()))

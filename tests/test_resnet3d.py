"""3D-ResNets have Hara's names and sizes, and their grid is what the strides say."""

import math

import pytest
import torch

from models.resnet3d import DEPTHS, ResNet3D, ZeroPadShortcut

PUBLISHED = {"temporal_strides": (1, 2, 2, 2, 2), "spatial_strides": (2, 2, 2, 2, 2)}


def on_meta(*args, **options) -> ResNet3D:
    """Shapes only, nothing is computed."""
    with torch.device("meta"):
        return ResNet3D(*args, **options)


def hara_names(depth: int, shortcut: str = "B") -> set[str]:
    """The state dict of 3D-ResNets-PyTorch without its `fc`, by its rules."""
    def norm(prefix):
        return {f"{prefix}.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}

    convs, counts = {10: (2, (1, 1, 1, 1)), 18: (2, (2, 2, 2, 2)), 34: (2, (3, 4, 6, 3)), 50: (3, (3, 4, 6, 3)),
                     101: (3, (3, 4, 23, 3)), 152: (3, (3, 8, 36, 3)), 200: (3, (3, 24, 36, 3))}[depth]
    names = {"conv1.weight"} | norm("bn1")
    for layer, count in enumerate(counts, 1):
        for block in range(count):
            for conv in range(1, convs + 1):
                names |= {f"layer{layer}.{block}.conv{conv}.weight"} | norm(f"layer{layer}.{block}.bn{conv}")
        if shortcut == "B" and (layer > 1 or depth >= 50):
            names |= {f"layer{layer}.0.downsample.0.weight"} | norm(f"layer{layer}.0.downsample.1")
    return names


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_names_are_haras(depth, shortcut):
    assert set(on_meta(depth, shortcut=shortcut).state_dict()) == hara_names(depth, shortcut)


def test_shapes_are_haras():
    shapes = {name: tuple(value.shape) for name, value in on_meta(18).state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7, 7)
    assert shapes["layer1.0.conv1.weight"] == (64, 64, 3, 3, 3)
    assert shapes["layer2.0.conv1.weight"] == (128, 64, 3, 3, 3)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1, 1)
    assert shapes["layer4.1.bn2.running_var"] == (512,)
    deep = {name: tuple(value.shape) for name, value in on_meta(50).state_dict().items()}
    assert deep["layer1.0.downsample.0.weight"] == (256, 64, 1, 1, 1)
    assert deep["layer4.2.conv3.weight"] == (2048, 512, 1, 1, 1)


def test_parameter_counts():
    """With a 400-way head and conv1 of 3 frames, depth 18 is torchvision's r3d_18, which states 33 371 472 parameters
    (R3D_18_Weights.KINETICS400_V1, "num_params"). Four more frames of conv1, 49 x 3 x 64 weights each, make 33.4 M;
    shortcut A saves the three 1x1x1 convolutions with their batch-norms, 33.2 M."""
    def count(**options):
        return sum(parameter.numel() for parameter in on_meta(18, **options).parameters()) + 512 * 400 + 400

    assert count(conv1_t_size=3) == 33_371_472
    assert count() == 33_371_472 + 4 * 49 * 3 * 64 == 33_409_104
    assert count(shortcut="A") == count() - sum(a * b + 2 * b for a, b in ((64, 128), (128, 256), (256, 512)))
    assert round(count(shortcut="A") / 1e6, 1) == 33.2


@pytest.mark.parametrize("size", [(16, 112, 112), (16, 64, 96), (7, 33, 50), (1, 8, 8)])
@pytest.mark.parametrize("options", [
    {}, PUBLISHED, {"spatial_strides": (2, 2, 2, 2, 1)}, {"temporal_strides": (2, 1, 1, 3, 1)}, {"max_pool": False},
    {"conv1_t_size": 3, "shortcut": "A"}, {"depth": 50}])
def test_the_grid_follows_the_stride(size, options):
    trunk = on_meta(**{"depth": 10, **options})
    features = trunk(torch.empty(2, 3, *size, device="meta"))
    cells = tuple(math.ceil(length / stride) for length, stride in zip(size, trunk.stride, strict=True))
    assert features.shape == (2, trunk.out_channels, *cells)
    assert all(isinstance(stride, int) for stride in trunk.stride)


def test_default_and_published_grids():
    clip = torch.empty(1, 3, 16, 112, 112, device="meta")
    assert on_meta(18)(clip).shape == (1, 512, 4, 4, 4)
    assert on_meta(18).stride == (4, 32, 32)
    assert on_meta(18, **PUBLISHED)(clip).shape == (1, 512, 1, 4, 4)  # no prototype could say when
    assert on_meta(18, spatial_strides=(2, 2, 2, 2, 1))(clip).shape == (1, 512, 4, 7, 7)


def test_strides_change_no_weight():
    ours, published = ({name: value.shape for name, value in on_meta(18, **options).state_dict().items()}
                       for options in ({}, PUBLISHED))
    assert ours == published


def test_shortcut_a_subsamples_and_pads_with_zeros():
    x = torch.randn(2, 3, 5, 6, 7)
    out = ZeroPadShortcut(5, (2, 3, 1))(x)
    assert out.shape == (2, 5, 3, 2, 7)
    for b, c, t, h, w in torch.cartesian_prod(*map(torch.arange, out.shape)).tolist():
        assert out[b, c, t, h, w] == (x[b, c, 2 * t, 3 * h, w] if c < 3 else 0)


def test_shortcut_a_has_the_shape_of_its_block():
    torch.manual_seed(0)
    trunk = ResNet3D(10, shortcut="A", widen_factor=0.125).eval()
    assert trunk(torch.randn(1, 3, 7, 33, 40)).shape == (1, 64, 2, 2, 2)
    assert not [name for name, _ in trunk.named_parameters() if "downsample" in name]


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_of_one(training):
    torch.manual_seed(0)
    trunk = ResNet3D(10, widen_factor=0.125).train(training)
    features = trunk(torch.randn(1, 3, 8, 64, 64))
    assert features.shape == (1, 64, 2, 2, 2) and features.isfinite().all()


def test_a_cell_answers_most_to_what_stands_at_its_centre():
    """Cells are centred at stride x index: an impulse there moves its own cell most (away from the padded border)."""
    trunk = ResNet3D(10, widen_factor=0.125, conv1_t_size=3, spatial_strides=(2, 2, 2, 1, 1)).eval()
    st, sh, sw = trunk.stride
    places = [(2, 3, 2), (1, 2, 3), (2, 2, 2), (1, 3, 3)]
    clips = torch.zeros(4, 3, 16, 48, 48)
    for clip, (t, h, w) in zip(clips, places, strict=True):
        clip[:, st * t, sh * h, sw * w] = 100
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.dim() == 5:
                parameter.fill_(0.01)
        response = trunk(clips).sum(1)  # (B, t, h, w)
    assert response.shape[1:] == (4, 6, 6)
    for one, place in zip(response, places, strict=True):
        assert tuple(int(i) for i in torch.unravel_index(one.argmax(), one.shape)) == place


@pytest.mark.parametrize(("options", "word"), [
    ({"depth": 17}, "depth"), ({"conv1_t_size": 4}, "odd"), ({"temporal_strides": (1, 2)}, "five")])
def test_arguments_outside_their_range(options, word):
    with pytest.raises(ValueError, match=word):
        on_meta(**options)

"""What published heads read of a grid, and I3D's weights under the names of the other port."""

import pytest
import torch
import torchvision
from attributable import CLIPS, call
from media import shades, write_video
from torch import nn
from trunks import on_meta, save, shuffle, small

from models import TRUNKS
from models.i3d import I3D, MIXED
from models.torchvision_video import S3D
from models.unwrapping import layout_of
from models.weights import flags_of, load_pretrained

WINDOWED = ("i3d", "s3d")


def slow_pool(features, window):
    """Place by place of the window, which is cut to the grid."""
    t, h, w = (min(pair) for pair in zip(features.shape[2:], window, strict=True))
    places = [features[:, :, i:i + t, j:j + h, k:k + w].mean((2, 3, 4)) for i in range(features.shape[2] - t + 1)
              for j in range(features.shape[3] - h + 1) for k in range(features.shape[4] - w + 1)]
    return torch.stack(places).mean(0)


@pytest.mark.parametrize("name", WINDOWED)
@pytest.mark.parametrize("grid", [(8, 7, 7), (1, 2, 3), (5, 8, 10), (2, 7, 7), (3, 2, 9)])
def test_a_windowed_head_pools_place_by_place(name, grid):
    features = torch.randn(2, 6, *grid, generator=torch.Generator().manual_seed(0))
    found = on_meta(name).pooled(features)
    torch.testing.assert_close(found, slow_pool(features, (2, 7, 7)), atol=1e-6, rtol=1e-5)
    if all(cells <= size for cells, size in zip(grid, (2, 7, 7), strict=True)):
        assert torch.equal(found, features.mean((2, 3, 4)))
    elif grid[0] > 2:  # the first and the last frames count less
        assert (found - features.mean((2, 3, 4))).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in TRUNKS if name not in WINDOWED])
def test_other_heads_read_the_plain_mean(name):
    features = torch.randn(2, 6, 5, 8, 10)
    assert torch.equal(TRUNKS[name].pooled(on_meta(name, **TRUNKS[name].small), features), features.mean((2, 3, 4)))


def test_pooling_of_a_gradient():
    """Every cell's weight is the number of windows that it lies in."""
    features = torch.zeros(1, 1, 3, 8, 7, requires_grad=True)
    on_meta("i3d").pooled(features).sum().backward()
    frames, rows = torch.tensor([1, 2, 1]) / 4, torch.tensor([1, 2, 2, 2, 2, 2, 2, 1]) / 14
    expected = frames.view(3, 1, 1) * rows.view(1, 8, 1) * torch.full((1, 1, 7), 1 / 7)
    torch.testing.assert_close(features.grad[0, 0], expected)


@torch.no_grad()
def test_s3ds_head_is_torchvisions():
    network = torchvision.models.video.s3d(weights=None, num_classes=4).eval()
    features = torch.randn(2, 1024, 8, 8, 7)
    head = network.classifier[1]
    ours = on_meta("s3d").pooled(features) @ head.weight.flatten(1).T + head.bias
    theirs = network.classifier(network.avgpool(features)).mean((2, 3, 4))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_s3d_is_torchvisions_at_64_frames(tmp_path):
    torch.manual_seed(0)
    network = shuffle(torchvision.models.video.s3d(weights=None, num_classes=4))
    trunk = S3D()
    head = load_pretrained(trunk, save(tmp_path, network.state_dict())).head
    clip = torch.randn(1, 3, 64, 224, 224)
    ours = trunk.eval().pooled(trunk(clip)) @ head["classifier.1.weight"].flatten(1).T + head["classifier.1.bias"]
    torch.testing.assert_close(ours, network(clip), atol=1e-5, rtol=1e-5)


# --- I3D's other port


class Unit(nn.Module):
    """One of hassony2's kinetics_i3d_pytorch: its names alone."""

    def __init__(self, n_in, n_out, size, bias=False):
        super().__init__()
        self.conv3d = nn.Conv3d(n_in, n_out, size, bias=bias)
        if not bias:
            self.batch3d = nn.BatchNorm3d(n_out)


class Block(nn.Module):
    def __init__(self, n_in, b0, b1a, b1b, b2a, b2b, b3b):
        super().__init__()
        self.branch_0 = Unit(n_in, b0, 1)
        self.branch_1 = nn.Sequential(Unit(n_in, b1a, 1), Unit(b1a, b1b, 3))
        self.branch_2 = nn.Sequential(Unit(n_in, b2a, 1), Unit(b2a, b2b, 3))
        self.branch_3 = nn.Sequential(nn.MaxPool3d(3), Unit(n_in, b3b, 1))


def port(n_classes: int = 3) -> nn.Module:
    network, n_in = nn.Module(), 192
    network.conv3d_1a_7x7, network.conv3d_2b_1x1 = Unit(3, 64, 7), Unit(64, 64, 1)
    network.conv3d_2c_3x3 = Unit(64, 192, 3)
    for name, channels in MIXED.items():
        network.add_module(name.lower(), Block(n_in, *channels))
        n_in = channels[0] + channels[2] + channels[4] + channels[5]
    network.conv3d_0c_1x1 = Unit(1024, n_classes, 1, bias=True)
    return shuffle(network)


def test_the_other_ports_weights_load(tmp_path):
    """All of them, each in its place: the order of both networks' tensors is the same."""
    state = port().state_dict()
    assert layout_of(state).name == "the PyTorch port of I3D in lower case" and flags_of(state) == {"--model": "i3d"}
    for content in (state, {"state_dict": {f"module.{key}": value for key, value in state.items()}}):
        trunk, lines = I3D(), []
        loaded = load_pretrained(trunk, save(tmp_path, content), tell=lines.append)
        own = trunk.state_dict()
        theirs = {key: value for key, value in state.items() if "conv3d_0c_1x1" not in key}
        assert loaded.normalisation == "i3d" and len(own) == len(theirs)
        for ours, (key, value) in zip(own.values(), theirs.items(), strict=True):
            assert torch.equal(ours, value), key
        assert loaded.dropped == ["conv3d_0c_1x1.conv3d.weight", "conv3d_0c_1x1.conv3d.bias"]
    assert small("i3d").state_dict().keys() == own.keys()


def test_the_other_ports_head_is_explained(tmp_path):
    save(tmp_path, port().state_dict())
    write_video(tmp_path / "x.avi", shades(9))
    (tmp_path / "c.json").write_text('["a", "b", "c"]')
    call(tmp_path, "--model i3d --pretrain_path kinetics.pth --classes c.json --vis_method grad_cam "
         f"{CLIPS.replace('24', '32')}", "--video", str(tmp_path / "x.avi"), "--out", str(tmp_path / "out"))
    assert len(list((tmp_path / "out" / "grad_cam").rglob("*.npy"))) == 1

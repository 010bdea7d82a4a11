"""Class feature pyramids equal a slow recursion over networks of every kind, whose wiring is written out by hand."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trunks import light, small

from attribution import METHODS
from attribution.feature_pyramid import feature_pyramid, spread
from attribution.trace import Grid
from models import TRUNKS
from models.geometry import upsample
from models.resnet3d import ResNet3D

CLIP = (3, 4, 8, 8)


class Net(nn.Module):
    """Convolutions by name, put together by a function; `wiring` tells for each which channels it reads.

    wiring: name -> for each input channel the (name, channel) pairs that it is the sum of; "features" for the output.
    """

    def __init__(self, convs: dict[str, nn.Conv3d], flow, wiring: dict[str, list]) -> None:
        super().__init__()
        self.convs = nn.ModuleDict(convs)
        self.norm = nn.BatchNorm3d(next(iter(convs.values())).out_channels)
        self.norm.running_mean.uniform_(-0.1, 0.1)
        self._flow, self.wiring = flow, wiring

    def forward(self, clips):
        return self._flow(self, self.convs, clips)


def conv(a, b, kernel=3, **options):
    return nn.Conv3d(a, b, kernel, padding=kernel // 2, **options)


def plain():
    return Net({"a": conv(3, 6), "b": conv(6, 7, stride=2), "c": conv(7, 5, 1)},
               lambda net, m, x: m["c"](m["b"](net.norm(m["a"](x)).relu()).relu_()).relu(),
               {"a": [[]] * 3, "b": one("a", 6), "c": one("b", 7), "features": one("c", 5)})


def grouped():
    return Net({"a": conv(3, 8), "b": conv(8, 12, groups=4), "c": conv(12, 6, 1, groups=2)},
               lambda net, m, x: m["c"](m["b"](net.norm(m["a"](x)).relu()).relu()),
               {"a": [[]] * 3, "b": one("a", 8), "c": one("b", 12), "features": one("c", 6)})


def depthwise():
    return Net({"a": conv(3, 6), "b": conv(6, 6, groups=6), "c": conv(6, 6, 1)},
               lambda net, m, x: m["c"](m["b"](net.norm(m["a"](x)).relu())),
               {"a": [[]] * 3, "b": one("a", 6), "c": one("b", 6), "features": one("c", 6)})


def branched():
    def flow(net, m, x):
        x = net.norm(m["a"](x)).relu_()
        return m["d"](torch.cat((m["b"](x), nn.functional.max_pool3d(x, 3, 1, 1), m["c"](x).relu()), 1))
    return Net({"a": conv(3, 4), "b": conv(4, 5, 1), "c": conv(4, 3), "d": conv(12, 6)}, flow,
               {"a": [[]] * 3, "b": one("a", 4), "c": one("a", 4),
                "d": [*one("b", 5), *one("a", 4), *one("c", 3)], "features": one("d", 6)})


def residual():
    def flow(net, m, x):
        x = net.norm(m["a"](x)).relu()
        out = m["b"](x)
        out += nn.functional.pad(x, (0, 0, 0, 0, 0, 0, 0, 2))
        return m["c"](out.relu_())
    summed = [[("b", i), *([("a", i)] if i < 4 else [])] for i in range(6)]
    return Net({"a": conv(3, 4), "b": conv(4, 6), "c": conv(6, 5, 1)}, flow,
               {"a": [[]] * 3, "b": one("a", 4), "c": summed, "features": one("c", 5)})


def shuffled():
    def flow(net, m, x):
        x = net.norm(m["a"](x)).relu()
        x = x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        low, high = x.chunk(2, 1)
        return torch.cat((m["b"](low), m["c"](high[:, 1:])), 1)
    order = [("a", 4 * (i % 2) + i // 2) for i in range(8)]
    return Net({"a": conv(3, 8), "b": conv(4, 3), "c": conv(3, 4, 1)}, flow,
               {"a": [[]] * 3, "b": [[o] for o in order[:4]], "c": [[o] for o in order[5:]],
                "features": [*one("b", 3), *one("c", 4)]})


def one(name, n):
    return [[(name, i)] for i in range(n)]


NETS = [plain, grouped, depthwise, branched, residual, shuffled]


def min_max(values):
    low, high = min(values), max(values)
    return [1.0 if high == low else (value - low) / (high - low) for value in values]


def best(shares, theta, top_n):
    order = sorted(range(len(shares)), key=lambda i: -shares[i])[:top_n or len(shares)]
    return [i for i in order if shares[i] >= theta]


def slow_pyramid(net, clip, weights, theta, depth, top_n):
    """Channel by channel down the wiring: {(name, channel): [least depth, largest share]} and the set of edges."""
    read = {}
    hooks = [m.register_forward_pre_hook(lambda m, args, name=name: read.update({name: args[0][0].mean((1, 2, 3))}))
             for name, m in net.convs.items()]
    with torch.no_grad():
        net(clip[None])
    for hook in hooks:
        hook.remove()
    reached, edges = {}, set()

    def go(reader, channel, places, share, down):
        for name, index in places:
            edges.add((reader, channel, name, index))
            old = reached.get((name, index), [99, 0.0])
            reached[name, index] = [min(old[0], down), max(old[1], share)]
            if down >= depth:
                continue
            kernel = net.convs[name].weight.detach()[index].mean((1, 2, 3))
            per_group = net.convs[name].out_channels // net.convs[name].groups
            inputs = [index // per_group * len(kernel) + i for i in range(len(kernel))]
            products = [float(kernel[i] * read[name][c]) for i, c in enumerate(inputs)]
            shares = min_max([product / sum(products) for product in products])
            for i in best(shares, theta, top_n):
                go(name, index, net.wiring[name][inputs[i]], shares[i], down + 1)

    shares = min_max(weights.tolist())
    for channel in best(shares, theta, top_n):
        go("features", channel, net.wiring["features"][channel], shares[channel], 1)
    return reached, edges


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize(("theta", "depth", "top_n"), [(0.6, 9, None), (0.3, 2, None), (0.1, 9, 2)])
def test_pyramid_is_the_slow_recursion(make, theta, depth, top_n):
    torch.manual_seed(NETS.index(make))
    net, clip = make().eval(), torch.randn(CLIP)
    with torch.no_grad():
        weights = torch.randn(net(clip[None]).shape[1])
    found = feature_pyramid(lambda clips: net(clips).mean((2, 3, 4)) @ weights, clip, layer=net, theta=theta,
                            depth=depth, top_n=top_n)
    reached, edges = slow_pyramid(net, clip, weights, theta, depth, top_n)
    names = [layer.name.removeprefix("convs.") for layer in found.layers]
    got = {}
    for name, layer in zip(names[1:], found.layers[1:], strict=True):
        got |= {(name, channel): share for channel, share in
                zip(layer.channels.tolist(), layer.strength.tolist(), strict=True)}
        assert layer.depth == min(reached[name, channel][0] for channel in layer.channels.tolist())
    assert got == pytest.approx({key: share for key, (_, share) in reached.items()}, abs=1e-4)
    assert {(names[a], i, names[b], j) for a, i, b, j in found.edges.tolist()} == edges


def test_a_linear_heads_weights_are_the_gradient():
    """Of the score with respect to pooled features; given or not, the pyramid is the same."""
    torch.manual_seed(0)
    net, clip, weights = plain().eval(), torch.randn(CLIP), torch.randn(5)
    found = [feature_pyramid(lambda clips: net(clips).mean((2, 3, 4)) @ weights, clip, layer=net, class_weights=given)
             for given in (None, weights)]
    assert found[0].graph() == found[1].graph()
    torch.testing.assert_close(found[0].layers[0].tubes, found[1].layers[0].tubes)


@pytest.mark.parametrize("theta", [0.3, 0.55, 0.8])
def test_the_first_step_is_min_max_over_the_whole_head(theta):
    """As in the authors' code: one minimum and one maximum of all classes' weights."""
    torch.manual_seed(0)
    net, clip, head = plain().eval(), torch.randn(CLIP), torch.randn(4, 5)
    values = [value for row in head.tolist() for value in row]
    for label in range(4):
        expected = {channel: (value - min(values)) / (max(values) - min(values))
                    for channel, value in enumerate(head[label].tolist())}
        best = max(expected, key=expected.get)
        expected = {channel: share for channel, share in expected.items() if share >= theta or channel == best}

        def score(clips, label=label):
            return net(clips).mean((2, 3, 4)) @ head[label]

        known = {"layer": net, "class_weights": head[label], "head_weights": head, "theta": theta, "depth": 1}
        found = feature_pyramid(score, clip, **known)
        first = found.layers[0]
        strength = dict(zip(first.channels.tolist(), first.strength.tolist(), strict=True))
        assert strength == pytest.approx(expected, abs=1e-6)
        assert torch.equal(METHODS["class_feature_pyramid"](score, clip, **known), found.tube(0, CLIP[1:]))
    flat = torch.full((4, 5), 0.5)
    found = feature_pyramid(score, clip, layer=net, class_weights=flat[0], head_weights=flat, theta=theta, depth=1)
    assert len(found.layers[0].channels) == 5


def test_tubes_are_the_chosen_responses_in_their_place():
    torch.manual_seed(2)
    net, clip, weights = plain().eval(), torch.randn(CLIP), torch.randn(5)
    with torch.no_grad():
        a = net.norm(net.convs["a"](clip[None])).relu()
        b = net.convs["b"](a).relu()
    found = feature_pyramid(lambda clips: net(clips).mean((2, 3, 4)) @ weights, clip, layer=net, depth=9)
    layers = {layer.name: layer for layer in found.layers}
    for name, response, stride in (("convs.a", a, (1, 1, 1)), ("convs.b", b, (2, 2, 2))):
        layer = layers[name]
        assert layer.grid.stride == stride and layer.grid.offset == (0, 0, 0)
        torch.testing.assert_close(layer.tubes, layer.strength.view(-1, 1, 1, 1) * response[0, layer.channels])
        torch.testing.assert_close(layer.tube(CLIP[1:]), upsample(layer.tubes.sum(0), CLIP[1:], stride))
        assert layer.kernel_tubes(CLIP[1:]).shape == (len(layer.channels), *CLIP[1:])
    assert found.layers[0].tubes.shape[0] == len(found.layers[0].channels)


@pytest.mark.parametrize("name", light(name for name in TRUNKS if not name.startswith(("mvit", "swin"))))
def test_the_features_lie_where_the_trunk_says(name):
    """With padding in the convolutions, before them, in pools, and where nothing is padded."""
    trunk, clip = small(name), torch.randn(3, 16, 64, 64, generator=torch.Generator().manual_seed(0))
    features = feature_pyramid(lambda clips: trunk(clips).mean((2, 3, 4))[:, 0], clip, layer=trunk, depth=1).layers[0]
    assert features.grid.stride == trunk.stride
    offset = getattr(trunk, "offset", (0, 0, 0))  # rounded down
    assert all(0 <= found - told < 1 for found, told in zip(features.grid.offset, offset, strict=True))


@pytest.mark.parametrize(("cells", "stride", "offset"), [
    ((2, 4, 3), (4, 8, 16), (0, 0, 0)), ((1, 7, 4), (16, 16, 32), (5, 2.5, 23)), ((3, 5, 2), (1, 1, 2), (0, 0.5, 1))])
def test_spread_places_cells_at_their_centres(cells, stride, offset):
    size, maps = tuple(min(s * n, 40) for s, n in zip(stride, cells, strict=True)), torch.rand(2, *cells)
    torch.testing.assert_close(spread(maps, size, Grid(stride, offset)), upsample(maps, size, stride, offset),
                               atol=1e-5, rtol=1e-4)


def test_a_windowed_transformer_is_refused_at_every_size():
    """Whose windows are padded with the channels last."""
    trunk = small("swin3d_t")
    for size in (32, 64):
        clip = torch.randn(3, 4, size, size, generator=torch.Generator().manual_seed(0))
        with pytest.raises(ValueError, match="features that come out of convolutions"):
            feature_pyramid(lambda clips: trunk(clips).mean((2, 3, 4))[:, 0], clip, layer=trunk)


class Padded(nn.Module):
    """A convolution and a pool that are padded before them, as I3D's are, then pixels left out by a slice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3)

    def forward(self, clips):
        x = self.conv(F.pad(clips, (1, 1, 1, 1, 1, 1)))
        x = F.max_pool3d(F.pad(x, (0, 1, 0, 1, 1, 1)), (3, 2, 2), (1, 2, 2))
        return F.avg_pool3d(x[..., ::3], (1, 2, 1))


def test_the_grid_of_explicit_padding_pools_and_slices():
    net, clip = Padded(), torch.rand(3, 6, 24, 24)
    found = feature_pyramid(lambda clips: net(clips).mean((2, 3, 4))[:, 0], clip, layer=net, depth=1).layers
    assert found[0].grid.stride == (1, 4, 6) and found[0].grid.offset == (0, 1.5, 0.5)
    assert found[1].grid.stride == (1, 1, 1) and found[1].grid.offset == (0, 0, 0)


def test_a_residual_network_is_left_as_it_was():
    torch.manual_seed(0)
    trunk = ResNet3D(10, widen_factor=0.125, conv1_t_size=3).eval()
    clip = torch.randn(3, 8, 32, 32)
    with torch.no_grad():
        before = trunk(clip[None])
    weights = torch.randn(trunk.out_channels)
    found = feature_pyramid(lambda clips: trunk(clips).mean((2, 3, 4)) @ weights, clip, layer=trunk, depth=30)
    assert found.layers[1].name == "layer4.0.conv2" and found.layers[-1].name == "layer1.0.conv1"
    assert {layer.name for layer in found.layers} >= {"conv1", "layer4.0.downsample.0"}
    assert found.layers[0].grid.stride == trunk.stride
    assert "forward" not in vars(trunk) and all(parameter.grad is None for parameter in trunk.parameters())
    with torch.no_grad():
        assert torch.equal(trunk(clip[None]), before)
    graph = json.loads(json.dumps(found.graph()))
    assert len(graph["edges"]) == len(found.edges) and graph["layers"][1]["name"] == "layer4.0.conv2"


class Tokens(nn.Module):
    """Features that no convolution stands behind."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 5)

    def forward(self, clips):
        return self.mix(clips.movedim(1, -1)).movedim(-1, 1)


def test_what_cannot_be_served_is_said():
    clip, tokens, net = torch.randn(CLIP), Tokens(), plain().eval()
    with pytest.raises(ValueError, match="come out of convolutions"):
        feature_pyramid(lambda clips: tokens(clips).mean((1, 2, 3, 4)), clip, layer=tokens)
    with pytest.raises(ValueError, match="runs once"):
        feature_pyramid(lambda clips: clips.mean((1, 2, 3, 4)), clip, layer=net)
    with pytest.raises(ValueError, match="theta"):
        feature_pyramid(lambda clips: net(clips).mean((1, 2, 3, 4)), clip, layer=net, theta=1.5)
    with pytest.raises(ValueError, match="no layer 40"):
        METHODS["class_feature_pyramid"](lambda clips: net(clips).mean((1, 2, 3, 4)), clip, layer=net, level=40)
    assert "forward" not in vars(net)

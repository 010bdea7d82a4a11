"""Other ways to compute convolutions equal PyTorch's own, in outputs and gradients."""

import pytest
import torch

from benchmarks.convolutions import WAYS, Kind, fitting, kinds_of, use
from models.resnet3d import ResNet3D

KINDS = [Kind((5, 3, 7, 7, 7), (2, 3, 6, 20, 20), (1, 2, 2), (3, 3, 3)),
         Kind((5, 3, 7, 7, 7), (2, 3, 5, 15, 18), (2, 2, 2), (3, 3, 3)),
         Kind((4, 3, 3, 5, 3), (1, 3, 4, 9, 11), (1, 2, 2), (1, 2, 1)),
         Kind((4, 3, 1, 4, 4), (1, 3, 2, 9, 10), (1, 2, 2), (0, 1, 1)),
         Kind((6, 8, 3, 3, 3), (2, 8, 5, 7, 6), (1, 1, 1), (1, 1, 1)),
         Kind((6, 9, 3, 3, 3), (2, 9, 5, 7, 6), (2, 2, 2), (1, 1, 1)),
         Kind((6, 9, 3, 1, 1), (2, 9, 5, 7, 6), (1, 1, 1), (1, 0, 0)),
         Kind((6, 9, 1, 1, 1), (2, 9, 5, 7, 6), (2, 2, 2), (0, 0, 0)),
         Kind((6, 9, 1, 1, 1), (2, 9, 4, 4, 4), (1, 1, 1), (0, 0, 0))]


@pytest.mark.parametrize(("kind", "way"), [(kind, way) for kind in KINDS for way in fitting(kind)], ids=str)
def test_every_way_equals_the_usual_one(kind, way):
    torch.manual_seed(0)
    x, weight = torch.randn(kind.size, dtype=torch.float64), torch.randn(kind.weight, dtype=torch.float64)
    results = []
    for name in ("direct", way):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        out = WAYS[name][0](*leaves, kind.stride, kind.padding)
        assert out.shape == kind.out
        torch.manual_seed(1)
        results.append([out, *torch.autograd.grad(out, leaves, torch.randn(kind.out, dtype=torch.float64))])
    for usual, other in zip(*results, strict=True):
        torch.testing.assert_close(other, usual, rtol=1e-10, atol=1e-10)


def test_every_way_is_asked_of_some_kind():
    assert {way for kind in KINDS for way in fitting(kind)} == set(WAYS)


def test_arithmetic_and_bytes_of_a_kind():
    kind = Kind((2, 3, 1, 1, 1), (1, 3, 2, 2, 2), (1, 1, 1), (0, 0, 0))
    assert kind.flops == 2 * 16 * 3
    assert kind.bytes(2) == 2 * (6 + 24 + 16)


@pytest.mark.parametrize("way", ["in planes", "pixels as channels", "summed over frames"])
def test_a_trunk_by_other_ways_is_the_same_function(way):
    torch.manual_seed(0)
    trunk = ResNet3D(10, widen_factor=0.125).eval()
    clips = torch.randn(2, 3, 8, 32, 32)
    before = trunk(clips)
    kinds = kinds_of(trunk, clips)
    assert sum(map(len, kinds.values())) == sum(isinstance(m, torch.nn.Conv3d) for m in trunk.modules())
    use(kinds, {kind: way for kind in kinds if way in fitting(kind)})
    torch.testing.assert_close(trunk(clips), before, rtol=1e-4, atol=1e-5)

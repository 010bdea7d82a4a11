"""The stable hyperbolic distance against two slow references, and its gradients."""

import math
from decimal import Decimal, localcontext

import geoopt
import pytest
import torch
from embedding_cases import CURVATURES, directions, points
from torch import Tensor

from hierarchy import (
    distance,
)

pytestmark = pytest.mark.filterwarnings("error")


def textbook_distance(u: Tensor, w: Tensor, c: float) -> float:
    """The hyperbolic law of cosines, in decimals enough not to care."""
    with localcontext() as context:
        context.prec = 250
        u, w, root = [Decimal(x) for x in u.tolist()], [Decimal(x) for x in w.tolist()], Decimal(c).sqrt()
        u_norm, w_norm = sum(x * x for x in u).sqrt(), sum(x * x for x in w).sqrt()
        cosine = sum(x * y for x, y in zip(u, w, strict=True)) / (u_norm * w_norm)
        p, q = (2 * root * u_norm).exp(), (2 * root * w_norm).exp()
        cosh = ((p + 1 / p) * (q + 1 / q) - (p - 1 / p) * (q - 1 / q) * cosine) / 4
        return float((cosh + (cosh * cosh - 1).sqrt()).ln() / root)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dim", [2, 300])
def test_distance_equals_geoopt_where_it_does_not_clip(c: float, seed: int, dim: int) -> None:
    ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))
    u, w = points(20, dim, seed, c=c, radius=9.5), points(30, dim, seed + 100, c=c, radius=9.5)
    w[:5] = u[:5] * 0.7  # on one ray, where 1 - cos loses everything
    u[6] = 0
    expected = ball.dist(ball.expmap0(u)[:, None], ball.expmap0(w)[None])
    exact = math.sqrt(c) * expected < 16  # its artanh stops at 16.8
    assert exact.float().mean() > 0.9
    torch.testing.assert_close(distance(u, w, c)[exact], expected[exact], rtol=1e-6, atol=1e-6 / math.sqrt(c))


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("radii", [(1e-6, 3), (0.5, 0.6), (9, 9), (18, 0.01), (59, 61), (20, 150)])
def test_distance_equals_the_law_of_cosines_far_beyond_the_ball(c: float, radii: tuple[float, float]) -> None:
    r1, r2 = (radius / (2 * math.sqrt(c)) for radius in radii)
    ray, other, near = directions(3, 4, seed=7)
    near = ray + 1e-5 * near
    for one, two in [(ray, other), (ray, -ray), (ray, near), (other, near)]:
        u, w = r1 * one, r2 * two
        expected = textbook_distance(u, w, c)
        assert distance(u[None], w[None], c).item() == pytest.approx(expected, rel=1e-8)
        # float32 is told the same points, but knows a direction to 6e-8 only
        u, w = u.float(), w.float()
        expected = textbook_distance(u, w, c)
        slack = 5e-7 * math.exp((r1 + r2) * math.sqrt(c) - expected * math.sqrt(c) / 2) if two is near else 0
        if slack < 0.1:
            assert distance(u[None], w[None], c).item() == pytest.approx(expected, rel=2e-6 + slack)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("seed", range(3))
def test_float32_equals_float64(c: float, seed: int) -> None:
    u, w = (points(25, 300, seed + k, c=c, radius=40).float() for k in (0, 50))
    result = distance(u, w, c)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), distance(u.double(), w.double(), c), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("radius", [1e-6, 1.0, 9.0, 18.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_point_is_at_no_distance_from_itself(c: float, radius: float, dtype: torch.dtype) -> None:
    u = (directions(10, 300, seed=3) * radius / (2 * math.sqrt(c))).to(dtype)
    assert distance(u, u, c).diagonal().abs().max() < 1e-6


def test_distance_is_symmetric_and_keeps_leading_axes() -> None:
    u, w = points(6, 5, 0, c=1, radius=20).view(2, 3, 5), points(4, 5, 9, c=1, radius=20)
    result = distance(u, w, 1.0)
    assert result.shape == (2, 3, 4)
    torch.testing.assert_close(result[1], distance(w, u[1], 1.0).T)
    assert distance(u[:, :0], w, 1.0).shape == (2, 0, 4)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [0, 1e-30, 1e-13, 1e-8, 1e-5, 1e-2, 1, 4.5, 9, 30, 100, 1e3, 1e4])
def test_gradients_are_finite(length: float, dtype: torch.dtype, c: float) -> None:
    ray = directions(8, 20, seed=1)
    leaves = torch.cat([directions(5, 20, seed=2), ray[:2], -ray[2:3], ray[3:4] + 1e-6]) * 4.5
    u = (ray * length).to(dtype).requires_grad_()
    w = torch.cat([leaves, ray[4:5] * length, 0 * ray[:1]]).to(dtype).requires_grad_()  # u itself, and the origin
    result = distance(u, w, c)
    assert result.isfinite().all()
    loss = torch.log_softmax(-result / 0.5, dim=-1)[:, 0].sum()
    for gradient in (*torch.autograd.grad(result.sum(), (u, w), retain_graph=True), *torch.autograd.grad(loss, (u, w))):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [0, 1e-30, 1e-8, 1e-6])
def test_gradient_at_the_origin_leads_straight_to_the_other_point(length: float, dtype: torch.dtype, c: float) -> None:
    w = (directions(1, 20, seed=4) * 2 / math.sqrt(c)).to(dtype)
    u = (directions(1, 20, seed=5) * length).to(dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(distance(u, w, c).sum(), u)
    torch.testing.assert_close(gradient, -2 * w / w.norm(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("radius", [0.1, 3.0, 25.0, 40.0, 500.0])
def test_gradient_equals_finite_differences(radius: float, c: float) -> None:
    u = points(3, 4, 11, c=c, radius=radius) + directions(3, 4, seed=1) * 0.05 / math.sqrt(c)
    w = points(5, 4, 13, c=c, radius=radius) + directions(5, 4, seed=2) * 0.05 / math.sqrt(c)
    assert torch.autograd.gradcheck(
        lambda u, w: distance(u, w, c), (u.requires_grad_(), w.requires_grad_()), eps=1e-6, atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_is_computed_in_float32(dtype: torch.dtype) -> None:
    u, w = points(6, 30, 0, c=1, radius=9).to(dtype), points(4, 30, 5, c=1, radius=9).float()
    result = distance(u, w, 1.0)
    assert result.dtype == torch.float32
    assert torch.equal(result, distance(u.float(), w, 1.0))
    assert torch.equal(distance(u, w.to(dtype), 1.0), distance(u.float(), w.to(dtype).float(), 1.0))

"""Hyperbolic space in coordinates of tangent vectors at the origin, which need no clipping.

A point of the Poincare ball of curvature -c is represented by the vector u that ``exp0`` maps to it. Ball coordinates
clip points beyond radius 6 in float32, and beyond about 12 in float64; tangent vectors do not. The radius, the distance
to the origin, is 2 |u|.
"""

import math

import torch
from torch import Tensor

_ZERO = 1e-12  # |u| below this counts as zero; its square is still a normal float32
_NO_TURN = 1e-280  # lower bound of q, since sqrt and atan2 have no gradient at 0; its square root can be squared
_DIRECT = 30.0  # exp(2 x) still fits into float32 here; beyond, asinh(exp(x)) equals x + log 2


def distance(u: Tensor, w: Tensor, c: float) -> Tensor:
    """Hyperbolic distance between ``exp0(u)`` and ``exp0(w)``, from tangent vectors at the origin.

    Args:
        u: (..., B, D), w: (..., K, D), any floating type; computed in float32, or in float64 if either is float64, also
            under autocast.
        c: minus the curvature, > 0.
    Returns:
        (..., B, K) >= 0; the distance of ``exp0(u)`` from the origin is 2 |u|. The gradient is finite for |u| up to
        1e4, also at u = 0 and u = w.

    d = 2/sqrt(c) asinh sqrt(sinh^2((r1 - r2)/2) + sinh(r1) sinh(r2) q) with r = 2 sqrt(c) |u| and
    q = |u/|u| - w/|w||^2 / 4, whose terms are here divided by exp(|r1 - r2|) so that none of them overflows.
    """
    with torch.autocast(u.device.type, enabled=False):
        u, w = same_precision(u, w)
        u_norm, w_norm = norm(u), norm(w)  # (..., B, 1), (..., K, 1)
        q = euclidean(u / u_norm, w / w_norm).square() / 4  # (..., B, K)
        r1, r2 = 2 * math.sqrt(c) * u_norm, 2 * math.sqrt(c) * w_norm.mT  # (..., B, 1), (..., 1, K)

        # sinh^2((r1-r2)/2) = e^gap/4 (1 - e^-gap)^2;  sinh r1 sinh r2 = e^gap/4 e^(2 low) (1 - e^-2r1) (1 - e^-2r2)
        gap, low = (r1 - r2).abs(), torch.minimum(r1, r2)
        same = q < torch.finfo(q.dtype).tiny
        exponent = (q.masked_fill(same, 1).log() + 2 * low).masked_fill(same, -math.inf)  # of q e^(2 low), and ...
        shift = exponent.detach().clamp_min(0)  # ... the part that is taken out so that exp does not overflow
        radial = torch.expm1(-gap).square() * torch.exp(-shift)
        angular = torch.exp(exponent - shift) * torch.expm1(-2 * r1) * torch.expm1(-2 * r2)
        terms = (radial + angular).clamp_min(torch.finfo(q.dtype).tiny)  # sqrt and log have no gradient at 0

        half = (gap + shift) / 2  # asinh(e^half sqrt(terms) / 2)
        direct = torch.asinh(half.clamp_max(_DIRECT).exp() * terms.sqrt() / 2)
        return 2 / math.sqrt(c) * torch.where(half < _DIRECT, direct, half + terms.log() / 2)


def same_precision(u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32, or as float64 if either is."""
    dtype = torch.promote_types(torch.promote_types(u.dtype, w.dtype), torch.float32)
    return u.to(dtype), w.to(dtype)


def norm(u: Tensor) -> Tensor:
    """|u| (..., 1), bounded below, so that the gradient of the distance at u = 0 is finite and correct."""
    return torch.linalg.vector_norm(u, dim=-1, keepdim=True).clamp_min(_ZERO)


def euclidean(u: Tensor, w: Tensor) -> Tensor:
    """|u - w| for all pairs, by subtraction, since the expanded square is inexact near zero."""
    return torch.cdist(u, w, compute_mode="donot_use_mm_for_euclid_dist")


def outward_angle(u: Tensor, w: Tensor, c: float) -> Tensor:
    """Angle at ``exp0(u)`` between the ray away from the origin and the geodesic to ``exp0(w)``.

    Args:
        u, w: (..., D) float64 tangent vectors at the origin, at radii below 30 / sqrt(c), beyond which float64 cannot
            represent directions.
    Returns:
        (...) radians, 0 .. pi, with a finite gradient everywhere. Ganea et al. (ICML 2018), equation 28, here from the
        point's coordinates in the Lorentz model after the boost that takes ``exp0(u)`` to the origin.
    """
    r1, r2 = (2 * math.sqrt(c) * norm(x)[..., 0] for x in (u, w))
    q = ((u / norm(u) - w / norm(w)).square().sum(-1) / 4).clamp(_NO_TURN, 1 - _ZERO)
    along = torch.sinh(r2 - r1) - 2 * q * torch.cosh(r1) * torch.sinh(r2)
    return torch.atan2(2 * torch.sinh(r2) * (q * (1 - q)).sqrt(), along)


def aperture(u: Tensor, c: float, width: float) -> Tensor:
    """Half the opening angle of the entailment cone at ``exp0(u)``: u (..., D) -> (...) radians, at most pi / 2.

    Ganea et al. (ICML 2018), equation 26: arcsin(K (1 - |x|^2) / |x|) in the ball, which is arcsin(2 K / sinh(r)) at
    radius r; K is the ``width``. Near the origin, where this cone is not defined, it is the outer half-space.
    """
    return torch.asin((2 * width / torch.sinh(2 * math.sqrt(c) * norm(u)[..., 0])).clamp_max(1 - _ZERO))


def to_ball(u: Tensor, c: float) -> Tensor:
    """exp0: tanh(sqrt(c) |u|) u / (sqrt(c) |u|)."""
    length = math.sqrt(c) * norm(u)
    return torch.tanh(length) / length * u


def from_ball(x: Tensor, c: float) -> Tensor:
    """log0: artanh(sqrt(c) |x|) x / (sqrt(c) |x|)."""
    length = math.sqrt(c) * norm(x)
    return torch.atanh(length) / length * x


def seen_from(u: Tensor, w: Tensor, c: float) -> Tensor:
    """``log0(exp0(-u) + exp0(w))``, with Moebius addition: the position of ``exp0(w)`` relative to ``exp0(u)``.

    The translation that takes ``exp0(u)`` to the origin keeps distances and, at that point, directions (Ungar, 2008),
    so the result is half the distance along the initial direction of the geodesic, without clipping by the ball.

    Args:
        u, w: (..., D) float64 tangent vectors at the origin, at radii below 30 / sqrt(c).
    Returns:
        (..., D) tangent vectors at the origin.
    """
    half = distance(u[..., None, :], w[..., None, :], c)[..., 0] / 2  # (..., 1)
    at_origin = torch.linalg.vector_norm(u, dim=-1, keepdim=True) < _ZERO
    outward, towards = u / norm(u), w / norm(w)
    across = towards - (outward * towards).sum(-1, keepdim=True) * outward
    angle = outward_angle(u, w, c)[..., None]
    way = torch.cos(angle) * outward + torch.sin(angle) * across / norm(across)
    return torch.where(at_origin, w, half * way)

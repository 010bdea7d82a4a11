"""The scores of ClassEmbeddings, and embeddings that cannot score."""

import math

import pytest
import torch
from embedding_cases import SMALL, UCF101, directions, points

from hierarchy import (
    ClassEmbeddings,
    distance,
    fit_embeddings,
)

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("score", ["hyperbolic", "euclidean", "cosine"])
@pytest.mark.parametrize("dim", [300, 10])
@pytest.mark.parametrize("c", [0.1, 1.0, 3.0])
def test_a_clip_on_its_leaf_is_certain(score: str, dim: int, c: float) -> None:
    fitted = fit_embeddings(UCF101, dim=dim, c=c)
    embeddings = ClassEmbeddings(fitted, 101, c=c, score=score)
    scores = embeddings(fitted[:101].float())
    assert scores.shape == (101, 101)
    assert scores.dtype == torch.float32
    assert (scores <= 0).all()
    assert scores.softmax(-1).diagonal().min() >= 0.99


def test_scores_are_distances_over_the_temperature() -> None:
    fitted = fit_embeddings(SMALL, dim=6, c=0.5)
    v = points(7, 6, 3, c=0.5, radius=5)
    apart = distance(fitted[:5], fitted[:5], 0.5).fill_diagonal_(math.inf).min()
    embeddings = ClassEmbeddings(fitted, 5, c=0.5)
    temperature = float(apart) / math.log(500)
    assert float(embeddings.temperature) == pytest.approx(temperature)
    torch.testing.assert_close(embeddings(v), -distance(v, fitted[:5], 0.5) / temperature, rtol=1e-5, atol=0)
    given = ClassEmbeddings(fitted, 5, c=0.5, temperature=0.25)
    torch.testing.assert_close(given(v), -distance(v, fitted[:5], 0.5) * 4, rtol=1e-5, atol=0)
    assert {name: (tuple(value.shape), value.dtype) for name, value in given.state_dict().items()} == {
        "points": ((11, 6), torch.float32),
        "temperature": ((), torch.float32),
    }
    assert not list(given.parameters())


def test_euclidean_and_cosine_scores() -> None:
    fitted, v = fit_embeddings(SMALL, dim=6), points(7, 6, 3, c=1, radius=5)
    euclidean = ClassEmbeddings(fitted, 5, score="euclidean", temperature=1.0)(v)
    torch.testing.assert_close(euclidean, -2 * (v[:, None] - fitted[:5]).norm(dim=-1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(euclidean, -distance(v, fitted[:5], 1e-8), rtol=1e-5, atol=1e-6)  # its limit
    cosine = ClassEmbeddings(fitted, 5, score="cosine", temperature=1.0)(v)
    expected = torch.nn.functional.cosine_similarity(v[:, None], fitted[:5], dim=-1) - 1
    torch.testing.assert_close(cosine, expected, rtol=1e-5, atol=1e-6)


def test_one_hot_leaves_make_a_linear_head() -> None:
    one_hot = torch.eye(5, dtype=torch.float64)
    v = points(7, 5, 3, c=1, radius=5).float()
    embeddings = ClassEmbeddings(one_hot, 5, score="linear", temperature=1.0)
    torch.testing.assert_close(embeddings(v), v)
    certain = ClassEmbeddings(3 * one_hot, 5, score="linear")
    assert certain(certain.points).softmax(-1).diagonal().min() >= 0.99
    certain.check(SMALL.names)
    for temperature in (None, 1.0):  # longer is always more
        longer = ClassEmbeddings(torch.stack([one_hot[0], 2 * one_hot[0]]), 2, score="linear", temperature=temperature)
        with pytest.raises(ValueError, match="a and b .* linear .* --method one_hot"):
            longer.check(SMALL.names)


@pytest.mark.parametrize("score", ["hyperbolic", "euclidean", "cosine", "linear"])
def test_a_learnt_temperature_starts_where_the_other_stays(score: str) -> None:
    fitted, v = 3 * torch.eye(5, 6), points(7, 6, 3, c=1, radius=5).float()
    plain, learnt = (ClassEmbeddings(fitted, 5, score=score, learn_temperature=learn) for learn in (False, True))
    assert torch.equal(plain(v), learnt(v))
    assert [name for name, _ in learnt.named_parameters()] == ["log_factor"]
    optimizer = torch.optim.SGD(learnt.parameters(), lr=50.0)
    for _ in range(20):  # towards certainty, in steps that would take T itself far below zero
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(learnt(learnt.points[:5]), torch.arange(5)).backward()
        optimizer.step()
        assert 0 < learnt.T.item() <= plain.T.item()
    again = ClassEmbeddings(fitted, 5, score=score, learn_temperature=True)
    again.load_state_dict(learnt.state_dict())
    assert torch.equal(again(v), learnt(v)) and not torch.equal(again(v), plain(v))


@pytest.mark.parametrize("score", ["hyperbolic", "euclidean", "cosine", "linear"])
@pytest.mark.parametrize("c", [1e-3, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(2))
def test_scores_have_finite_gradients_for_any_feature_under_autocast(score: str, c: float, seed: int) -> None:
    fitted = torch.eye(5, 6) if score == "linear" else fit_embeddings(SMALL, dim=6, c=c)
    embeddings = ClassEmbeddings(fitted, 5, c=c, score=score, learn_temperature=True)
    lengths = torch.logspace(-8, 4, 25)[:, None]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        v = (directions(25, 6, seed) * lengths).to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = embeddings(v)
        assert scores.isfinite().all() and scores.dtype == (dtype if dtype == torch.float64 else torch.float32)
        gradients = torch.autograd.grad(scores.log_softmax(-1)[:, seed].sum(), [v, embeddings.log_factor])
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_leaves_that_float32_moves_are_told() -> None:
    apart = torch.tensor([[1.0, 0.0], [1.0, 1.2e-7]], dtype=torch.float64) * 8  # float32 knows 1 + 1.2e-7 only roughly
    turned = apart @ torch.linalg.qr(directions(2, 2, seed=0)).Q
    with pytest.warns(UserWarning, match="[ab] and [ab] .* float32"):
        ClassEmbeddings(turned, 2).check(SMALL.names)


@pytest.mark.parametrize("score", ["hyperbolic", "euclidean", "cosine"])
def test_autocast_changes_nothing(score: str) -> None:
    embeddings = ClassEmbeddings(fit_embeddings(UCF101, dim=20), 101, score=score)
    v = points(9, 20, 1, c=1, radius=9).float().requires_grad_()
    plain = embeddings(v)
    (expected,) = torch.autograd.grad(plain[:, 3].sum(), v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = embeddings(v)
        from_half = embeddings(v.bfloat16())
    (gradient,) = torch.autograd.grad(cast[:, 3].sum(), v)
    assert torch.equal(cast, plain)
    assert torch.equal(gradient, expected)
    assert torch.equal(from_half, embeddings(v.bfloat16().float()))
    assert embeddings(v.double()).dtype == torch.float64


@pytest.mark.parametrize("score", ["hyperbolic", "euclidean", "cosine"])
def test_scores_have_finite_gradients_at_the_origin_and_on_a_leaf(score: str) -> None:
    embeddings = ClassEmbeddings(fit_embeddings(UCF101, dim=20), 101, score=score)
    v = torch.stack([torch.zeros(20), embeddings.points[5], embeddings.points[101]]).requires_grad_()
    torch.log_softmax(embeddings(v), dim=-1)[:, 5].sum().backward()
    assert v.grad.isfinite().all()


def test_learning_from_the_origin_reaches_the_leaf() -> None:
    embeddings = ClassEmbeddings(fit_embeddings(UCF101, dim=20), 101)
    v = torch.zeros(101, 20, requires_grad=True)
    optimizer = torch.optim.Adam([v], lr=0.03)
    for _ in range(70):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(embeddings(v), torch.arange(101), reduction="sum").backward()
        optimizer.step()
    assert (embeddings(v).argmax(-1) == torch.arange(101)).all()


def test_embeddings_that_cannot_score_are_refused() -> None:
    fitted = fit_embeddings(SMALL, dim=6)
    twice = fitted.clone()
    for factor in (1, 1 + 1e-12):  # the same to float32
        twice[3] = twice[1] * factor
        with pytest.raises(ValueError, match="b and d .* --edge"):
            ClassEmbeddings(twice, 5).check(SMALL.names)
    for options in ({"score": "dot"}, {"c": 0.0}, {"c": math.inf}, {"temperature": 0.0}, {"temperature": math.inf}):
        with pytest.raises(ValueError, match=r"hyperbolic, euclidean, cosine, linear|positive"):
            ClassEmbeddings(fitted, 5, **options)
    only = ClassEmbeddings(fitted[:1], 1)
    only.check(["a"])
    assert float(only.temperature) == 1

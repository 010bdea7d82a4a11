"""Measures by their usual names: known answers, and a perfect, an inverted and a random explanation in their order."""

import math

import pandas as pd
import pytest
import torch

from evaluation import usual
from evaluation.measures import MEASURES
from evaluation.subjects import ExplainedClip
from evaluation.summary import COLUMNS, latex

SIZE = (8, 16, 16)
AT = (slice(2, 6), slice(4, 12), slice(8, 16))
SCORED = ("abpc", "average_drop", "increase", "infidelity")


def inside(clips):
    """Between 0 and 1: how bright a box is."""
    return clips[(slice(None), slice(None), *AT)].mean((1, 2, 3, 4)).clamp(0, 1)


def disturbed_by_the_rest(clips):
    return inside(clips) * (1 - clips.mean((1, 2, 3, 4)).clamp(0, 1))


def explained(heat, **others):
    clip = torch.full((3, *SIZE), 0.8)
    others = {"probability": inside} | others
    return ExplainedClip(clip=clip, steps=16, seed=3, heat=heat, **others)


def perfect():
    heat = torch.zeros(SIZE)
    heat[AT] = 1
    return heat


@pytest.mark.parametrize("name", SCORED)
def test_perfect_inverted_and_random_heat_stand_in_their_order(name):
    torch.manual_seed(0)
    score = disturbed_by_the_rest if name == "increase" else inside
    best, worst, other = (MEASURES[name].of_clip(explained(heat, probability=score))
                          for heat in (perfect(), 1 - perfect(), torch.rand(SIZE)))
    sign = MEASURES[name].direction
    assert sign * best >= sign * other >= sign * worst and sign * best > sign * worst


def test_known_answers_of_scores():
    assert usual.average_drop(explained(perfect())) == pytest.approx(0, abs=1e-6)
    assert usual.average_drop(explained(1 - perfect())) == pytest.approx(1)
    assert usual.infidelity(explained(perfect())) == pytest.approx(0, abs=1e-9)
    assert usual.infidelity(explained(-perfect())) == usual.infidelity(explained(torch.zeros(SIZE))) == 1
    assert usual.abpc(explained(perfect())) == pytest.approx(-usual.abpc(explained(1 - perfect())), abs=0.02)
    assert abs(usual.abpc(explained(torch.ones(SIZE)))) < 1e-12
    contrary = explained(1 - perfect(), probability=lambda clips: 1 - inside(clips))
    assert usual.increase(contrary) == 1 and usual.increase(explained(perfect())) == 0
    assert usual.increase(explained(torch.ones(SIZE))) == 0  # an equal map hides nothing


def test_how_concentrated_heat_is():
    n = math.prod(SIZE)
    one, equal = torch.zeros(SIZE), torch.ones(SIZE)
    one[1, 2, 3] = 5
    assert usual.sparseness(explained(one)) == pytest.approx(1 - 1 / n)
    assert usual.sparseness(explained(equal)) == pytest.approx(0, abs=1e-9)
    assert usual.complexity(explained(one)) == pytest.approx(0, abs=1e-9)
    assert usual.complexity(explained(equal)) == pytest.approx(math.log(n))
    assert usual.complexity(explained(perfect())) == pytest.approx(math.log(4 * 8 * 8))
    # the mean absolute difference of all pairs over twice the mean is the Gini index
    heat = torch.rand(2, 3, 4)
    pairs = (heat.flatten()[:, None] - heat.flatten()[None]).abs().double().mean() / (2 * heat.double().mean())
    assert usual.sparseness(explained(heat)) == pytest.approx(float(pairs), abs=1e-6)
    for heat in (torch.zeros(SIZE), equal * 7):  # what knows nothing, and the scale of heat
        assert usual.complexity(explained(heat)) == pytest.approx(math.log(n))


def test_sensitivity_is_the_largest_change_that_moves_nothing():
    heat = perfect()
    noise, jpeg, later = heat * 1.5, heat + 0.1, torch.zeros(SIZE)
    of = explained(heat, disturbed={"noise": noise, "jpeg": jpeg, "jitter": later},
                   moved_by={"noise": 4.0, "jpeg": 1.0, "jitter": 9.0})
    jpeg_change = float(0.1 * math.sqrt(math.prod(SIZE)) / heat.norm())
    assert usual.max_sensitivity(of) == pytest.approx(max(0.5, jpeg_change), rel=1e-6)
    norm = float(of.clip.norm())
    assert usual.lipschitz(of) == pytest.approx(max(0.5 * norm / 4, jpeg_change * norm), rel=1e-5)
    still = explained(heat, disturbed={"noise": heat, "jpeg": heat}, moved_by={"noise": 1.0, "jpeg": 0.0})
    assert usual.max_sensitivity(still) == usual.lipschitz(still) == 0


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 40, 3), (32, 112, 112)])
def test_clips_of_all_sizes(size):
    of = ExplainedClip(clip=torch.ones(3, *size), probability=lambda clips: clips[:, 0, 0, 0, 0].sigmoid(), steps=2,
                       seed=0, heat=torch.zeros(size))
    assert usual.infidelity(of) in (0, 1) and usual.average_drop(of) == 0 and usual.complexity(of) >= 0


def test_tables_for_latex_escape_names_and_point_to_better():
    frame = pd.DataFrame([("explanations", "grad_cam++", 0, "box_only", 0.5, 0.4, 0.6, 3),
                          ("explanations", "100%", 1, "deletion", 0.25, 0.1, 0.3, 3)], columns=COLUMNS)
    text = latex(frame)
    assert text.count("\\begin{tabular}") == 2 and "grad\\_cam++" in text and "100\\%" in text
    assert "box\\_only $\\uparrow$ & 0.5 [0.4, 0.6] \\\\" in text and "deletion $\\downarrow$ & 0.25" in text

"""Measures of prototypes as such: perfect, inverted and random prototypes score as they must."""

import numpy as np
import pandas as pd
import pytest
import torch

from evaluation.localisation import Tube
from evaluation.prototypes import auc, consistency, covered_parts, duplicates, purity, sharing, ways_covered
from evaluation.summary import COLUMNS, bootstrap, markdown, plots, summarise, write_tables
from hierarchy.tree import Hierarchy

TREE = Hierarchy.from_rows([["a", "P", "X"], ["b", "P", "X"], ["c", "Q", "X"], ["d", "R", "Y"], ["e", "R", "Y"]])
LABELS = torch.arange(5).repeat_interleave(20)  # 20 videos of each class
NODES = torch.arange(len(TREE))  # a prototype of each node


def perfect() -> torch.Tensor:
    """(100, K): a prototype fires on the videos under its node, more or less, and on no other."""
    noise = torch.rand(100, len(TREE), generator=torch.Generator().manual_seed(0))
    return TREE.membership.T[LABELS] * (1 + noise) + 0.5 * noise


def random() -> torch.Tensor:
    return torch.rand(100, len(TREE), generator=torch.Generator().manual_seed(1))


def test_purity():
    assert purity(perfect(), LABELS, NODES, TREE.membership).tolist() == [1] * len(TREE)
    assert purity(-perfect(), LABELS, NODES, TREE.membership).tolist() == [0] * len(TREE)
    many = torch.rand(100, 3000, generator=torch.Generator().manual_seed(1))
    found = purity(many, LABELS, torch.zeros(3000, dtype=torch.int64), TREE.membership)
    assert float(found.mean()) == pytest.approx(0.2, abs=0.01)
    assert purity(perfect()[:4, :1], LABELS[:4], NODES[:1], TREE.membership).tolist() == [1]  # fewer videos than ten


def test_sharing():
    found = sharing(perfect(), LABELS, NODES, TREE.ancestors, TREE.level_of)
    assert found[:5].isnan().all() and found[5:].tolist() == [1] * 5
    one_child = perfect()
    one_child[:, 5] = (LABELS == 0).float()  # P's fires on a alone
    assert float(sharing(one_child, LABELS, NODES, TREE.ancestors, TREE.level_of)[5]) == 0.5
    assert sharing(-perfect(), LABELS, NODES, TREE.ancestors, TREE.level_of)[5:].tolist() == [0] * 5
    noise = sharing(random(), LABELS, NODES, TREE.ancestors, TREE.level_of)[5:]
    assert float(noise.mean()) == pytest.approx(0.45, abs=0.12)  # the worse of two children around a half
    fewer = LABELS != 1
    assert sharing(perfect()[fewer], LABELS[fewer], NODES, TREE.ancestors, TREE.level_of)[5].isnan()


def test_auc_is_a_loop_over_pairs():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randint(5, (n, 2), generator=generator).float() for n in (7, 9))
    slow = [np.mean([(a > b) + 0.5 * (a == b) for a in one[:, p] for b in other[:, p]]) for p in range(2)]
    assert auc(one, other).tolist() == pytest.approx(slow)


def test_duplicates_are_counted_within_a_node():
    prototypes = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    prototypes[2], prototypes[5] = prototypes[0], prototypes[0]
    assert duplicates(prototypes, torch.tensor([0, 0, 0, 1, 1, 1])).tolist() == [False, False, True] + [False] * 3
    assert duplicates(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])).tolist() == [False, True, True, False]


def test_consistency():
    tube = Tube(3, np.array([[10.0, 20, 8, 4]] * 5))
    assert covered_parts([tube], 2, (0, 0, 100, 100)) is None
    assert covered_parts([tube], 3, (0, 0, 100, 100)).tolist() == [True] * 5
    assert covered_parts([tube], 3, (20, 10, 22, 14)).tolist() == [False, True, False, False, False]  # upper left
    assert covered_parts([tube], 3, (0, 0, 5, 5)).tolist() == [False] * 5
    same = [np.array([False, True, False, False, False])] * 4
    assert consistency(same) == 1 and consistency([np.zeros(5, dtype=bool)] * 3) == 0
    assert consistency(list(np.eye(5, dtype=bool))) == pytest.approx(0.2)
    anywhere = np.random.default_rng(0).random((20_000, 5)) < 0.3
    assert consistency(list(anywhere)) == pytest.approx(0.3, abs=0.02)


def test_ways_covered_are_counted_once_a_class():
    labels = {"u0": 0, "u1": 0, "v0": 1, "v1": 1, "w": 2, "x0": 3}
    ways = {"u0": 0, "u1": 1, "v0": 0, "v1": 1, "x0": 1}
    sources, nodes = ["u1", "u0", "v1", "v1", None, "w", "x0", "u0"], [0, 0, 1, 1, 1, 2, 3, 5]
    found = ways_covered(sources, torch.tensor(nodes), labels, ways)
    assert found.nan_to_num(-1).tolist() == [1, -1, 0.5, -1, -1, -1, 1, -1]
    assert ways_covered(sources, torch.tensor(nodes), labels, {}).isnan().all()


def test_intervals_hold_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = []
    for seed in range(150):
        mean, low, high = bootstrap(rng.normal(size=40), seed=seed)
        assert low < mean < high
        held.append(low <= 0 <= high)
    assert np.mean(held) > 0.88
    assert bootstrap(np.ones(3)) == (1, 1, 1) and bootstrap(np.arange(9), seed=1) == bootstrap(np.arange(9), seed=1)


def test_tables(tmp_path):
    rows = [{"table": "explanations", "explanation": name, "level": level, "video": str(i),
             "measures": {"insertion": i / 9, "pointing": None if i % 2 else 1.0}}
            for level in (0, 1) for name in ("prototypes", "a & b") for i in range(10)]
    frame = summarise(rows)
    assert list(frame.columns) == COLUMNS and len(frame) == 8
    first = frame.iloc[0]
    assert (first.explanation, first.measure, first["mean"], first.n) == ("prototypes", "insertion", 0.5, 10)
    assert frame[frame.measure == "pointing"].n.tolist() == [5] * 4
    write_tables(frame, tmp_path, "a <title>")
    assert len(pd.read_csv(tmp_path / "measures.csv")) == 8
    assert "| prototypes | 0.5 [" in (tmp_path / "measures.md").read_text() and "insertion ↑" in markdown(frame)
    page = plots(frame, "a <title>")
    assert page.count("<svg") == 4 and "a &amp; b" in page and "a &lt;title&gt;" in page and "nan" not in page

"""The picture of a tree: where its nodes are, that its edges are geodesics, and that anything can be drawn."""

import colorsys
import io
import math

import pytest
import torch
from tiny import random_tree

from hierarchy import Hierarchy, distance
from hierarchy.hyperbolic import from_ball
from hierarchy.picture import draw_tree, geodesic, in_order, lay_out


@pytest.mark.parametrize("seed", range(4))
def test_a_family_has_a_sector_of_its_own(seed: int) -> None:
    hierarchy = random_tree(seed, 3, 12)
    at, order = lay_out(hierarchy), in_order(hierarchy)
    assert sorted(order) == list(hierarchy.levels[0])
    for level in hierarchy.levels:
        for node in level:
            below = [order.index(leaf) for leaf in hierarchy.leaves_below(node).tolist()]
            assert sorted(below) == list(range(min(below), max(below) + 1))  # side by side
            angle = math.atan2(at[node, 1], at[node, 0]) % (2 * math.pi)
            assert min(below) - 1e-6 <= angle * len(order) / (2 * math.pi) <= max(below) + 1e-6
    depth = hierarchy.n_levels - hierarchy.level_of
    torch.testing.assert_close(torch.tanh(at.norm(dim=-1)), torch.tanh(math.atanh(0.9) * depth.double() / 3))


def test_edges_are_shortest_ways() -> None:
    ends = torch.tensor([[0.3, 0.1], [-0.5, 1.2], [0.0, 0.0]], dtype=torch.float64)
    for u, w in ((ends[0], ends[1]), (ends[2], ends[1]), (ends[1], ends[1])):
        way = from_ball(geodesic(u, w, n=9), 1.0)
        torch.testing.assert_close(way[[0, -1]], torch.stack([u, w]), rtol=1e-5, atol=1e-5)
        steps = torch.stack([distance(a[None], b[None], 1.0)[0, 0] for a, b in zip(way, way[1:], strict=False)])
        whole = distance(u[None], w[None], 1.0)[0, 0]
        torch.testing.assert_close(steps, (whole / 8).expand(8), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [[["a"]], [["a"], ["too long for any picture " * 9]], [["a", "b", "c"]]])
def test_any_tree_can_be_drawn(rows: list[list[str]]) -> None:
    image = draw_tree(Hierarchy.from_rows(rows), size=200)
    assert image.size == (200, 200)


def test_topmost_nodes_have_colours_of_their_own_and_the_file_is_small() -> None:
    rows = [[f"{g}{k}", g] for g in "XYZ" for k in range(4)]
    image = draw_tree(Hierarchy.from_rows(rows), size=500).convert("RGB")
    colours = [colorsys.rgb_to_hsv(*(part / 255 for part in colour)) for _, colour in image.getcolors(2**20)]
    assert len({round(12 * hue) for hue, saturation, _ in colours if saturation > 0.7}) == 3
    file = io.BytesIO()
    draw_tree(Hierarchy.from_rows(rows)).save(file, "png", optimize=True)
    assert file.tell() < 300_000

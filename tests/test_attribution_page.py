"""explain/attribution_page.py and attribution_files.py: pyramids as they are drawn, and heat of single voxels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from attributable import TRUNK_LINE, attribution_folder, call

from attribution import METHODS
from attribution.feature_pyramid import feature_pyramid
from explain import attribution_page
from explain.attribution_files import LINKS, PICTURED, pyramid_rows
from models.geometry import smoothed
from models.resnet3d import ResNet3D


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return attribution_folder(tmp_path_factory.mktemp("attribution"))


def test_drawn_channels_lead_to_drawn_ones_by_their_strongest_links():
    torch.manual_seed(0)
    trunk = ResNet3D(10, widen_factor=0.25, conv1_t_size=3).eval()
    weights = torch.randn(trunk.out_channels)
    pyramid = feature_pyramid(lambda clips: trunk(clips).mean((2, 3, 4)) @ weights, torch.randn(3, 8, 32, 32),
                              layer=trunk, class_weights=weights)
    first, *below = pyramid_rows(pyramid, (8, 32, 32), "Run, 90 %", "a video")
    assert first.title == "Run, 90 %" and "a video" in first.note and not first.above
    rows, shares = [first, *below], dict(zip(map(tuple, pyramid.edges.tolist()), pyramid.shares.tolist(), strict=True))
    for i, row in enumerate(below, 1):
        for here, channel in enumerate(row.channels):
            links = [(other, there) for other, there, place in row.above if place == here]
            assert 1 <= len(links) <= LINKS
            all_links = [share for (other, above, layer, lower), share in shares.items()
                         if (layer, lower) == (i, channel) and above in rows[other].channels]
            drawn = [shares[other, rows[other].channels[there], i, channel] for other, there in links]
            assert drawn == sorted(all_links, reverse=True)[:LINKS]
        assert len(row.tubes) == len(row.channels) <= PICTURED


def test_lines_of_a_pyramid_do_not_run_behind_pictures():
    pixels, tube = np.full((2, 20, 20, 3), 7, np.uint8), torch.zeros(2, 20, 20)
    rows = [attribution_page.PyramidRow("a", "", tube, [3], tube[None]),
            attribution_page.PyramidRow("b", "", tube, [5], tube[None], [(0, 0, 0)]),
            attribution_page.PyramidRow("c", "", tube, [4], tube[None], [(0, 0, 0), (1, 0, 0)])]
    picture, = attribution_page.pyramid_picture(pixels, rows)
    inside = (picture == 7).all(-1)
    assert inside.sum() == 6 * attribution_page.CELL ** 2
    blue = (picture == attribution_page.TRACES[0]).all(-1)
    assert blue.any(1)[inside.any(1)].all()  # a frame of that colour in each row, and the line that passes the second


def test_voxelwise_heat_is_smoothed_for_drawing_alone(root, tmp_path):
    heat = torch.zeros(9, 40, 40)
    heat[4, 20, 20] = 1
    smooth = smoothed(heat)
    torch.testing.assert_close(smooth.sum(), torch.tensor(1.0))
    assert smooth.argmax() == heat.argmax() and smooth.max() < 0.2
    torch.testing.assert_close(smoothed(torch.ones(3, 8, 5)), torch.ones(3, 8, 5))
    assert torch.equal(attribution_page.drawn(heat), heat)
    call(root, f"{TRUNK_LINE} --videos_dir clips --vis_method random", "--out", str(tmp_path))
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "random" / "resnet-10" / "leap.npy")),
                       METHODS["random"](None, torch.empty(3, 8, 24, 24), seed=1))

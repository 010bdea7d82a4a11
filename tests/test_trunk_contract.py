"""Every trunk keeps the contract, and so does one that nobody here has seen."""

from collections import OrderedDict
from collections.abc import Sequence

import pytest
import torch
from contract import (
    CONTRACT,
    OF_SHAPES,
    cells_are_centred_where_stride_and_offset_say,
    clips_stand_alone,
    grid_follows_the_stride,
    published_layouts_load,
    trains_pushes_and_explains,
)
from torch import Tensor, nn
from trunks import ALL_DEPTHS, BUILDABLE, light, on_meta, save

from benchmarks.trunks import PAGE, trunk_table
from models import TRUNKS
from models.resnet3d import WIDEN, BasicBlock
from models.trunk import Layout, Trunk, five_strides, he_init, product
from models.unwrapping import layout_of
from models.weights import flags_of, load_pretrained
from options.trunks import TRUNK_FLAGS


@pytest.mark.parametrize("name", TRUNKS)
@pytest.mark.parametrize("promise", OF_SHAPES)
def test_every_trunk_keeps(promise, name):
    promise(name)


@pytest.mark.parametrize(("name", "depth"), ALL_DEPTHS)
def test_the_grid_follows_the_stride(name, depth):
    grid_follows_the_stride(name, depth)


@pytest.mark.parametrize("name", light(TRUNKS))
def test_published_layouts_load(name):
    published_layouts_load(name)


@pytest.mark.parametrize("name", light(TRUNKS))
def test_train_push_explain(name):
    trains_pushes_and_explains(name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "depth"), [(name, depth) for name, trunk in TRUNKS.items() if "depth" in trunk.small
                                             for depth in trunk.depths if depth != trunk.small["depth"]])
def test_train_push_explain_at_all_depths(name, depth):
    trains_pushes_and_explains(name, depth)


@pytest.mark.parametrize("name", [name for name, trunk in TRUNKS.items() if trunk.heavy])
def test_heavy_trunks_on_a_tiny_clip(name):
    """Of what the slow tests show of them, the part that takes little time."""
    clips_stand_alone(name)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (not trunk.small))
                                  for name, trunk in TRUNKS.items()])
def test_cells_are_centred(name):
    cells_are_centred_where_stride_and_offset_say(name)


def test_a_flag_means_the_same_to_all_trunks():
    for trunk in TRUNKS.values():
        assert all(option == TRUNK_FLAGS[option.flag] for option in trunk.options.values())


def test_the_table_of_trunks_is_what_the_classes_state():
    assert trunk_table() in PAGE.read_text(encoding="utf-8"), "python -m benchmarks.trunks --docs writes it anew"


# --- a trunk that nobody here has seen


class Stranger(Trunk):
    """A stem in a Sequential, as torchvision's have; blocks named as Hara's; strides like neither's."""

    strides = ((1, 1, 2, 2, 1), (2, 2, 2, 2, 1))
    places = ("stem", "pool", "layer1", "layer2", "layer3")
    options = {"widen_factor": WIDEN}
    clip = (12, 96)
    layouts = (
        Layout("a stranger's", (r"stem\.0\.weight", r"layer3\.0\.bn2\."), containers=("weights",), heads=("top",),
               normalisation="i3d"),
        Layout("a stranger's second release", (r"backbone\.stem\.0\.weight",),
               naming="backbone.{}".format, heads=("backbone.top",), normalisation="mvit", uncounted="mfnet"))
    small = {"widen_factor": 0.25}

    def __init__(self, *, temporal_strides: Sequence[int] = strides[0], spatial_strides: Sequence[int] = strides[1],
                 widen_factor: float = 1.0) -> None:
        super().__init__()
        first, pool, *strides = five_strides(temporal_strides, spatial_strides)
        channels = int(32 * widen_factor)
        self.stem = nn.Sequential(nn.Conv3d(3, channels, (3, 7, 7), first, (1, 3, 3), bias=False),
                                  nn.BatchNorm3d(channels), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool3d(3, pool, 1)
        for i, stride in enumerate(strides, 1):
            shortcut = nn.Sequential(nn.Conv3d(channels, 2 * channels, 1, stride, bias=False),
                                     nn.BatchNorm3d(2 * channels))
            block = BasicBlock(channels, 2 * channels, stride, shortcut)
            self.add_module(f"layer{i}", nn.Sequential(OrderedDict({"0": block})))
            channels *= 2
        self.out_channels, self.stride = channels, product([first, pool, *strides])
        he_init(self)

    def forward(self, clips: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(self.pool(self.stem(clips)))))


@pytest.fixture
def stranger(monkeypatch) -> str:
    monkeypatch.setitem(TRUNKS, "stranger", Stranger)
    return "stranger"


@pytest.mark.parametrize("promise", CONTRACT)
def test_a_stranger_keeps(stranger, promise):
    promise(stranger)


def test_a_strangers_file_is_its_own(stranger, tmp_path):
    """Not torchvision's, whose stem is named alike, nor Hara's, whose blocks are; and theirs are not a stranger's."""
    state = Stranger().state_dict()
    assert layout_of(state).name == "a stranger's" and flags_of(state) == {"--model": stranger}
    with pytest.raises(ValueError, match=f"the file has a stranger's; .*another network, --model {stranger}"):
        load_pretrained(TRUNKS["resnet"](10), save(tmp_path, state))
    for name, trunk in BUILDABLE.items():
        if name != stranger:
            naming = trunk.layouts[0].naming
            state = {naming(key): value for key, value in on_meta(name, **trunk.small).state_dict().items()}
            layout = layout_of(state, Stranger)
            assert layout not in Stranger.layouts and layout.name in {one.name for one in trunk.layouts}


def test_a_strangers_file_that_is_named_as_torchvisions_is_its_own_to_the_stranger(stranger, monkeypatch):
    """Where patterns cannot tell files apart, the trunk that is asked for has the first word."""
    monkeypatch.setattr(Stranger, "layouts", (Layout("loose", (r"stem\.0\.weight",)),))
    state = on_meta("r3d_18").state_dict()
    assert layout_of(state, Stranger).name == "loose" and layout_of(state).name == "torchvision's video ResNets"


def test_a_trunk_without_published_weights_loads_its_own(stranger, monkeypatch, tmp_path):
    monkeypatch.setattr(Stranger, "layouts", ())
    torch.manual_seed(1)
    state = Stranger(widen_factor=0.25).state_dict()
    trunk, lines = Stranger(widen_factor=0.25), []
    loaded = load_pretrained(trunk, save(tmp_path, {"state_dict": state}), tell=lines.append)
    assert loaded.normalisation == "kinetics" and "no layout known here" in lines[0]
    assert all(torch.equal(value, state[key]) for key, value in trunk.state_dict().items())

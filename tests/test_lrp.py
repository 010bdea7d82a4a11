"""Relevance: as captum has it where both can, in loops, conserved through convolutional trunks, and of prototypes."""

import json

import pytest
import torch
from program import explain_classes
from tiny import ROWS, STRIDE, Brightness, levels_hipe, small_hipe
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from trunks import shuffle, small

from attribution.lrp import lrp, refusal, relevance
from explain.heat import prototype_heat
from explain.relevance import passed_through, similarity_of
from hierarchy.tree import Hierarchy
from judging.table import served
from models import TRUNKS

# Trunks of convolutions and the normalisations behind them lose nothing but what biases alone make.
CONSERVING = {"resnet": 0.02, "resnet2p1d": 0.01, "s3d": 1e-4, "i3d": 1e-4, "mc3_18": 1e-4}


@pytest.fixture
def clip():
    return torch.rand(3, 6, 12, 12, generator=torch.Generator().manual_seed(0))


def stack() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv3d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(6, 8, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def test_a_plain_stack_is_as_captum_has_it(clip):
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule

    class Theirs(nn.Module):
        """The same without a layer that captum has no rule for: the clip comes down to 1 x 4 x 4 cells."""

        def __init__(self, network):
            super().__init__()
            self.below, self.pool, self.head = network[:5], nn.AvgPool3d((1, 4, 4)), network[7]
            for module in (self.below[0], self.below[3], self.head):
                module.rule = Alpha1_Beta0_Rule(set_bias_to_zero=True)
            self.pool.rule = EpsilonRule()

        def forward(self, clips):
            return self.head(self.pool(self.below(clips)).flatten(1))

    network = stack()
    expected = LRP(Theirs(stack())).attribute(clip[None], target=2)[0]
    found = relevance(lambda clips: network(clips)[:, 2], clip, layer=network)
    torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=1e-4)


def test_a_residual_block_is_what_loops_say(clip):
    """y = relu(B relu(A x) + x) summed, of 1 x 1 x 1 convolutions with biases: every voxel is by itself."""
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(2)
            self.a, self.b, self.relu = nn.Conv3d(3, 4, 1), nn.Conv3d(4, 3, 1), nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.b(self.relu(self.a(x))) + x)

    block, x = Block().eval(), clip[:, :1, :2, :2] - 0.5
    found = relevance(lambda clips: block(clips).sum((1, 2, 3, 4)), x, layer=block)
    a, b = block.a.weight.detach()[:, :, 0, 0, 0], block.b.weight.detach()[:, :, 0, 0, 0]

    def back(weight, values, given):
        """Relevance of a layer's outputs to its inputs, where products are positive."""
        parts = [[max(0.0, float(weight[o, i] * values[i])) for i in range(len(values))] for o in range(len(given))]
        return [sum(float(given[o]) * parts[o][i] / sum(parts[o]) for o in range(len(given)) if sum(parts[o]) > 0)
                for i in range(len(values))]

    for y in range(2):
        for z in range(2):
            values = x[:, 0, y, z]
            hidden = (a @ values + block.a.bias.detach()).relu()
            branch = b @ hidden + block.b.bias.detach()
            total = branch + values
            out = total.relu()
            of_branch = [float(out[i] * branch[i] / total[i]) for i in range(3)]
            of_values = [float(out[i] * values[i] / total[i]) for i in range(3)]
            through = back(a, values, back(b, hidden, of_branch))
            expected = torch.tensor([of_values[i] + through[i] for i in range(3)])
            torch.testing.assert_close(found[:, 0, y, z], expected, atol=1e-5, rtol=1e-4)


def test_a_normalisation_is_part_of_its_convolution(clip):
    torch.manual_seed(3)
    network = shuffle(nn.Sequential(nn.Conv3d(3, 5, 3, padding=1), nn.BatchNorm3d(5), nn.ReLU(inplace=True),
                                    nn.Conv3d(5, 4, 3, stride=2, bias=False), nn.BatchNorm3d(4)))
    fused = nn.Sequential(fuse_conv_bn_eval(network[0], network[1]), nn.ReLU(),
                          fuse_conv_bn_eval(network[3], network[4])).eval()
    found, expected = (relevance(lambda clips, one=one: one(clips).sum((1, 2, 3, 4)), clip - 0.5, layer=one)
                       for one in (network, fused))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert found.abs().max() > 0.01


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "resnet"))
                                  for name in TRUNKS if not TRUNKS[name].heavy])
def test_trunks_of_convolutions_are_served_and_others_say_so(name):
    trunk = small(name)
    if name.startswith(("swin", "mvit")) or TRUNKS[name].on_hub:
        assert "no rule" in refusal(trunk)
        return
    assert refusal(trunk) is None
    torch.manual_seed(0)
    clip, head = torch.randn(3, 16, 64, 64), torch.rand(trunk.out_channels)

    def score(clips):
        return trunk(clips).mean((2, 3, 4)) @ head

    with torch.no_grad():
        before = score(clip[None])
    found = relevance(score, clip, layer=trunk)
    assert found.isfinite().all() and found.shape == clip.shape and found.any()
    if name in CONSERVING:
        assert float(found.sum()) == pytest.approx(float(before), rel=CONSERVING[name])
    with torch.no_grad():
        assert torch.equal(score(clip[None]), before)  # nothing is left behind
    assert not any("forward" in vars(module) for module in trunk.modules())


def test_what_has_no_rule_is_refused(clip, capsys):
    network = nn.Sequential(nn.Conv3d(3, 4, 1), nn.GroupNorm(2, 4)).eval()
    with pytest.raises(ValueError, match="GroupNorm"):
        lrp(lambda clips: network(clips).sum((1, 2, 3, 4)), clip, layer=network)
    assert "lrp" not in served(network, (6, 12, 12), None) and "GroupNorm" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--methods lrp"):
        served(network, (6, 12, 12), ["lrp"])
    with pytest.raises(ValueError, match="eval"):
        relevance(lambda clips: clips.sum((1, 2, 3, 4)), clip, layer=nn.BatchNorm3d(3))


def test_polarities_are_parts_of_the_relevance(clip):
    network = stack()
    heats = {polarity: lrp(lambda clips: network(clips)[:, 1], clip, layer=network, polarity=polarity)
             for polarity in ("positive", "negative", "both")}
    torch.testing.assert_close(heats["positive"] + heats["negative"], heats["both"])
    assert heats["both"].shape == clip.shape[1:] and heats["both"].min() >= 0


@pytest.mark.parametrize("neck", ["levels", "sigmoid"])
def test_a_prototypes_similarity_is_divided_among_the_voxels(neck):
    tree = Hierarchy.from_rows(ROWS)
    model = (levels_hipe(tree) if neck == "levels" else small_hipe(tree)).eval()
    clips = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = model(clips)
    for prototype in (0, 5, len(model.prototype_layer.node_of) - 1):
        score = similarity_of(model, prototype)
        torch.testing.assert_close(score(clips).detach(), output.activations[:, prototype], atol=1e-5, rtol=1e-4)
        found = relevance(score, clips[0], layer=passed_through(model))
        own = float(output.activations[0, prototype])
        assert own > 0 and found.isfinite().all()
        if neck == "levels":  # biases of the neck's ReLU and of dead channels take the rest
            assert 0.5 * own <= float(found.sum()) <= 1.5 * own
    heat = prototype_heat("lrp", model, clips[0], 0)
    assert heat.shape == (8, 32, 32) and heat.min() >= 0 and heat.max() > 0


def test_relevance_of_a_prototype_lies_where_its_patch_is():
    """The only bright place of a dark clip, whose brightness the prototype is."""
    tree = Hierarchy.from_rows(ROWS)
    model = small_hipe(tree)
    trunk = Brightness()
    model.trunk, model.neck = trunk, nn.Sequential()
    layer = model.prototype_layer
    layer.prototypes = nn.Parameter(torch.full((len(layer.node_of), 1), 1.0))
    model.eval()
    clip = torch.zeros(3, 8, 24, 40)
    clip[:, 4:6, 8:12, 16:24] = 3.0
    found = relevance(similarity_of(model, 0), clip, layer=passed_through(model))
    assert float(found[:, 4:6, 8:12, 16:24].sum()) == pytest.approx(float(found.sum()), rel=1e-5)
    assert float(found.sum()) == pytest.approx(float(model(clip[None]).activations[0, 0].detach()), rel=1e-4)
    assert trunk.stride == STRIDE


def test_cards_take_it_as_heat(whole, tmp_path):
    explain_classes("--resume_path", whole / "save_3.pth", "--out", tmp_path, "--n_videos", 1, "--no_img", "--k", 1,
                    "--heat", "lrp")
    content = json.loads(next(tmp_path.glob("*/explanation.json")).read_text())
    assert content["heat"] == "lrp" and content["levels"][0]["prototypes"][0]["heat"] == "lrp"

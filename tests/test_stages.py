"""The parts of a trunk: where fine-tuning begins what stands before keeps its weights; and what each part makes."""

import pytest
import torch
from tiny import levels_hipe, noise_batch, random_tree, small_hipe
from torch import Tensor, nn
from trunks import clips, damp, on_meta, small

from models import HIPE, TRUNKS
from models.scores import TreeScore
from models.stages import stage_maps, stages, stages_before
from training.engine import Phase, Trainer
from training.features import valid_clips
from training.losses import LossWeights
from training.schedule import Step
from training.starts import spread_prototypes

CPU = torch.device("cpu")
RESNET = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]


def test_parts_have_their_published_names():
    assert list(stages(on_meta("resnet", 10))) == RESNET
    assert list(stages(on_meta("tsm_resnet50"))) == RESNET
    assert list(stages(on_meta("densenet", 121)))[-4:] == ["denseblock3", "transition3", "denseblock4", "norm5"]
    assert list(stages(on_meta("i3d")))[-2:] == ["Mixed_5b", "Mixed_5c"]


@pytest.mark.parametrize("name", TRUNKS)
def test_parts_hold_the_whole_trunk(name):
    trunk = on_meta(name)
    held = {id(parameter) for part in stages(trunk).values() for parameter in part.parameters()}
    assert held == {id(parameter) for parameter in trunk.parameters()}
    assert len(stages_before(trunk, "fc")) == len(stages(trunk)) and not stages_before(trunk, None)
    first, *_, last = stages(trunk)
    assert not stages_before(trunk, first) and len(stages_before(trunk, last)) == len(stages(trunk)) - 1


def test_no_such_part():
    with pytest.raises(ValueError, match=r"--ft_begin_module layer5.*layer4"):
        stages_before(on_meta("resnet", 10), "layer5")


@pytest.mark.parametrize("freeze_bn", [False, True])
@pytest.mark.parametrize("kind", ["trunk", "joint"])
def test_only_what_follows_is_trained(kind, freeze_bn):
    tree = random_tree(4, 2, 5)
    model = small_hipe(tree)
    weights = LossWeights(ce=[1.0], cluster=[1.0], separation=[0.1], background=0.5, coverage=1.0, group=1e-4)
    phase = Phase("adamw", 0.1, 0.1, weight_decay=0.1)
    trainer = Trainer(model, {"trunk": phase, "joint": phase}, weights, sure=0.0,
                      frozen=stages_before(model.trunk, "layer3"), freeze_bn=freeze_bn)
    before = {key: value.clone() for key, value in model.trunk.state_dict().items()}
    (batch,) = valid_clips([noise_batch([0, 1, 2])], CPU)
    trainer.step(Step(kind, 1, 0), 0.0, batch)
    for key, value in model.trunk.state_dict().items():
        trained = key.startswith(("layer3", "layer4"))
        statistic = "running" in key or "num_batches" in key
        moved = not torch.equal(value, before[key])
        assert moved == (trained or (statistic and not freeze_bn)), key


def averaged(maps: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Means over the blocks of cells that make one of the grid each, cell by cell."""
    sizes = [m // n for m, n in zip(maps.shape[2:], grid, strict=True)]
    found = maps.new_zeros(*maps.shape[:2], *grid)
    for cell in torch.cartesian_prod(*(torch.arange(n) for n in grid)).tolist():
        block = [slice(i * size, (i + 1) * size) for i, size in zip(cell, sizes, strict=True)]
        found[(..., *cell)] = maps[(..., *block)].mean((2, 3, 4))
    return found


@torch.no_grad()
def test_maps_of_a_resnet_are_what_its_parts_make():
    trunk = levels_hipe(random_tree(4, 2, 5)).trunk.eval()
    given = clips(2)
    features, maps = stage_maps(trunk, given)
    stem = trunk.bn1(trunk.conv1(given))
    layer1 = trunk.layer1(trunk.maxpool(trunk.relu(stem.clone())))
    layer2 = trunk.layer2(layer1)
    layer3 = trunk.layer3(layer2)
    assert torch.equal(features, trunk(given)) and maps[-1] is features
    assert [one.shape for one in maps] == [(2, n, 2, 4, 4) for n in (8, 8, 8, 16, 32, 64)]
    for found, made in zip(maps[2:], (layer1, layer2, layer3, trunk.layer4(layer3)), strict=True):
        torch.testing.assert_close(found, averaged(made, (2, 4, 4)))
    torch.testing.assert_close(maps[0], averaged(trunk.conv1(given), (2, 4, 4)))
    assert not any(module._forward_hooks for module in trunk.modules())


def test_hooks_are_removed_where_the_trunk_fails():
    trunk = small_hipe(random_tree(4, 2, 5)).trunk
    with pytest.raises(RuntimeError):
        stage_maps(trunk, torch.zeros(1, 2, 8, 32, 32))
    assert not any(module._forward_hooks for module in trunk.modules())


@pytest.mark.parametrize("given", [3, torch.float16])
def test_a_trunk_may_have_maps_of_its_own(given):
    class Own(nn.Module):
        def stage_maps(self, clips: object) -> object:
            return clips, [clips]

    assert stage_maps(Own(), given) == (given, [given])


@torch.no_grad()
@pytest.mark.parametrize(("name", "n_maps"), [("resnet", 6), ("densenet", 11), ("tsm_mobilenetv2", 1), ("swin3d_t", 1)])
def test_prototypes_start_at_patches_of_any_trunk(name, n_maps):
    """Those whose parts make no maps over time, height and width have their features alone."""
    tree = random_tree(4, 2, 3)
    model = HIPE(damp(small(name)), tree, TreeScore, channels=4, hidden=6, per_node=2, neck="levels", scale=0.5).eval()
    batch = noise_batch([0, 1, 2, 0, 1, 2], size=(8, 64, 64))
    given = batch["clip"].float() / 255
    features, maps = stage_maps(model.trunk, given)
    assert len(maps) == n_maps and maps[-1] is features and torch.equal(features, model.trunk(given))
    assert all(one.shape[2:] == features.shape[2:] for one in maps)
    before = model.prototype_layer.prototypes.clone()
    starts = spread_prototypes(model, [batch], n_videos=6, device=CPU, seed=1, sure=0.0, clips_a_way=1)
    assert starts.placed == len(before) and starts.ways.tolist() != [-1] * 6
    assert not (model.prototype_layer.prototypes == before).all(1).any()

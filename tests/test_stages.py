"""Fine-tuning begins where it is told to: what stands before keeps its weights and, if asked, its statistics."""

import pytest
import torch
from test_trunks import on_meta
from tiny import noise_batch, random_tree, small_hipe

from models import TRUNKS
from models.stages import stages, stages_before
from training.engine import LossWeights, Phase, Trainer
from training.features import valid_clips
from training.schedule import Step

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

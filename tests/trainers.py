"""A trainer of a tiny model, and one step of it."""

import torch
from tiny import noise_batch

from training.engine import Phase, Trainer
from training.features import valid_clips
from training.losses import LossWeights
from training.schedule import Step


def weights(**changes) -> LossWeights:
    return LossWeights(**{"ce": [1.0, 0.5], "cluster": [0.8], "separation": [0.1], "background": 0.5, "coverage": 1.0,
                          "group": 1e-3, **changes})


def trainer(model, *, scheduler="constant", loss_weights=None, **options) -> Trainer:
    phases = {"trunk": Phase("adamw", 0.01, 0, 0.01, scheduler=scheduler),
              "warm": Phase("adam", 0, 0.01, scheduler=scheduler),
              "joint": Phase("sgd", 0.01, 0.02, 1e-4, scheduler=scheduler), "tune": Phase("adam", 0, 0.01)}
    return Trainer(model, phases, loss_weights or weights(), **options)


def first_batch(labels=(0, 3, 3, 4)) -> dict:
    return next(iter(valid_clips([noise_batch(list(labels))], torch.device("cpu"))))


def take(run: Trainer, kind: str, iteration: int = 0, progress: float = 0.0) -> dict:
    if kind == "tune":
        n_prototypes = len(run.model.prototype_layer.node_of)
        activations = 3 * torch.rand(4, n_prototypes, generator=torch.Generator().manual_seed(0))
        return run.tune(Step("tune", 1, iteration), progress, activations, torch.tensor([0, 3, 3, 4]))
    return run.step(Step(kind, 1, iteration), progress, first_batch())

"""Heat of clips by attribution methods and baselines, for the head that is judged."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from attribution import METHODS, options_of, parse_options
from attribution.perturbation import extremal_masks
from explain.heat import heat_of, prototype_heat
from judging.trunk_model import TrunkModel
from models.hipe import HIPE

HEADS = ("prototypes", "softmax")
BASELINES = ("random", "centre")
AREA = 0.1  # of a perturbation's mask


def centre_blob(size: tuple[int, int, int]) -> Tensor:
    """Heat that looks at the middle of every clip: (T, H, W), a Gaussian as wide as a quarter of the clip."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) for n in size]
    return torch.einsum("t,h,w->thw", *axes)


class Heats:
    """Heat of clips for nodes of the class tree, or for single prototypes.

    Args:
        model: on its device; a `TrunkModel` for the softmax head alone. head: of HEADS. size: (T, H, W) of a clip.
        iterations: of a perturbation at most. seed: of methods that draw. options: of methods, METHOD.NAME=VALUE each,
            which go before the others. smooth: heat of nodes that is scattered over voxels (see METHODS).
    """

    def __init__(self, model: HIPE | TrunkModel, head: str, size: tuple[int, int, int], *, iterations: int, seed: int,
                 options: Sequence[str] = (), smooth: bool = False) -> None:
        self.model, self.head, self.size, self.iterations, self.seed = model, head, size, iterations, seed
        self.options, self.smooth = parse_options(options, METHODS), smooth

    def _options(self, name: str) -> dict[str, object]:
        """Of the method of that name."""
        common = options_of(name, seed=self.seed, areas=(AREA,), iterations=self.iterations)
        return common | self.options.get(name, {})

    def log_probs(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, K) of the head."""
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
        if self.head == "softmax":
            return self.model.softmax_log_probs(clips)
        return self.model(clips).log_probs

    @cached_property
    def class_weights(self) -> Tensor:
        """(K, C') of the softmax head."""
        return self.model.softmax_weights

    def of_nodes(self, name: str, clips: Sequence[Tensor], nodes: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
        """Heat (T, H, W) of clips by an attribution method or a baseline.

        Args:
            clips: (3, T, H, W) each. nodes: that are explained, one a clip. seeds: of random heat, one a clip.
        Raises:
            KeyboardInterrupt: where a perturbation was interrupted.
        """
        if name == "centre":
            return [centre_blob(self.size)] * len(clips)
        if name == "random":
            return [METHODS["random"](None, clip, seed=seed) for clip, seed in zip(clips, seeds, strict=True)]
        if METHODS[name].optimises:
            targets = torch.tensor(nodes, device=self.model.device)
            perturbed = extremal_masks(
                lambda some, which: self.log_probs(some).gather(1, targets[which][:, None])[:, 0],
                torch.stack(list(clips)), how=name, **self._options(name))
            if perturbed.interrupted:
                raise KeyboardInterrupt
            return list(perturbed.masks.mean((1, 2)))
        weights = self.class_weights if self.head == "softmax" else None
        logits = getattr(self.model, "logits", None) if METHODS[name].of_logits else None
        scores = self.log_probs if logits is None else logits
        return [heat_of(name, lambda some, node=node: scores(some)[:, node], clip, trunk=self.model.trunk,
                        class_weights=None if weights is None else weights[node], head_weights=weights,
                        smooth=self.smooth, options=self._options(name))
                for clip, node in zip(clips, nodes, strict=True)]

    def of_prototypes(self, name: str, clips: Sequence[Tensor], prototypes: Sequence[int]) -> list[Tensor]:
        """Heat (T, H, W) of clips for the activation of a prototype each, as on cards: single voxels are smoothed."""
        return [prototype_heat(name, self.model, clip, p, options=self._options(name))
                for clip, p in zip(clips, prototypes, strict=True)]

"""Gradient steps of every kind, evaluation, and inference over sliding windows."""

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.hipe import HIPE
from models.prototypes import EPSILON
from models.stages import freeze
from training.distributed import Together, World
from training.losses import (
    batch_cross_entropy,
    cross_entropies,
    group_sparsity,
    level_cross_entropies,
    level_losses,
    orthogonality,
    sharing,
    sparsity,
    ways_cross_entropy,
)
from training.precision import Precision
from training.schedule import Step, rate_factor

HIGHEST = math.log(1 / EPSILON)  # the logarithmic similarity of the same patch
OPTIMIZERS = {
    "sgd": lambda groups, momentum, **how: torch.optim.SGD(groups, momentum=momentum, **how),
    "adam": lambda groups, momentum, **how: torch.optim.Adam(groups, betas=(momentum, 0.999), **how),
    "adamw": lambda groups, momentum, **how: torch.optim.AdamW(groups, betas=(momentum, 0.999), **how),
}


@dataclass
class Phase:
    """How one kind of step is optimised: rates are of the trunk and of neck, prototypes and score ("head").

    score_rate: of the score, without weight decay, where it is another than the head's.
    """

    optimizer: str
    trunk_rate: float
    head_rate: float
    weight_decay: float = 0.0
    momentum: float = 0.9
    scheduler: str = "constant"
    milestones: list[int] = field(default_factory=list)
    score_rate: float | None = None


@dataclass
class LossWeights:
    """Weights of the named losses; a list has one entry a level, leaves first, the last one serving all above."""

    ce: list[float]
    cluster: list[float]
    separation: list[float]
    background: float
    coverage: float
    group: float
    orthogonality: float = 0.0
    sharing: float = 0.0
    batch_ce: float = 0.0
    l1: float = 0.0
    level_ce: float | list[float] = 0.0
    ways: float = 0.0
    pooled: float = 0.0
    even: float = 0.0

    def of(self, name: str, n_levels: int, device: torch.device) -> Tensor | float:
        """The weight of a loss: a number, or (L,)."""
        weight = getattr(self, name)
        if not isinstance(weight, list):
            return weight
        return _filled(tuple(weight[:n_levels] + weight[-1:] * (n_levels - len(weight))), device)


@functools.lru_cache
def _filled(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers on a device, put there once: a copy in every step would wait for all that the GPU has to do."""
    return torch.tensor(values, device=device)


def masks_of_maps(maps: Tensor, focus: float, background: float) -> tuple[Tensor, Tensor]:
    """The cells at the top of a class map, and those far down it.

    Args:
        maps: (..., N) values of the map; focus, background: shares (0..1) of the cells.
    Returns:
        two (..., N) bool masks of at least one cell each.
    """
    n = maps.shape[-1]
    order = maps.argsort(dim=-1, descending=True)
    empty = torch.zeros_like(maps, dtype=torch.bool)
    top = empty.scatter(-1, order[..., : max(1, round(focus * n))], True)
    bottom = empty.scatter(-1, order[..., n - max(1, round(background * n)):], True)
    return top, bottom


class Trainer:
    """Takes one gradient step of any kind, and keeps an optimiser for each.

    Args:
        model: on its device. phases: by kind (trunk, warm, joint, last). weights: of the losses.
        margin: of separation. focus: share of a clip's cells that cluster and coverage see, 1 for all.
        background: share of a clip's cells that background separation sees.
        frozen: parts of the trunk that no step trains. freeze_bn: whether their batch-norm statistics stay, too.
        sure: a clip to whose true class the pooled head gives no higher probability than this does not place
            prototypes: where such a clip shows its class, if it does at all, nobody knows.
        cluster_margin, rivals: of the cluster and the separation loss, see `level_losses`.
        last_layer: "always" trained but in trunk steps, or "joint", as in the released code: in joint steps alone.
        world: the processes that share each batch; every one of them takes the same step.
        precision: of trunk and neck (default: float32).
    """

    def __init__(self, model: HIPE, phases: dict[str, Phase], weights: LossWeights, *, margin: float = 10.0,
                 focus: float = 0.04, background: float = 0.8, sure: float = 0.5, cluster_margin: float | None = None,
                 rivals: str = "level", last_layer: str = "always", frozen: Sequence[nn.Module] = (),
                 freeze_bn: bool = False, world: World | None = None, precision: Precision | None = None) -> None:
        self.frozen, self.freeze_bn = frozen, freeze_bn
        self.model, self.phases, self.weights, self.world = model, phases, weights, world or World()
        self.precision = precision or Precision(self.device)
        self.margin, self.focus, self.background, self.sure = margin, focus, background, sure
        self.cluster_margin, self.rivals, self.last_layer = cluster_margin, rivals, last_layer
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.kind: str | None = None
        self.n_ways = torch.zeros(len(model.ancestors), dtype=torch.int64, device=self.device)  # (K0,) of the classes
        self._together: tuple[str, nn.Module] | None = None  # of the last kind of step that a batch was shared in

    @property
    def device(self) -> torch.device:
        return self.model.device

    def optimizer(self, kind: str) -> torch.optim.Optimizer:
        """The optimiser of a kind of step, made on first use."""
        if kind not in self.optimizers:
            model, phase = self.model, self.phases[kind]
            head, trunk = [*model.neck.parameters(), model.prototype_layer.prototypes], list(model.trunk.parameters())
            left_out = set(model.score.last) if kind == "warm" and self.last_layer == "joint" else set()
            score = [*model.score.last, *(p for p in model.score.parameters() if p not in set(model.score.last))]
            score = [parameter for parameter in score if parameter not in left_out]
            decay = phase.weight_decay
            parts = [(head + score, phase.head_rate, decay)] if phase.score_rate is None else [
                (head, phase.head_rate, decay), (score, phase.score_rate, 0.0)]
            parts = {"trunk": [(trunk + list(model.pooled_head.parameters()), phase.trunk_rate, decay)],
                     "warm": parts, "joint": [(trunk, phase.trunk_rate, decay), *parts],
                     "last": [(model.score.last, phase.head_rate, decay)]}[kind]
            groups = [{"params": parameters, "lr": rate, "rate": rate, "weight_decay": decay}
                      for parameters, rate, decay in parts]
            self.optimizers[kind] = OPTIMIZERS[phase.optimizer](
                groups, phase.momentum, fused=True if self.device.type == "cuda" else None)
        return self.optimizers[kind]

    def enter(self, kind: str) -> None:
        """Freeze and thaw what a kind of step wants; a frozen trunk keeps its batch-norm statistics, too."""
        if kind == self.kind:
            return
        self.kind = kind
        model = self.model
        model.requires_grad_(kind == "joint")
        model.pooled_head.requires_grad_(kind == "trunk")
        model.trunk.requires_grad_(kind in ("trunk", "joint"))
        for part in (model.neck, model.prototype_layer, model.score):
            part.requires_grad_(kind in ("warm", "joint"))
        for parameter in model.score.last:
            parameter.requires_grad_(kind in (("joint",) if self.last_layer == "joint" else ("warm", "joint", "last")))
        model.train(kind != "last")
        model.trunk.train(kind in ("trunk", "joint"))
        freeze(self.frozen, statistics=self.freeze_bn)
        # what an earlier phase's optimiser remembers is of no use any more
        earlier = {"warm": ["trunk"], "joint": ["trunk", "warm"]}.get(kind, [])
        for other in earlier:
            self.optimizers.pop(other, None)

    def step(self, step: Step, progress: float, batch: dict) -> dict[str, Tensor]:
        """One gradient step on a batch of the loader.

        Args:
            step: kind trunk, warm or joint. progress: share of the phase before this step, 0..1.
            batch: as `valid_clips` gives it, this process's share; `trunk` (B, C', t, h, w), a frozen trunk's features,
                may replace `clip`.
        Returns:
            named scalars on the device: every loss unscaled, `loss` (their weighted sum) and `top1`.
        """
        self.enter(step.kind)
        labels = batch["label"]
        if self.world.size == 1:
            outputs = self._forward(batch)
        else:
            labels, *outputs = self._shared(step.kind, batch)
        if step.kind == "trunk":
            log_probs, = outputs
            total = F.nll_loss(log_probs, labels)
            losses = {"ce": total.detach()}
        else:
            losses, total, log_probs = self._terms(outputs, labels)
        self._descend(step, progress, total)
        top1 = (log_probs.detach()[:, :self.model.ancestors.shape[0]].argmax(1) == labels).float().mean()
        return {**losses, "loss": total.detach(), "top1": top1}

    def _forward(self, batch: dict) -> tuple[Tensor, ...]:
        """What the losses of the kind of step entered are made of, a row a clip."""
        if self.kind == "trunk":
            return self.model.pooled_log_probs(self._trunk(batch)),
        return self._outputs(self._trunk(batch), batch["label"], batch.get("way"))

    def _shared(self, kind: str, batch: dict) -> list[Tensor]:
        """The labels and what `_forward` gives, of the clips of all processes."""
        if self._together is None or self._together[0] != kind:
            self._together = kind, Together(self.model, self._forward).parallel()
        outputs = [rows.flatten(1) for rows in (batch["label"][:, None], *self._together[1](batch))]
        # in one piece: a message has its price; labels are exact in float32 up to 16 million classes
        labels, *found = self.world.gather(torch.cat([rows.float() for rows in outputs], 1)).split(
            [rows.shape[1] for rows in outputs], 1)
        return [labels[:, 0].long(), *found]

    def _trunk(self, batch: dict) -> Tensor:
        if "trunk" in batch:
            return batch["trunk"]
        with torch.set_grad_enabled(self.model.trunk.training), self.precision.in_training():
            return self.model.trunk(batch["clip"]).float()

    def losses(self, trunk: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """All losses of HIPE on a batch.

        Args:
            trunk: (B, C', t, h, w) features of the trunk; labels: (B,).
        Returns:
            named detached scalars, their weighted sum with its gradient, log_probs (B, K).
        """
        return self._terms(self._outputs(trunk, labels), labels)

    def _outputs(self, trunk: Tensor, labels: Tensor, ways: Tensor | None = None) -> tuple[Tensor, ...]:
        """log_probs (B, K); distances to the nearest of all, of the focused and of the background cells, and
        activations, (B, P) each; evidence (B, K) or tangent vectors (B, D); whether a clip's class map can be believed
        (B, 1); the clip's way, -1 where it is unknown (B, 1); where its loss counts, the pooled head's (B, K0)."""
        masks, sure = self._places(trunk.detach(), labels)
        with self.precision.in_training():
            output = self.model.head(trunk, masks)
        ways = torch.full_like(labels, -1) if ways is None else ways.to(labels.device, non_blocking=True)
        pooled = [self.model.pooled_log_probs(trunk)] if self.weights.pooled and self.kind == "joint" else []
        return (output.log_probs, output.distances, *output.masked, output.activations, output.evidence, sure[:, None],
                ways[:, None], *pooled)

    def _terms(self, outputs: Sequence[Tensor], labels: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        model = self.model
        layer = model.prototype_layer
        log_probs, nearest, focused, background, activations, evidence, sure, ways, *pooled = outputs
        terms = {"ce": cross_entropies(log_probs, labels, model.ancestors),
                 **level_losses(nearest, focused, background, labels, layer.node_of, model.ancestors,
                                model.level_of, self.margin, sure=sure[:, 0] > 0,
                                cluster_margin=self.cluster_margin, rivals=self.rivals)}
        if model.score.columns is not None:
            terms["group"] = group_sparsity(model.score.columns)
        if self.weights.level_ce:
            terms["level_ce"] = level_cross_entropies(evidence, labels, model.ancestors, model.level_of)
        if self.weights.orthogonality:
            terms["orthogonality"] = orthogonality(layer.prototypes, layer.counts, 0.0 if layer.by_level else 0.5,
                                                   most=layer.per_node)
        if self.weights.sharing:  # similarities of all kinds on the scale of the logarithmic one, whose tanh saturates
            terms["sharing"] = sharing(activations * (HIGHEST / layer.highest), labels, layer.node_of, model.ancestors,
                                       model.level_of)
        if self.weights.ways:
            shown = torch.where(sure[:, 0] > 0, ways[:, 0], -1).long()  # a clip without its event shows no way
            terms["ways"] = ways_cross_entropy(activations, labels, shown, self.n_ways[labels], layer.node_of)
        if self.weights.even:
            terms["even"] = model.score.unevenness()
        if pooled:
            terms["pooled"] = F.nll_loss(pooled[0], labels)
        if self.weights.batch_ce:
            terms["batch_ce"] = batch_cross_entropy(evidence, model.score.embeddings.in_ball[labels])
        if self.weights.l1:
            terms["l1"] = sparsity(model.score.columns)
        return self._weigh(terms, log_probs)

    def _weigh(self, terms: dict[str, Tensor], log_probs: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        n_levels = self.model.ancestors.shape[1]
        total = torch.zeros((), device=log_probs.device)
        scalars = {}
        for name, value in terms.items():
            total = total + (self.weights.of(name, n_levels, value.device) * value).sum()
            value = value.detach()
            scalars |= {f"{name}_{level}": value[level] for level in range(n_levels)} if value.dim() else {name: value}
        return scalars, total, log_probs

    @torch.no_grad()
    def _places(self, trunk: Tensor, labels: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Where prototypes should be and where not: masks of the focused and of the background cells (B, N); and the
        clips whose class map can be believed: (B,) bool.

        The map of the clip's own class serves its ancestors too: the sum of their classes' maps has its peaks where
        classes do not disagree, which is mostly where there is nothing to see.
        """
        masks = masks_of_maps(self.model.class_map(trunk, labels).flatten(1), self.focus, self.background)
        sure = self.model.pooled_log_probs(trunk).gather(1, labels[:, None])[:, 0].exp() > self.sure
        return masks, sure

    def _descend(self, step: Step, progress: float, total: Tensor) -> None:
        optimizer, scaler = self._ready(step, progress), self.precision.scaler
        if scaler is None:
            total.backward()
            optimizer.step()
        else:
            scaler.scale(total).backward()
            scaler.step(optimizer)
            scaler.update()

    def _ready(self, step: Step, progress: float) -> torch.optim.Optimizer:
        """The optimiser of a step, with its rate set and no gradients."""
        optimizer, phase = self.optimizer(step.kind), self.phases[step.kind]
        factor = rate_factor(phase.scheduler, progress, step.epoch, phase.milestones)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        optimizer.zero_grad(set_to_none=True)
        return optimizer

    def tune(self, step: Step, progress: float, activations: Tensor, labels: Tensor,
             chunk: int = 4096) -> dict[str, Tensor]:
        """One full pass of the last layer alone over activations of the pushed prototypes.

        Args:
            step: kind last; its iteration 0 begins with a fresh optimiser. progress: as in `step`.
            activations: (N, P); labels: (N,); this process's share, on any device. chunk: clips at a time on that of
                the model.
        Returns:
            named scalars as `step` does.
        """
        self.enter("last")
        if step.iteration == 0:
            self.optimizers.pop("last", None)
        model, n_levels = self.model, self.model.ancestors.shape[1]
        optimizer = self._ready(step, progress)
        sums = {"ce": torch.zeros(n_levels, device=self.device)}
        right = torch.zeros((), device=self.device)
        n_clips = self.world.total(len(labels))
        for some, label in zip(activations.split(chunk), labels.split(chunk), strict=True):
            some, label = some.to(self.device), label.to(self.device)
            log_probs, _ = model.score(some)
            ce = cross_entropies(log_probs, label, model.ancestors) * (len(label) / n_clips)
            (ce * self.weights.of("ce", n_levels, self.device)).sum().backward()
            sums["ce"] += ce.detach()
            right += (log_probs[:, :len(model.ancestors)].argmax(1) == label).sum()
        for shared in (*(parameter.grad for parameter in model.score.last), sums["ce"], right):
            self.world.sum_(shared)
        if model.score.columns is not None:
            group = group_sparsity(model.score.columns)
            (self.weights.group * group).backward()
            sums["group"] = group.detach()
        if self.weights.even:
            even = model.score.unevenness()
            (self.weights.even * even).backward()
            sums["even"] = even.detach()
        optimizer.step()
        scalars, total, _ = self._weigh(sums, activations)
        return {**scalars, "loss": total, "top1": right / n_clips}

    def count_ways(self, ways: Tensor, labels: Tensor) -> None:
        """Take up how many ways each class has: ways (V,) of videos, -1 where unknown, labels (V,)."""
        counts = torch.zeros(len(self.n_ways), dtype=torch.int64)
        self.n_ways = counts.scatter_reduce(0, labels, ways + 1, "amax").to(self.device)

    def forget(self) -> None:
        """Drop all optimisers: the model has other prototypes now."""
        self.optimizers.clear()
        self.kind = self._together = None

    def state(self) -> dict:
        """By kind of step: the optimiser's name and its state."""
        return {kind: (self.phases[kind].optimizer, optimizer.state_dict())
                for kind, optimizer in self.optimizers.items()}

    def load_state(self, state: dict) -> None:
        """Restore what `state` gave; rates, decay and momentum stay this trainer's, so a run can go on with others."""
        for kind, (name, values) in state.items():
            if name != self.phases[kind].optimizer:
                continue  # another optimiser has other memories, and begins without any
            optimizer = self.optimizer(kind)
            parts = [[len(group["params"]) for group in groups]
                     for groups in (values["param_groups"], optimizer.param_groups)]
            if parts[0] != parts[1]:
                continue  # parameters that had one rate have several now
            own = [{key: value for key, value in group.items() if key not in ("params", "lr")}
                   for group in optimizer.param_groups]  # lr is set at every step
            groups = [{**group, **options} for group, options in zip(values["param_groups"], own, strict=True)]
            optimizer.load_state_dict({**values, "param_groups": groups})


class Meter:
    """Means of named scalars, without waiting for the device until somebody reads them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.clips = 0
        self.began = time.perf_counter()

    def add(self, scalars: dict[str, Tensor], clips: int) -> None:
        for name, value in scalars.items():
            self.sums[name] = self.sums.get(name, 0) + value.double()
        self.count += 1
        self.clips += clips

    def means(self) -> dict[str, float]:
        """Mean of every scalar, and clips a second since the first."""
        rate = self.clips / max(time.perf_counter() - self.began, 1e-9)
        return {name: float(value) / self.count for name, value in self.sums.items()} | {"clips_per_s": round(rate, 2)}



"""Gradient steps of every kind, evaluation, and inference over sliding windows."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.hipe import HIPE
from models.stages import freeze
from training.distributed import Together, World
from training.losses import (
    LossWeights,
    StepOutputs,
    cross_entropies,
    focused_and_background,
    level_losses,
    named_scalars,
)
from training.precision import Precision
from training.schedule import Step, rate_factor

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
        pooled = [self.model.pooled_log_probs(trunk)] if self.kind == "joint" and self.weights.wants("pooled") else []
        return (output.log_probs, output.distances, *output.masked, output.activations, output.evidence, sure[:, None],
                ways[:, None], *pooled)

    def _terms(self, outputs: Sequence[Tensor], labels: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        model = self.model
        log_probs, nearest, focused, background, activations, evidence, sure, ways, *pooled = outputs
        sure = sure[:, 0] > 0
        by_level = level_losses(nearest, focused, background, labels, model.prototype_layer.node_of, model.ancestors,
                                model.level_of, self.margin, sure=sure, cluster_margin=self.cluster_margin,
                                rivals=self.rivals)
        clips = StepOutputs(labels, log_probs, activations, evidence, by_level, sure, ways[:, 0].long(),
                            self.n_ways[labels], *pooled)
        terms = self.weights.terms(model, clips)
        return named_scalars(terms), self.weights.total(terms, model.ancestors.shape[1]), log_probs

    @torch.no_grad()
    def _places(self, trunk: Tensor, labels: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Where prototypes should be and where not: masks of the focused and of the background cells (B, N); and the
        clips whose class map can be believed: (B,) bool.

        The map of the clip's own class serves its ancestors too: the sum of their classes' maps has its peaks where
        classes do not disagree, which is mostly where there is nothing to see.
        """
        masks = focused_and_background(self.model.class_map(trunk, labels).flatten(1), self.focus, self.background)
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
        ce_sum = torch.zeros(n_levels, device=self.device)
        right = torch.zeros((), device=self.device)
        n_clips = self.world.total(len(labels))
        for some, label in zip(activations.split(chunk), labels.split(chunk), strict=True):
            some, label = some.to(self.device), label.to(self.device)
            log_probs, _ = model.score(some)
            ce = cross_entropies(log_probs, label, model.ancestors) * (len(label) / n_clips)
            (ce * self.weights.of("ce", n_levels, self.device)).sum().backward()
            ce_sum += ce.detach()
            right += (log_probs[:, :len(model.ancestors)].argmax(1) == label).sum()
        for shared in (*(parameter.grad for parameter in model.score.last), ce_sum, right):
            self.world.sum_(shared)
        terms = self.weights.tuning_terms(model)
        for name, value in terms.items():
            (self.weights.of(name, n_levels, self.device) * value).backward()
        optimizer.step()
        terms = {"ce": ce_sum, **{name: value.detach() for name, value in terms.items()}}
        return {**named_scalars(terms), "loss": self.weights.total(terms, n_levels), "top1": right / n_clips}

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

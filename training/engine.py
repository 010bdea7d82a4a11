"""The trainer: gradient steps of every kind, and the optimiser of each."""

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
from training.schedule import Step, kind_of_stored, rate_factor, stored_kind

OPTIMIZERS = {
    "sgd": lambda groups, momentum, **how: torch.optim.SGD(groups, momentum=momentum, **how),
    "adam": lambda groups, momentum, **how: torch.optim.Adam(groups, betas=(momentum, 0.999), **how),
    "adamw": lambda groups, momentum, **how: torch.optim.AdamW(groups, betas=(momentum, 0.999), **how),
}


@dataclass
class Phase:
    """How one kind of step is optimised.

    Args:
        optimizer: a key of OPTIMIZERS. trunk_rate: learning rate of the trunk.
        head_rate: learning rate of neck, prototypes and score. scheduler, milestones: of `rate_factor`.
        score_rate: learning rate of the score, which then has no weight decay; None for `head_rate`.
    """

    optimizer: str
    trunk_rate: float
    head_rate: float
    weight_decay: float = 0.0
    momentum: float = 0.9
    scheduler: str = "constant"
    milestones: list[int] = field(default_factory=list)
    score_rate: float | None = None


def parameter_groups(model: HIPE, kind: str, phase: Phase, *, last_layer: str = "always") -> list[dict]:
    """The parameters that a kind of step trains, as an optimiser takes them.

    Args:
        last_layer: see `Trainer`.
    Returns:
        groups of params, lr, rate (before the scheduler) and weight_decay.
    """
    trunk = list(model.trunk.parameters())
    head = [*model.neck.parameters(), model.prototype_layer.prototypes]
    last = list(model.score.last)
    others = [parameter for parameter in model.score.parameters() if parameter not in set(last)]
    score = others if kind == "warm" and last_layer == "joint" else [*last, *others]
    decay = phase.weight_decay
    if phase.score_rate is None:
        warm = [(head + score, phase.head_rate, decay)]
    else:
        warm = [(head, phase.head_rate, decay), (score, phase.score_rate, 0.0)]
    parts = {"trunk": [(trunk + list(model.pooled_head.parameters()), phase.trunk_rate, decay)],
             "warm": warm,
             "joint": [(trunk, phase.trunk_rate, decay), *warm],
             "tune": [(last, phase.head_rate, decay)]}[kind]
    return [{"params": parameters, "lr": rate, "rate": rate, "weight_decay": decay}
            for parameters, rate, decay in parts]


class Trainer:
    """Gradient steps of every kind, with one optimiser per kind.

    Args:
        model: on its device. phases: by kind (trunk, warm, joint, tune). weights: of the losses.
        margin: of separation. focus: share of a clip's cells that cluster and coverage see, 1 for all.
        background: share of a clip's cells that background separation sees.
        frozen: parts of the trunk that no step trains. freeze_bn: whether their batch-norm statistics stay fixed, too.
        sure: the pooled head's probability of the true class above which a clip's class map is reliable; cluster,
            background and coverage leave other clips out.
        cluster_margin, rivals: see `level_losses`.
        last_layer: "always": the score's last parameters learn in all steps but trunk steps; "joint": in joint steps
            alone, as in the released code.
        world: the processes that share each batch; all of them take the same step.
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
        self.n_ways = torch.zeros(len(model.ancestors), dtype=torch.int64, device=self.device)  # (K0,)
        self._together: tuple[str, nn.Module] | None = None  # the kind of step shared last, its forward pass

    @property
    def device(self) -> torch.device:
        return self.model.device

    def optimizer(self, kind: str) -> torch.optim.Optimizer:
        """The optimiser of a kind of step, made on first use."""
        if kind not in self.optimizers:
            phase = self.phases[kind]
            groups = parameter_groups(self.model, kind, phase, last_layer=self.last_layer)
            self.optimizers[kind] = OPTIMIZERS[phase.optimizer](
                groups, phase.momentum, fused=True if self.device.type == "cuda" else None)
        return self.optimizers[kind]

    def enter(self, kind: str) -> None:
        """Set which parameters learn in a kind of step; a frozen trunk keeps its batch-norm statistics, too."""
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
            parameter.requires_grad_(kind in (("joint",) if self.last_layer == "joint" else ("warm", "joint", "tune")))
        model.train(kind != "tune")
        model.trunk.train(kind in ("trunk", "joint"))
        freeze(self.frozen, statistics=self.freeze_bn)
        # no step of an earlier phase follows, so its optimiser need not be kept
        for earlier in {"warm": ["trunk"], "joint": ["trunk", "warm"]}.get(kind, []):
            self.optimizers.pop(earlier, None)

    def step(self, step: Step, progress: float, batch: dict) -> dict[str, Tensor]:
        """One gradient step on a batch of the loader.

        Args:
            step: kind trunk, warm or joint. progress: share of the phase before this step, 0..1.
            batch: of `valid_clips`, this process's share; `trunk` (B, C', t, h, w), features of a frozen trunk, may
                replace `clip`.
        Returns:
            named scalars on the device: every loss unweighted, `loss` (their weighted sum) and `top1`.
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
        self._update(step, progress, total)
        top1 = (log_probs.detach()[:, :self.model.ancestors.shape[0]].argmax(1) == labels).float().mean()
        return {**losses, "loss": total.detach(), "top1": top1}

    def _forward(self, batch: dict) -> tuple[Tensor, ...]:
        """What the losses of the current kind of step are computed from, one row per clip."""
        if self.kind == "trunk":
            return self.model.pooled_log_probs(self._trunk(batch)),
        return self._outputs(self._trunk(batch), batch["label"], batch.get("way"))

    def _shared(self, kind: str, batch: dict) -> list[Tensor]:
        """The labels and the outputs of `_forward`, of the clips of all processes."""
        if self._together is None or self._together[0] != kind:
            self._together = kind, Together(self.model, self._forward).parallel()
        outputs = [rows.flatten(1) for rows in (batch["label"][:, None], *self._together[1](batch))]
        # one message is faster than several; labels are exact in float32 up to 16 million classes
        labels, *outputs = self.world.gather(torch.cat([rows.float() for rows in outputs], 1)).split(
            [rows.shape[1] for rows in outputs], 1)
        return [labels[:, 0].long(), *outputs]

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
        """What the losses of warm and joint steps are computed from, as tensors that processes can share.

        Returns:
            log_probs (B, K); distances to the nearest of all, of the focused and of the background cells, and
            activations, (B, P) each; evidence (B, K) or tangent vectors (B, D); whether a clip's class map is reliable
            (B, 1); the clip's way, -1 where unknown (B, 1); where its loss has a weight, the pooled head's (B, K0).
        """
        masks, reliable = self._masks(trunk.detach(), labels)
        with self.precision.in_training():
            output = self.model.head(trunk, masks)
        ways = torch.full_like(labels, -1) if ways is None else ways.to(labels.device, non_blocking=True)
        pooled = [self.model.pooled_log_probs(trunk)] if self.kind == "joint" and self.weights.wants("pooled") else []
        return (output.log_probs, output.distances, *output.masked, output.activations, output.evidence,
                reliable[:, None], ways[:, None], *pooled)

    def _terms(self, outputs: Sequence[Tensor], labels: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        model = self.model
        log_probs, nearest, focused, background, activations, evidence, reliable, ways, *pooled = outputs
        reliable = reliable[:, 0] > 0
        by_level = level_losses(nearest, focused, background, labels, model.prototype_layer.node_of, model.ancestors,
                                model.level_of, self.margin, reliable=reliable, cluster_margin=self.cluster_margin,
                                rivals=self.rivals)
        clips = StepOutputs(labels, log_probs, activations, evidence, by_level, reliable, ways[:, 0].long(),
                            self.n_ways[labels], *pooled)
        terms = self.weights.terms(model, clips)
        return named_scalars(terms), self.weights.total(terms, model.ancestors.shape[1]), log_probs

    @torch.no_grad()
    def _masks(self, trunk: Tensor, labels: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Masks of the focused and of the background cells (B, N), and of the clips with a reliable class map (B,).

        The ancestors' prototypes use the map of the clip's own class as well: a sum of the maps of all classes below an
        ancestor is highest where these classes agree, which is mostly where nothing happens.
        """
        masks = focused_and_background(self.model.class_map(trunk, labels).flatten(1), self.focus, self.background)
        reliable = self.model.pooled_log_probs(trunk).gather(1, labels[:, None])[:, 0].exp() > self.sure
        return masks, reliable

    def _update(self, step: Step, progress: float, total: Tensor) -> None:
        optimizer, scaler = self._ready(step, progress), self.precision.scaler
        if scaler is None:
            total.backward()
            optimizer.step()
        else:
            scaler.scale(total).backward()
            scaler.step(optimizer)
            scaler.update()

    def _ready(self, step: Step, progress: float) -> torch.optim.Optimizer:
        """The optimiser of a step, with its rates set and gradients cleared."""
        optimizer, phase = self.optimizer(step.kind), self.phases[step.kind]
        factor = rate_factor(phase.scheduler, progress, step.epoch, phase.milestones)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        optimizer.zero_grad(set_to_none=True)
        return optimizer

    def tune(self, step: Step, progress: float, activations: Tensor, labels: Tensor,
             chunk: int = 4096) -> dict[str, Tensor]:
        """One gradient step of the score's last parameters alone, over activations of the pushed prototypes.

        Args:
            step: kind tune; its iteration 0 begins with a fresh optimiser. progress: as in `step`.
            activations: (N, P); labels: (N,); this process's share, on any device.
            chunk: clips on the model's device at a time.
        Returns:
            named scalars as in `step`.
        """
        self.enter("tune")
        if step.iteration == 0:
            self.optimizers.pop("tune", None)
        model, n_levels = self.model, self.model.ancestors.shape[1]
        optimizer = self._ready(step, progress)
        ce_sum = torch.zeros(n_levels, device=self.device)
        right = torch.zeros((), device=self.device)
        n_clips = self.world.total(len(labels))
        for part, label in zip(activations.split(chunk), labels.split(chunk), strict=True):
            part, label = part.to(self.device), label.to(self.device)
            log_probs, _ = model.score(part)
            ce = cross_entropies(log_probs, label, model.ancestors) * (len(label) / n_clips)
            (ce * self.weights.of("ce", n_levels, self.device)).sum().backward()
            ce_sum += ce.detach()
            right += (log_probs[:, :len(model.ancestors)].argmax(1) == label).sum()
        for summand in (*(parameter.grad for parameter in model.score.last), ce_sum, right):
            self.world.sum_(summand)
        terms = self.weights.tuning_terms(model)
        for name, value in terms.items():
            (self.weights.of(name, n_levels, self.device) * value).backward()
        optimizer.step()
        terms = {"ce": ce_sum, **{name: value.detach() for name, value in terms.items()}}
        return {**named_scalars(terms), "loss": self.weights.total(terms, n_levels), "top1": right / n_clips}

    def count_ways(self, ways: Tensor, labels: Tensor) -> None:
        """Set how many ways each class has: ways (V,) of videos, -1 where unknown; labels (V,)."""
        counts = torch.zeros(len(self.n_ways), dtype=torch.int64)
        self.n_ways = counts.scatter_reduce(0, labels, ways + 1, "amax").to(self.device)

    def forget(self) -> None:
        """Drop all optimisers, for a model whose prototypes were replaced."""
        self.optimizers.clear()
        self.kind = self._together = None

    def state(self) -> dict:
        """The optimisers as checkpoints store them: name and state by the stored kind of step."""
        return {stored_kind(kind): (self.phases[kind].optimizer, optimizer.state_dict())
                for kind, optimizer in self.optimizers.items()}

    def load_state(self, state: dict) -> None:
        """Restore the result of `state`; rates, decay and momentum stay those of this trainer, which may differ."""
        for stored, (name, values) in state.items():
            kind = kind_of_stored(stored)
            if name != self.phases[kind].optimizer:
                continue  # another optimiser cannot use this state, and begins without any
            optimizer = self.optimizer(kind)
            before, now = ([len(group["params"]) for group in groups]
                           for groups in (values["param_groups"], optimizer.param_groups))
            if before != now:
                continue  # parameters that shared a rate have several now
            own = [{key: value for key, value in group.items() if key not in ("params", "lr")}
                   for group in optimizer.param_groups]  # lr is set at every step
            groups = [{**group, **options} for group, options in zip(values["param_groups"], own, strict=True)]
            optimizer.load_state_dict({**values, "param_groups": groups})

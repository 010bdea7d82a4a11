"""The schedule: a run as a flat sequence of steps, a cursor into it, and the learning rate at each place in it."""

import bisect
import itertools
import math
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from datasets.sampling import EpochBatches


class Kind(NamedTuple):
    """Where steps of a kind stand in a run.

    Args:
        phase: of the run: 0 trunk epochs, 1 start of the prototypes, 2 epochs with prototypes.
        place: in an epoch. What stands at or before a completed step is not done again, so that more steps can be
            added to a finished run at the end of its last epoch alone.
        gradient: whether a step takes a batch of training clips. validated: whether validation follows.
        stored: name in checkpoints and metrics.jsonl, where that is another.
    """

    phase: int
    place: int
    gradient: bool = False
    validated: bool = True
    stored: str | None = None


# What a step of each kind does stands in run/steps.py, and when there is one in `training_steps`.
KINDS = {
    "trunk": Kind(0, 0, gradient=True), "start": Kind(1, 0, validated=False), "warm": Kind(2, 0, gradient=True),
    "joint": Kind(2, 0, gradient=True), "push": Kind(2, 1), "tune": Kind(2, 2, stored="last")}
GRADIENT_KINDS = tuple(name for name, kind in KINDS.items() if kind.gradient)
_OF_STORED = {kind.stored: name for name, kind in KINDS.items() if kind.stored}


def stored_kind(kind: str) -> str:
    """The name of a kind of step in checkpoints and metrics.jsonl."""
    return (KINDS[kind].stored if kind in KINDS else None) or kind


def kind_of_stored(stored: str) -> str:
    """The kind of step that has a name in checkpoints and metrics.jsonl."""
    return _OF_STORED.get(stored, stored)


class Step(NamedTuple):
    """One unit of work, after which a run may stop and be resumed.

    Args:
        kind: trunk, start, warm, joint, push or tune. epoch: from 1, trunk epochs counted separately.
        iteration: from 0.
    """

    kind: str
    epoch: int
    iteration: int

    def stored(self) -> list:
        """The step as checkpoints and metrics.jsonl hold it: [kind, epoch, iteration]."""
        return [stored_kind(self.kind), self.epoch, self.iteration]

    @classmethod
    def of_stored(cls, values: Iterable) -> "Step":
        """The step that `stored` gave.

        Raises:
            TypeError: where there are not three values.
        """
        stored, *place = values
        return cls(kind_of_stored(stored), *place)


class Stretch(NamedTuple):
    """`n` consecutive steps of one kind and epoch; `first` is the iteration of the first of them."""

    kind: str
    epoch: int
    first: int
    n: int


class Steps(Sequence[Step]):
    """Steps in order, each created on access, since a run over a million videos has millions.

    Attributes:
        stretches: the steps, none of the stretches empty.
    """

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        self.stretches = [stretch for stretch in stretches if stretch.n > 0]
        self._ends = list(itertools.accumulate(stretch.n for stretch in self.stretches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Step]:
        for kind, epoch, first, n in self.stretches:
            for iteration in range(first, first + n):
                yield Step(kind, epoch, iteration)

    def __getitem__(self, i: int | slice) -> "Step | Steps | list[Step]":
        which = range(len(self))[i]
        if isinstance(which, range):
            return self._between(which.start, which.stop) if which.step == 1 else [self[j] for j in which]
        place = bisect.bisect_right(self._ends, which)
        kind, epoch, first, n = self.stretches[place]
        return Step(kind, epoch, first + which - (self._ends[place] - n))

    def _between(self, start: int, stop: int) -> "Steps":
        return Steps(Stretch(kind, epoch, first + max(start - (end - n), 0), min(stop, end) - max(start, end - n))
                     for (kind, epoch, first, n), end in zip(self.stretches, self._ends, strict=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    def only(self, *kinds: str) -> "Steps":
        """The steps of some kinds."""
        return Steps(stretch for stretch in self.stretches if stretch.kind in kinds)

    def counts(self) -> Counter[str]:
        """The number of steps of each kind."""
        counts: Counter[str] = Counter()
        for stretch in self.stretches:
            counts[stretch.kind] += stretch.n
        return counts


def _position(step: Step) -> tuple[int, int, int, int]:
    kind = KINDS[step.kind]
    return kind.phase, step.epoch, kind.place, step.iteration


def push_epochs(*, n_epochs: int, warm_epochs: int, push_start: int, push_every: int,
                last_push: bool = True) -> list[int]:
    """The epochs that end with a push: regular ones, and the run's final epoch unless `last_push` is False."""
    regular = [e for e in range(warm_epochs + 1, n_epochs + 1)
               if e >= push_start and (e - push_start) % push_every == 0]
    if not last_push:
        return [e for e in regular if e < n_epochs]
    return sorted({*regular, n_epochs}) if n_epochs > 0 else []


def training_steps(*, n_batches: int, trunk_epochs: int, warm_epochs: int, n_epochs: int, push_start: int,
                   push_every: int, tune_iterations: int, last_push: bool = True) -> Steps:
    """All steps of a run in order: trunk epochs, the start of the prototypes, warm and joint epochs with their pushes.

    Args:
        n_batches: iterations of an epoch.
        trunk_epochs: epochs of the trunk under its pooled head, not counted in n_epochs.
        warm_epochs, n_epochs: epochs 1..warm_epochs are warm, the others up to n_epochs joint.
        push_start, push_every: a push ends joint epoch e when e >= push_start and (e - push_start) % push_every == 0,
            and the final epoch whatever its number; each push is followed by tuning.
        last_push: False for no push after the final epoch.
        tune_iterations: passes of the score's last parameters after each push.
    """
    stretches = [Stretch("trunk", epoch, 0, n_batches) for epoch in range(1, trunk_epochs + 1)]
    if n_epochs:
        stretches.append(Stretch("start", 0, 0, 1))
    pushed = set(push_epochs(n_epochs=n_epochs, warm_epochs=warm_epochs, push_start=push_start, push_every=push_every,
                             last_push=last_push))
    for epoch in range(1, n_epochs + 1):
        stretches.append(Stretch("warm" if epoch <= warm_epochs else "joint", epoch, 0, n_batches))
        if epoch in pushed:
            stretches += [Stretch("push", epoch, 0, 1), Stretch("tune", epoch, 0, tune_iterations)]
    return Steps(stretches)


def remaining(steps: Steps, done: Step | None) -> Steps:
    """The steps after the last completed one, which a longer or shorter schedule need not contain."""
    if done is None:
        return steps
    left = []
    for kind, epoch, first, n in steps.stretches:
        if completed(Step(kind, epoch, first), done):  # the whole of it, or up to the same iteration
            start = first + n if completed(Step(kind, epoch, first + n - 1), done) else done.iteration + 1
            left.append(Stretch(kind, epoch, start, first + n - start))
        else:
            left.append(Stretch(kind, epoch, first, n))
    return Steps(left)


def completed(step: Step, done: Step) -> bool:
    """Whether a step lies at or before the last completed one."""
    return _position(step) <= _position(done)


def least_batch(size: int) -> int:
    """The smallest batch for `size` processes: one item for each, and two for batch-norm."""
    return max(size, 2)


class ScheduledBatches:
    """The batches of all remaining gradient steps in order, for one loader that serves the whole rest of a run.

    Yields lists of (pass, item), as `EpochBatches` does; passes count trunk epochs and other epochs together.

    Args:
        batch_size: items of a batch, over all processes.
        rank, size: each of `size` processes gets every size-th item of a batch from its rank on, at least one.
    """

    def __init__(self, steps: Steps, n_items: int, batch_size: int, *, seed: int, trunk_epochs: int,
                 rank: int = 0, size: int = 1) -> None:
        self.steps = steps.only(*GRADIENT_KINDS)
        self.n_items, self.batch_size, self.seed, self.trunk_epochs = n_items, batch_size, seed, trunk_epochs
        self.rank, self.size = rank, size

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = None
        batches: Iterator = iter(())
        for step in self.steps:
            if (step.kind == "trunk", step.epoch) != epoch:
                epoch = (step.kind == "trunk", step.epoch)
                counted = step.epoch if step.kind == "trunk" else self.trunk_epochs + step.epoch
                batches = iter(EpochBatches(self.n_items, self.batch_size, seed=self.seed, epoch=counted,
                                            first=step.iteration, least=least_batch(self.size)))
            yield next(batches)[self.rank::self.size]


def rate_factor(scheduler: str, progress: float, epoch: int, milestones: Iterable[int] = ()) -> float:
    """The factor of the learning rate: a pure function of the place in the schedule, so nothing has to be restored.

    Args:
        scheduler: constant; multistep (a tenth after each milestone epoch); cosine (1 to 0); onecycle (Smith, 2018:
            from 1/25 up to 1 over the first three tenths, then down to nothing, both along a cosine).
        progress: share of the phase that was completed before this step, 0..1.
        epoch: from 1; milestones: epochs.
    """
    if scheduler == "constant":
        return 1.0
    if scheduler == "multistep":
        return 0.1 ** sum(epoch > milestone for milestone in milestones)
    if scheduler == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if progress < 0.3:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / 0.3)) / 2
    return (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) / 2


SCHEDULERS = ("constant", "multistep", "cosine", "onecycle")

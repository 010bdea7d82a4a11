"""The list of steps is the schedule read literally; any cut of it goes on as if nothing had happened."""

import itertools
from collections import Counter

import pytest

from datasets.sampling import n_batches
from training.schedule import (
    GRADIENT_KINDS,
    SCHEDULERS,
    ScheduledBatches,
    Step,
    completed,
    kind_of_stored,
    least_batch,
    push_epochs,
    rate_factor,
    remaining,
    stored_kind,
    training_steps,
)

SMALL = {"n_batches": 2, "trunk_epochs": 2, "warm_epochs": 1, "n_epochs": 4, "push_start": 2, "push_every": 2,
         "tune_iterations": 3}
MANY = [dict(zip(SMALL, values, strict=True)) for values in itertools.product(
    (1, 3), (0, 2), (0, 2), (0, 1, 2, 7), (1, 3, 20), (1, 2), (0, 2))]


def literal(*, n_batches, trunk_epochs, warm_epochs, n_epochs, push_start, push_every, tune_iterations):
    """Phase by phase, in loops."""
    steps = []
    for epoch in range(1, trunk_epochs + 1):  # "trunk epochs are not counted"
        for iteration in range(n_batches):
            steps.append(("trunk", epoch, iteration))
    if n_epochs:
        steps.append(("start", 0, 0))
    for epoch in range(1, n_epochs + 1):  # "epochs count 1..n_epochs over warm + joint"
        joint = epoch > warm_epochs
        for iteration in range(n_batches):
            steps.append(("joint" if joint else "warm", epoch, iteration))
        # "push in joint epochs only, at the end of epoch e when e >= push_start and (e - push_start) % push_every = 0"
        push = joint and epoch >= push_start and (epoch - push_start) % push_every == 0
        if push or epoch == n_epochs:  # "and always at the end of the run (not twice)"
            steps.append(("push", epoch, 0))
            for iteration in range(tune_iterations):  # "each followed by last"
                steps.append(("tune", epoch, iteration))
    return steps


def test_steps_are_method_3():
    for settings in MANY:
        assert [tuple(step) for step in training_steps(**settings)] == literal(**settings), settings


def test_a_small_run_written_out():
    assert [tuple(step) for step in training_steps(**SMALL)] == [
        ("trunk", 1, 0), ("trunk", 1, 1), ("trunk", 2, 0), ("trunk", 2, 1), ("start", 0, 0),
        ("warm", 1, 0), ("warm", 1, 1),
        ("joint", 2, 0), ("joint", 2, 1), ("push", 2, 0), ("tune", 2, 0), ("tune", 2, 1), ("tune", 2, 2),
        ("joint", 3, 0), ("joint", 3, 1),
        ("joint", 4, 0), ("joint", 4, 1), ("push", 4, 0), ("tune", 4, 0), ("tune", 4, 1), ("tune", 4, 2)]


def test_the_published_schedule():
    published = {"n_epochs": 200, "warm_epochs": 10, "push_start": 10, "push_every": 10}
    assert push_epochs(**published) == list(range(20, 201, 10))  # epoch 10 is a warm one


def test_nothing_moves_after_the_last_push_but_the_last_layer():
    for settings in MANY:
        steps = training_steps(**settings)
        assert len(set(steps)) == len(steps)
        pushes = [i for i, step in enumerate(steps) if step.kind == "push"]
        assert bool(pushes) == bool(settings["n_epochs"])
        for i in pushes:
            tuning = steps[i + 1:i + 1 + settings["tune_iterations"]]
            assert tuning == [Step("tune", steps[i].epoch, k) for k in range(settings["tune_iterations"])]
        assert {step.kind for step in steps[max(pushes, default=len(steps)) + 1:]} <= {"tune"}


def test_steps_are_a_sequence():
    for settings in MANY[::7]:
        steps, plain = training_steps(**settings), [Step(*step) for step in literal(**settings)]
        assert steps == plain and len(steps) == len(plain) and steps != plain + [Step("tune", 9, 9)]
        assert steps.counts() == Counter(step.kind for step in plain)
        assert [steps[i] for i in range(-len(plain), len(plain))] == plain + plain
        for start, stop, stride in itertools.product((None, 0, 2, -3, 99), (None, 1, -1, 99), (None, 2, -1)):
            assert steps[start:stop:stride] == plain[start:stop:stride]
        for i in (len(plain), -len(plain) - 1):
            with pytest.raises(IndexError):
                steps[i]
        for kinds in (("warm",), ("trunk", "joint"), ()):
            assert steps.only(*kinds) == [step for step in plain if step.kind in kinds]


def test_a_long_run_takes_no_room():
    steps = training_steps(**SMALL | {"n_batches": 10**12, "n_epochs": 200})
    assert len(steps) > 10**14 and steps[-4] == Step("push", 200, 0) and len(steps.stretches) < 1000
    left = remaining(steps, Step("joint", 7, 10**9))
    assert left[0] == Step("joint", 7, 10**9 + 1) and steps[len(steps) - len(left)] == left[0]


def test_remaining_is_the_tail():
    for settings in MANY[::5]:
        steps = training_steps(**settings)
        assert remaining(steps, None) == steps
        for i, step in enumerate(steps):
            assert remaining(steps, step) == steps[i + 1:]
            assert [completed(other, step) for other in steps] == [True] * (i + 1) + [False] * (len(steps) - i - 1)


def test_a_longer_schedule_goes_on_from_the_finished_run():
    done = training_steps(**SMALL | {"n_epochs": 3})[-1]
    assert done == Step("tune", 3, 2)  # 3 is no regular push epoch: it was the end
    longer = training_steps(**SMALL | {"n_epochs": 5})
    assert Step("push", 3, 0) not in longer
    left = remaining(longer, done)
    assert left[0] == Step("joint", 4, 0) and left[-1] == Step("tune", 5, 2)
    assert {step.epoch for step in left} == {4, 5}


@pytest.mark.parametrize("tune_iterations", [0, 3])
def test_a_longer_schedule_repeats_nothing_whatever_the_tuning(tune_iterations):
    short = training_steps(**SMALL | {"n_epochs": 3, "tune_iterations": tune_iterations})
    left = remaining(training_steps(**SMALL | {"n_epochs": 4, "tune_iterations": tune_iterations}), short[-1])
    assert left[0] == Step("joint", 4, 0)


def test_a_shorter_schedule_is_finished():
    done = training_steps(**SMALL)[-1]
    assert remaining(training_steps(**SMALL | {"n_epochs": 3}), done) == []


def test_more_tuning_is_added_to_the_last_epoch():
    done = training_steps(**SMALL)[-1]
    assert remaining(training_steps(**SMALL | {"tune_iterations": 5}), done) == [Step("tune", 4, 3), Step("tune", 4, 4)]


@pytest.mark.parametrize(("n_items", "batch_size", "n_batches"), [
    (7, 3, 2), (6, 3, 2), (8, 3, 3), (2, 1, 2), (1, 4, 1)])
def test_batches_resumed_anywhere_are_the_tail_of_the_whole(n_items, batch_size, n_batches):
    settings = SMALL | {"n_batches": n_batches}
    steps = training_steps(**settings)

    def batches(done):
        return list(ScheduledBatches(remaining(steps, done), n_items, batch_size, seed=3, trunk_epochs=2))

    whole = batches(None)
    gradient_steps = [step for step in steps if step.kind in GRADIENT_KINDS]
    sampler = ScheduledBatches(steps, n_items, batch_size, seed=3, trunk_epochs=2)
    assert len(whole) == len(gradient_steps) == len(sampler)
    for i, step in enumerate(steps):
        behind = sum(other.kind in GRADIENT_KINDS for other in steps[:i + 1])
        assert batches(step) == whole[behind:]


def test_every_epoch_sees_every_item_once_in_an_order_of_its_own():
    steps = training_steps(**SMALL)
    whole = list(ScheduledBatches(steps, 7, 3, seed=3, trunk_epochs=2))
    orders = {}
    for step, batch in zip([s for s in steps if s.kind in GRADIENT_KINDS], whole, strict=True):
        orders.setdefault((step.kind == "trunk", step.epoch), []).extend(batch)
    assert len(orders) == 6
    assert all(sorted(item for _, item in order) == list(range(7)) for order in orders.values())
    passes = [{counted for counted, _ in order} for order in orders.values()]
    assert [len(counted) for counted in passes] == [1] * 6 and len(set.union(*passes)) == 6  # no pass repeats another
    assert len({tuple(item for _, item in order) for order in orders.values()}) == 6
    assert list(ScheduledBatches(steps, 7, 3, seed=4, trunk_epochs=2)) != whole


def test_rate_factors():
    at = [i / 100 for i in range(101)]
    assert {rate_factor("constant", p, 7) for p in at} == {1.0}
    steps = [rate_factor("multistep", 0.5, epoch, [2, 4]) for epoch in range(1, 7)]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = [rate_factor("cosine", p, 1) for p in at]
    assert cosine[0] == 1 and cosine[50] == pytest.approx(0.5) and cosine[-1] == pytest.approx(0)
    assert cosine == sorted(cosine, reverse=True)
    cycle = [rate_factor("onecycle", p, 1) for p in at]
    assert cycle[0] == pytest.approx(1 / 25) and cycle[-1] == pytest.approx(0, abs=1e-9)
    assert max(cycle) == pytest.approx(1) and cycle.index(max(cycle)) == 30
    assert cycle[:31] == sorted(cycle[:31]) and cycle[30:] == sorted(cycle[30:], reverse=True)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_rates_are_factors_between_0_and_1(scheduler):
    assert all(0 <= rate_factor(scheduler, p / 50, e, [3]) <= 1 for p in range(51) for e in (1, 9))


@pytest.mark.parametrize(("n_items", "batch_size", "size"), [(13, 4, 2), (13, 4, 3), (7, 3, 3), (11, 5, 3), (3, 3, 3)])
def test_processes_share_every_batch_and_each_has_a_clip(n_items, batch_size, size):
    per_epoch = n_batches(n_items, batch_size, least_batch(size))
    steps = training_steps(**SMALL | {"n_batches": per_epoch})
    shares = [list(ScheduledBatches(steps, n_items, batch_size, seed=3, trunk_epochs=2, rank=rank, size=size))
              for rank in range(size)]
    passes: dict[int, list[int]] = {}
    for batches in zip(*shares, strict=True):
        assert min(map(len, batches)) >= 1 and max(map(len, batches)) - min(map(len, batches)) <= 1
        for number, item in (one for batch in batches for one in batch):
            passes.setdefault(number, []).append(item)
    assert all(sorted(items) == list(range(n_items)) for items in passes.values()) and len(passes) == 6
    if n_items % batch_size == 0 or n_items % batch_size >= size:  # nothing was merged
        whole = list(ScheduledBatches(steps, n_items, batch_size, seed=3, trunk_epochs=2))
        assert [sorted(one for batch in batches for one in batch) for batches in zip(*shares, strict=True)] == [
            sorted(batch) for batch in whole]


def test_files_call_the_tuning_after_a_push_last():
    """Checkpoints and metrics.jsonl of all versions do."""
    assert Step("tune", 3, 2).stored() == ["last", 3, 2] and Step("joint", 3, 2).stored() == ["joint", 3, 2]
    for kind in ("trunk", "start", "warm", "joint", "push", "tune"):
        assert Step.of_stored(Step(kind, 1, 0).stored()) == Step(kind, 1, 0)
        assert kind_of_stored(stored_kind(kind)) == kind
    with pytest.raises(TypeError):
        Step.of_stored(["last", 3])

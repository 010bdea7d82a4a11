"""The training loop: it walks the schedule, and gives every kind of step to its handler."""

import itertools
import shutil
import sys
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from machine.writing import sweep
from run.frozen import FOLDER, remove_features
from run.infer import print_scores, validate
from run.state import Run
from run.steps import Work, gradient_step, push_prototypes, start, tune
from training.checkpoint import put_aside
from training.log import Log, Meter, Stop
from training.schedule import GRADIENT_KINDS, KINDS, Step, Steps
from training.stored import Paused

# A handler takes the work, the step, and the share of the steps of its kind that are done, 0..1.
HANDLERS: dict[str, Callable[[Work, Step, float], None]] = {
    "trunk": gradient_step, "start": start, "warm": gradient_step, "joint": gradient_step, "push": push_prototypes,
    "tune": tune}
# Files of one model in a results folder, beside checkpoints and pictures; explanations carry its fingerprint.
OF_A_MODEL = ("prototypes.json", "metrics.json", "train.json", "val.json", "test.json", "report.html")


def train(run: Run) -> bool:
    """Walk the schedule from where the run stands; False when asked to stop before its end."""
    stop = Stop(patient=run.world.size > 1)
    try:
        return _train(run, stop)
    except Paused:  # before the first checkpoint or a validation: steps after the newest checkpoint are repeated
        print(f"asked to stop: {run.results / FOLDER} has the features that are computed so far; go on with "
              "--resume_path auto, which repeats the steps since the newest checkpoint", file=sys.stderr)
        return False
    finally:
        stop.release()
        run.frozen = run.validation = None  # and their memory


def _train(run: Run, stop: Stop) -> bool:
    work = Work(run)
    if run.frozen is not None:
        run.frozen.stop = lambda: stop.asked
    if not work.todo:
        print(f"{run.results}: the run is finished; a larger --n_epochs goes on", file=sys.stderr)
        _clear_features(run)
        return True
    _make_room(run)
    work.log = log = Log(run.results, run.done, tensorboard=run.args.tensorboard, silent=not run.world.is_main)
    totals, done = work.steps.counts(), work.steps[:len(work.steps) - len(work.todo)].counts()
    bar = None
    for step, following in itertools.pairwise(itertools.chain(work.todo, [None])):
        bar = bar or _bar(run, step, work.todo)
        try:
            HANDLERS[step.kind](work, step, done[step.kind] / totals[step.kind])
        except Paused:  # before the step has changed anything
            if run.done is None:
                raise
            bar.close()
            _stopped(run)
            return False
        done[step.kind] += 1
        run.done = step
        bar.update()
        ended = following is None or (following.kind, following.epoch) != (step.kind, step.epoch)
        if work.meter.count and (ended or work.meter.count % 20 == 0):
            _watch(work.meter.means(), step, bar)
        if ended:
            bar.close()
            _end_epoch(work, step, following, log)
            work.meter, bar = Meter(), None
        asked = run.world.any(stop.asked)
        if asked and following is not None:
            _stopped(run)
            return False
    _clear_features(run)
    return not asked  # asked during the last step: the run is complete, but what the caller does next is not wanted


def _stopped(run: Run) -> None:
    """Save where a run stands that was asked to stop."""
    run.save("last.pth")
    print(f"asked to stop: {run.results / 'last.pth'} stands at {run.done.kind} epoch {run.done.epoch}; go on "
          "with --resume_path auto", file=sys.stderr)


def _clear_features(run: Run) -> None:
    """Remove the features of a frozen trunk from the folder of a complete run."""
    if run.world.is_main and not run.args.keep_features:
        remove_features(run.results)


def _make_room(run: Run) -> None:
    """Clear away what another run, or later epochs of this one, have left in the results folder."""
    if not run.world.is_main:
        return
    if run.earlier:  # not before everything else was found in order
        for path in [*run.earlier, *map(run.results.joinpath, OF_A_MODEL)]:
            path.unlink(missing_ok=True)
        for folder in ("img", "tensorboard"):
            shutil.rmtree(run.results / folder, ignore_errors=True)
    for path in put_aside(run.results, run.done):
        print(f"{path.name}: lies ahead of where this run goes on; kept as {path.name}.ahead", file=sys.stderr)
    sweep(run.results)


def _end_epoch(work: Work, step: Step, following: Step | None, log: Log) -> None:
    """What follows the last step of a kind in an epoch: its line in the log, validation, a checkpoint."""
    run, meter = work.run, work.meter
    if step.kind in ("trunk", "joint"):  # each process has batch-norm statistics of its own clips
        run.world.align(run.model)
    if meter.count:
        log.add(step.kind, step, **meter.means())
    if step.kind in GRADIENT_KINDS and meter.count == work.n_batches:
        work.report_unreadable()
    _validate(run, log, step)
    work.release(step, following)
    _checkpoint(run, step, following)


def _watch(means: dict[str, float], step: Step, bar: tqdm) -> None:
    """Show loss and rate, and stop where the loss is no number."""
    if not np.isfinite(means["loss"]):
        raise ValueError(f"the loss is no finite number any more in {step.kind} epoch {step.epoch}; go on from the "
                         "last checkpoint (--resume_path auto) with a smaller learning rate")
    bar.set_postfix(loss=f"{means['loss']:.3f}", top1=f"{means['top1']:.2f}", clips_s=f"{means['clips_per_s']:.0f}")


def _bar(run: Run, step: Step, todo: Steps) -> tqdm:
    """The progress bar of an epoch's steps of one kind."""
    total = next(stretch.n for stretch in todo.stretches if stretch[:2] == step[:2])
    n_epochs = run.args.trunk_epochs if step.kind == "trunk" else run.args.n_epochs
    name = f"{step.kind} {step.epoch}/{n_epochs}" if step.epoch else step.kind
    return tqdm(total=total, desc=name, leave=False, mininterval=0.5)


def _validate(run: Run, log: Log, step: Step) -> None:
    last_epoch = run.args.trunk_epochs if step.kind == "trunk" else run.args.n_epochs
    due = step.epoch % run.args.val_every == 0 or step.epoch == last_epoch
    if run.args.no_val or not KINDS[step.kind].validated or not due:
        return
    scores = validate(run, pooled=step.kind == "trunk")
    if scores is not None:
        log.add("val", step, **scores)
        print_scores(f"{step.kind} {step.epoch}", scores)


def _checkpoint(run: Run, step: Step, following: Step | None) -> None:
    """Save at the end of an epoch, after its push and tuning."""
    due = following is None or step.epoch % run.args.checkpoint == 0
    if step.kind == "trunk":
        if due or following.kind != "trunk":
            run.save("trunk.pth")
    elif step.epoch and due and (following is None or following.epoch != step.epoch):
        run.save(f"save_{step.epoch}.pth")

"""The whole schedule beside the published one's passes, at this machine's price of a pass.

    python -m benchmarks.schedule [--batch_size 8] [--repeats 5] [--n_epochs 200 --warm_epochs 10 ...]

What a clip costs in each kind of pass is measured on noise in memory, all in turns; what there is to do is counted from
the schedule's flags. Published are as many epochs, a push at --push_start and every --push_every epochs from there,
warm or not, and 20 full passes of tuning after each push. What a published tuning pass costs
is nobody's measurement: it is priced once as a pass of evaluation, the least that it can be, and once as an epoch of
training. Loading, validation and pictures count for neither. Trunk epochs are not published; they stand beside the sum.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.bench import Bench, make_trainer
from benchmarks.tables import saved_tables
from benchmarks.turns import in_turns
from options.errors import CommandLine, user_errors
from training.push import push
from training.schedule import Step, push_epochs

PUBLISHED_PASSES = 20  # of tuning after a push
TUNED = 128  # how many times the batch stands for a training set in a tuning pass


def prices(bench: Bench) -> dict[str, float]:
    """Median seconds a clip of every kind of pass."""
    args, batch, model = bench.args, bench.batch, bench.model()
    n, device = args.batch_size, bench.device
    trainer = make_trainer(args, model, bench.precision)
    whole = {**{key: torch.arange(n) for key in ("video", "item")}, "valid": torch.ones(n, dtype=torch.bool),
             "frames": torch.zeros(n, args.sample_duration, dtype=torch.int64), "crop": torch.zeros(n, 4),
             "label": batch["label"].cpu(), "clip": torch.randint(256, batch["clip"].shape, dtype=torch.uint8)}

    @torch.no_grad()
    def features() -> torch.Tensor:
        with bench.precision.in_inference():
            return model.trunk.eval()(batch["clip"]).float()

    @torch.no_grad()
    def evaluate() -> torch.Tensor:
        with bench.precision.in_inference():
            return model.eval()(batch["clip"]).log_probs

    def pushed() -> torch.Tensor:
        record, neck = push(model, [whole], names=[str(i) for i in range(n)], device=device, n_clips=n,
                            precision=bench.precision)
        return record.distance if neck.features.numel() else record.maps

    def step(kind: str, clips: dict) -> torch.Tensor:
        trainer.kind = None  # another pass may have left the model in eval mode
        return trainer.step(Step(kind, 1, 0), 0.0, clips)["loss"]

    cached = {"trunk": features(), "label": batch["label"], "way": batch["way"]}
    # the one gradient step of a tuning pass is shared by all clips of a training set
    activations = model(batch["clip"]).activations.detach().cpu().repeat(TUNED, 1)
    labels = whole["label"].repeat(TUNED)
    work = {"training": lambda: step("joint", batch), "warm": lambda: step("warm", batch),
            "warm, cached": lambda: step("warm", cached), "trunk": features, "evaluation": evaluate, "push": pushed,
            "tuning": lambda: trainer.tune(Step("tune", 1, 0), 0.0, activations, labels)["loss"]}
    times = in_turns({name: (lambda do=do: do().sum()) for name, do in work.items()}, bench.own.repeats)
    return {name: statistics.median(row) / (len(labels) if name == "tuning" else n) for name, row in times.items()}


def costs(args: argparse.Namespace, price: dict[str, float]) -> dict[str, tuple[float, float, float]]:
    """Seconds a training video of each part: here; as published with cheap, and with dear tuning passes."""
    warm = min(args.warm_epochs, args.n_epochs)
    joint = (args.n_epochs - warm) * price["training"]
    pushes = len(push_epochs(n_epochs=args.n_epochs, warm_epochs=args.warm_epochs, push_start=args.push_start,
                             push_every=args.push_every))
    published = len(range(args.push_start, args.n_epochs + 1, args.push_every))
    passes, plain = published * PUBLISHED_PASSES, warm * price["warm"]
    cached = 0 < args.cache_features < warm
    here = args.cache_features * price["trunk"] + warm * price["warm, cached"] if cached else plain
    # a push over fewer clips before the last one
    clips = args.push_clips + (pushes - 1) * min(args.middle_push_clips, args.push_clips) if pushes else 0
    return {"start of the prototypes": (0 if args.no_start else args.push_clips * price["evaluation"], 0, 0),
            "warm epochs": (here, plain, plain), "joint epochs": (joint,) * 3,
            "pushes": (clips * price["push"], *(published * price["evaluation"],) * 2),
            "tuning": (clips * args.tune_iterations * price["tuning"],
                       passes * price["evaluation"], passes * price["training"])}


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print the prices and the costs; returns the ratios by name."""
    parser = CommandLine(prog="python -m benchmarks.schedule", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's.")
    bench = Bench(parser, argv, batch_size=8)
    if bench.args.n_epochs < 1:
        raise ValueError("--n_epochs must be at least 1: there is no schedule to price")
    price = prices(bench)
    rows = costs(bench.args, price)
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    print(f"{bench}\n\n| pass | ms a clip |\n| --- | --- |")
    for name, value in price.items():
        print(f"| {name} | {1000 * value:.2f} |")
    print("\n| seconds a training video | here | published, tuning as evaluation | published, tuning as training |\n"
          "| --- | --- | --- | --- |")
    for name, row in [*rows.items(), ("all", total)]:
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    trunk = bench.args.trunk_epochs * price["training"]
    print(f"| all, with {bench.args.trunk_epochs} trunk epochs | {total[0] + trunk:.3f} | | |")
    cheap, dear = (value / max(total[0], 1e-12) for value in total[1:])
    print(f"\npublished / here: {cheap:.2f}, or {dear:.2f} with tuning passes as dear as training")
    return {"published schedule, cheap tuning / here": cheap, "published schedule, dear tuning / here": dear}


if __name__ == "__main__":
    with user_errors(), saved_tables("schedule", "schedule_passes", "schedule"):
        main()

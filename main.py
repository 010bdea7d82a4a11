"""Train HIPE, push its prototypes, validate, and write predictions."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # before another package called datasets

from options.errors import user_errors
from options.flags import parse_main
from options.parsing import asks_for_help


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, assemble, train, infer, report."""
    if asks_for_help(argv):
        parse_main(argv)  # prints it and ends here, for it needs no PyTorch
    from explain import write_report
    from run.infer import infer, print_scores, validate
    from run.loop import train
    from run.state import Run
    from training.distributed import joined

    with joined() as world:
        args, given = parse_main(argv)
        if args.no_train and args.no_val and not args.inference:
            print("--no_train and --no_val leave nothing to do; add --inference", file=sys.stderr)
        run = Run(args, given, world)
        if not args.no_train and not train(run):
            return  # asked to stop
        if args.no_train and not args.no_val and (scores := validate(run)) is not None:
            print_scores("checkpoint", scores)
        if args.inference:
            infer(run)
            if world.is_main:
                print(f"report: {write_report(run.results)}")


if __name__ == "__main__":
    with user_errors():
        main()

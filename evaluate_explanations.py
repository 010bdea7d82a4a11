"""How good are the explanations? Measures prototypes of every level and attribution methods on the same clips.

Explains a HIPE checkpoint on its own videos, or a trunk's published weights (--pretrain_path) on those of --videos_dir.
Writes explanations/ beside the checkpoint: measures.csv, measures.md, measures.html and, clip by clip, rows.jsonl, from
which a call that was interrupted goes on.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # before another package called datasets

from options.errors import user_errors
from options.flags import READERS, device_flags, model_flags
from options.parsing import Names, asks_for_help, parse_given, parser_of
from options.ranges import AMOUNT, COUNT

METHODS = Names("attribution", "METHODS")
MEASURES = Names("evaluation.measures", "MEASURES")

CLIP_FLAGS = ("sample_size", "sample_duration", "sample_t_stride")
TRUNK_FLAGS = ("classes", "pretrain_dataset", "videos_dir", "windows", *CLIP_FLAGS)  # and those of main.py's model


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, set[str]]:
    """The command line, and which flags were given."""
    parser = parser_of("evaluate_explanations.py", __doc__.splitlines()[0])
    add = parser.add_argument
    add("--resume_path", help="checkpoint to judge; it carries all other flags. Without it, a trunk (see model)")
    add("--classes", help="JSON list of the trunk's class names in the order of its outputs, or {name: index}")
    add("--pretrain_dataset", default="",
        help="what the trunk was trained on; ucf101 and kinetics400 give the class names without --classes")
    add("--videos_dir", help="the trunk's videos: folder of video files and folders of frames, at any depth")
    add("--head", default="prototypes", choices=("prototypes", "softmax"),
        help="whose predictions are explained: HIPE's, or those of the softmax head of the trunk epochs (default: "
             "prototypes)")
    add("--methods", "--vis_method", nargs="*", choices=Names("attribution", "METHODS", "all"), metavar="METHOD",
        help="attribution methods (default: all that the trunk serves; random and centre always)")
    add("--measures", nargs="+", choices=MEASURES, metavar="NAME", help="of explanations (default: all)")
    add("--levels", type=int, nargs="+", help="of prototypes and baselines (default: all)")
    add("--method_levels", type=int, nargs="+", default=[0], help="of attribution methods (default: 0, the class)")
    add("--heats", nargs="*", default=["grad"], choices=METHODS, metavar="METHOD",
        help="make the first prototype's heat by these methods, too, beside its similarity (default: grad, as cards "
             "have it)")
    add("--smooth", action="store_true",
        help="smooth heat of attribution methods that is scattered over voxels, as pages do, so that its peak and box "
             "are of a place")
    if not asks_for_help(argv):
        from options.methods import options_flag
        options_flag(parser)
    add("--truth", help="truth.json or boxes.json: where and when the action is to be seen (default: the one beside "
                        "the annotation, or in --videos_dir)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--videos", nargs="+", metavar="NAME", help="videos by their names in the annotation")
    which.add_argument("--n_videos", type=AMOUNT, default=24,
                       help="how many, spread over the classes; 0 for all (default: 24, of --videos_dir all)")
    add("--subset", choices=("train", "val", "test"), help="where to take them from (default: val, else train)")
    add("--steps", type=COUNT, default=128, help="of insertion and deletion (default: 128)")
    add("--iterations", "--num_iter", type=COUNT, default=2000, help="of a perturbation at most (default: 2000)")
    add("--no_prototypes", action="store_true", help="leave out the table of the prototypes as such")
    add("--out", help="folder to write (default: explanations, beside the checkpoint, of a trunk in --root_path)")
    add("--overwrite", action="store_true", help="measure again what is in --out")
    add("--root_path", help="folder that relative paths hang off, when the data has moved (default: .)")
    add("--video_path", help="folder of the videos, when it has moved")
    add("--annotation_path", help="annotation JSON, when it has moved")
    add("--file_type", choices=READERS, metavar="NAME", help="what is in --video_path (default: the checkpoint's)")
    add("--windows", type=AMOUNT,
        help="of a trunk: windows of a video at most, as of local_attribution.py; 0 for all (default: as many as show "
             "a quarter of the video, 8 at most)")
    add("--inference_stride", type=COUNT,
        help="frames from one window to the next (default: the checkpoint's); of a trunk all windows so many frames "
             "apart, --windows of them at most")
    add("--batch_size", type=COUNT, default=4, help="clips whose perturbations are found together (default: 4)")
    add("--n_threads", type=AMOUNT, default=0, help="processes that share the clips (default: 0, this one)")
    add("--manual_seed", type=AMOUNT, default=1, help="of random heat, noise and resampling (default: 1)")
    for name in CLIP_FLAGS:
        add(f"--{name}", type=COUNT, help="of a trunk's clips, as of local_attribution.py")
    model_flags(parser)
    if not asks_for_help(argv):
        from options.trunks import trunk_flags
        trunk_flags(parser)
    device_flags(parser)
    return parse_given(parser, argv)


def refuse_trunk_flags(given: set[str]) -> None:
    """Raise ValueError for flags of a trunk, which a checkpoint tells."""
    from options.trunks import trunk_flags

    known = argparse.ArgumentParser()
    model_flags(known)
    trunk_flags(known)
    if of_trunks := given.intersection(TRUNK_FLAGS + tuple(action.dest for action in known._actions)):
        raise ValueError(f"--{min(of_trunks)} and --resume_path contradict each other, for the checkpoint tells that; "
                         "leave one of them out")


def main(argv: Sequence[str] | None = None) -> None:
    args, given = parse(argv)
    # after parsing: --help needs no PyTorch
    from evaluation.summary import prototypes_on_events
    from explain import write_report
    from judging.table import Wanted
    from run.judging import Data, explanation_table, folder_of
    from run.paths import under_root

    root = argparse.Namespace(root_path=args.root_path or ".")
    if args.resume_path:
        refuse_trunk_flags(given)
    path, out, truth = (None if place is None else under_root(root, place)
                        for place in (args.resume_path, args.out, args.truth))
    flags = vars(args) | {"prototypes": not args.no_prototypes, "seed": args.manual_seed, "event": False}
    flags["methods"] = None if "all" in (args.methods or ()) else args.methods
    wanted, data = (of(**{field.name: flags[field.name] for field in fields(of)}) for of in (Wanted, Data))
    if not args.resume_path:
        from run.judging_trunk import trunk_table

        args.root_path, folder = root.root_path, out or under_root(root, "explanations")
        print(f"{len(trunk_table(args, given, wanted, out=folder))} figures: {folder / 'measures.md'}")
        return
    frame = explanation_table(path, wanted, data, out=out, truth=truth, device=args.device, no_cuda=args.no_cuda,
                              n_threads=args.n_threads, batch_size=args.batch_size, overwrite=args.overwrite)
    folder = out or folder_of(path, args.head)
    print(*prototypes_on_events(frame), f"{len(frame)} figures: {folder / 'measures.md'}", sep="\n")
    if folder.parent == path.parent:  # where the report looks for them
        print(f"report: {write_report(path.parent)}")


if __name__ == "__main__":
    with user_errors():
        main()

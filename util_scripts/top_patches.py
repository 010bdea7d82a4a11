"""Show the training patches nearest to every prototype: python -m util_scripts.top_patches --resume_path save_200.pth

Of each prototype the --k training videos that come nearest to it, whatever their class, and of an ancestor's also those
of each child: what does the prototype stand for? Written to top_patches/ beside the checkpoint: top_patches.json, and a
sheet of pictures a prototype, which the report shows.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from explain import write_report
from explain.top_patches import draw_sheets, patches_of
from machine.writing import check_writable, write_text
from options.errors import CommandLine, user_errors
from options.flags import parse_main
from run.data import even_clips, make_loader, make_reader, read_videos
from run.model import choose_device, model_of
from run.resume import resume
from training.nearest import nearest_patches, patch_heats


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m util_scripts.top_patches", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's; give --resume_path.")
    parser.add_argument("--k", type=int, default=8, help="patches a prototype, and a child of its node (default: 8)")
    parser.add_argument("--out", type=Path, help="folder to write (default: top_patches/ beside the checkpoint)")
    own, others = parser.parse_known_args(argv)
    args, given = parse_main(others)
    if own.k < 1:
        raise ValueError(f"--k {own.k}: must be at least 1")
    if not args.resume_path:
        raise ValueError("--resume_path is missing; give the checkpoint whose prototypes are shown")
    device = choose_device(args.device, args.no_cuda)
    start = resume(args, given)
    model, hierarchy, record = model_of(start.checkpoint, start.path)
    if record is None:
        raise ValueError(f"{start.path}: nothing was pushed yet, so no prototype is a patch; give a checkpoint after a "
                         "push")
    model, args = model.to(device).eval(), start.args
    training = [video for video in read_videos(args, hierarchy) if video.subset == "training"]
    if not training:
        raise ValueError(f"{args.annotation_path}: lists no training video that is on disk; check --video_path")
    clips = even_clips(args, training, make_reader(args), args.push_clips, normalisation=model.normalisation)
    loader = make_loader(clips, n_threads=args.n_threads, device=device, batch_size=args.batch_size)
    of_all, of_children = nearest_patches(model, loader, n=own.k, device=device)
    out = (own.out or start.path.parent / "top_patches").expanduser().resolve()
    check_writable(out)
    layer, patches = model.prototype_layer, {}
    for p, node in enumerate(layer.node_of.tolist()):
        groups = [("", of_all), *zip(map(hierarchy.full_name, hierarchy.children(node)), of_children, strict=False)]
        patches[p] = {name: patches_of(rows, p, layer.similarity, layer.highest) for name, rows in groups}
    contents = draw_sheets(patches, clips, out, names=[hierarchy.full_name(node) for node in layer.node_of.tolist()],
                           class_names=[hierarchy.full_name(leaf) for leaf in hierarchy.levels[0]],
                           heats_of=lambda clip, some: patch_heats(model, clip.to(device), some))
    for entry, video in zip(contents, record.video, strict=True):
        entry["source"] = video  # by which the report knows that they are of its prototypes
    text = json.dumps(contents, indent=1) + "\n"
    write_text(out / "top_patches.json", text)
    print(f"{len(contents)} prototypes: {out}")
    if out.parent == start.path.parent:  # where the report looks for them
        print(f"report: {write_report(start.path.parent)}")


if __name__ == "__main__":
    with user_errors():
        main()

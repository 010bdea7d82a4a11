"""What local_attribution.py does: explains windows of videos by attribution methods, and writes files and a page."""

import argparse
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from attribution import METHODS, parse_options
from attribution.feature_pyramid import refusal
from attribution.gradients import at_a_time
from attribution.lrp import refusal as no_rules
from attribution.rollout import refusal as no_rollout
from datasets.loose import by_place, check_single, labelled, paths_in, single_video
from datasets.reading import CachedReader, Reader
from datasets.reading.loose import LooseFiles, cut_in_words, frame_files
from datasets.sampling import SlidingWindows, SpreadWindows
from datasets.transforms import EvalTransform
from datasets.video import Video, VideoClips, whole_videos
from explain.attribution import (
    AREA_MISS,
    Question,
    Subject,
    Window,
    attribute,
    expected_seconds,
    find_windows,
    windows_to_explain,
)
from explain.attribution_files import Outcome, Writer, unusual_options
from explain.names import file_name
from hierarchy.tree import Hierarchy
from models import TRUNKS, Trunk
from options.flags import model_flags
from options.methods import method_options
from options.trunks import trunk_flags
from run.choosing import MEMORY_GB, choose, named, spread, stored_flags
from run.data import make_reader, read_videos
from run.model import check_size, choose_device
from run.paths import under_root
from run.resume import stored_args
from run.subjects import ClipForm, clip_of, hipe_subject, trunk_subject
from training.checkpoint import load_checkpoint

WINDOWS, SHARE = 8, 0.25  # of a video, at most, and the share of its frames that they show, unless flags say otherwise
LONG = 20.0  # seconds of a method that are said before it begins
# Methods that explain by the grid of features that a head reads.
GRID_METHODS = tuple(name for name, method in METHODS.items() if "layer" in method.needs and not method.of_attention)


def names_of_weights(trunk: type[Trunk]) -> list[str]:
    """The names of the weights of Kinetics that torchvision has for a trunk; it has none for several depths."""
    if not isinstance(trunk.torchvision_name, str):
        return []
    from torchvision.models import get_model_weights  # takes a second

    return [name for name in get_model_weights(trunk.torchvision_name).__members__ if name.startswith("KINETICS")]


def chosen_methods(args: argparse.Namespace) -> list[str]:
    """The methods that --vis_method names, or all of them."""
    return list(METHODS) if "all" in args.vis_method else list(dict.fromkeys(args.vis_method))


def check_flags(args: argparse.Namespace, given: set[str]) -> None:
    """Raise ValueError for flags that contradict each other, and for flags that are missing."""
    method_options(args, chosen_methods(args))
    if args.resume_path is None and (args.level or args.prototype is not None):
        raise ValueError("--level and --prototype need a HIPE checkpoint; give it as --resume_path")
    if args.level is not None and args.prototype is not None:
        raise ValueError("--level and --prototype contradict each other; give one of them")
    if args.resume_path is None and not (args.videos_dir or args.video):
        raise ValueError("no videos; give their folder as --videos_dir, or files as --video")
    if args.resume_path is None and not args.pretrain_path:
        known = names_of_weights(TRUNKS[args.model])
        names = f", by torchvision's name {' or '.join(known)}" if known else ", a file"
        raise ValueError(f"--model {args.model} comes without weights; give them as --pretrain_path{names}, or leave "
                         "--model out for I3D")
    known = argparse.ArgumentParser()
    model_flags(known)
    trunk_flags(known)
    of_trunks = {"classes", "pretrain_dataset", *(action.dest for action in known._actions)} & given
    if args.resume_path is not None and of_trunks:
        raise ValueError(f"--{min(of_trunks)} and --resume_path contradict each other, for the checkpoint tells that; "
                         "leave one of them out")
    if args.prototype is not None and "target" in given:
        raise ValueError("--prototype and --target contradict each other; give one of them")
    if args.prototype is not None and args.against:
        raise ValueError("--prototype and --against contradict each other; give one of them")
    if args.videos and args.video:
        raise ValueError("--videos and --video contradict each other; give one of them")
    if args.videos_dir and args.video:
        raise ValueError("--videos_dir and --video contradict each other; give one of them")


@dataclass(frozen=True)
class LoosePaths:
    """The videos of --videos_dir or --video, as far as they are known without a model.

    folder: of --videos_dir. n_frames: of a single --video.
    """

    reader: Reader
    paths: list[Path]
    folder: Path | None = None
    n_frames: int = 0


def loose_paths(args: argparse.Namespace) -> LoosePaths | None:
    """The videos of --videos_dir or --video; None without either.

    Raises:
        ValueError: for a folder without videos, a path that is not there, or a single video that cannot be read.
    """
    reader = CachedReader(LooseFiles(), int(MEMORY_GB * 1e9))
    if args.videos_dir:
        folder = under_root(args, args.videos_dir)
        return LoosePaths(reader, paths_in(folder), folder)
    if not args.video:
        return None
    files = list(dict.fromkeys(file.expanduser().resolve() for file in args.video))
    for file in files:
        check_single(file)
    if len(files) > 1:  # those that cannot be read are left out
        return LoosePaths(reader, files)
    if files[0].is_dir():
        frame_files(files[0])
    return LoosePaths(reader, files, n_frames=reader.info(files[0]).n_frames)


def make_out(args: argparse.Namespace) -> Path:
    """Make the folder of --out, and try to write to it.

    Raises:
        ValueError: where that fails.
    """
    out = Path(args.out).expanduser().resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(f"{out}: cannot be written to ({error.strerror}); give another folder as --out") from error
    return out


def pick_videos(args: argparse.Namespace, given: set[str], checkpoint: dict | None, hierarchy: Hierarchy,
                loose: LoosePaths | None) -> tuple[list[Video], Reader]:
    """The videos to explain, and what reads them; of a folder whose names are no classes it is said."""
    if loose is None:
        stored = stored_flags(checkpoint, args, given)
        return choose(whole_videos(read_videos(stored, hierarchy)), names=args.videos, subset=args.subset,
                      n=args.n_videos), make_reader(stored)
    if loose.folder is None:
        return [single_video(path, loose.n_frames) for path in loose.paths], loose.reader
    of_folder = labelled(loose.paths, loose.folder, hierarchy)
    if of_folder.unknown and args.target != "true":  # which refuses them
        print(f"{len(of_folder.unknown)} of {len(of_folder.videos)} videos: neither the file nor its folder is named "
              f"after a class, such as {of_folder.unknown[0]}: their true class is not known", file=sys.stderr)
    if args.videos:
        of_path = {video.path: video for video in of_folder.videos}
        chosen = named(by_place(of_folder.videos, loose.folder), args.videos, f"a video in {loose.folder}")
        return [of_path[video.path] for video in chosen], loose.reader
    return spread(of_folder.videos, args.n_videos if "n_videos" in given else 0), loose.reader


def sampler_of(args: argparse.Namespace, duration: int, stride: int,
               checkpoint: dict | None = None) -> SlidingWindows | SpreadWindows:
    """Which windows of a video are looked at: of a HIPE checkpoint those of val.json, of a published trunk a quarter of
    the video, unless --windows or --inference_stride say otherwise."""
    step = args.inference_stride
    if step is None and checkpoint is not None:
        step = stored_args(checkpoint).inference_stride
    if args.windows is not None:
        return SpreadWindows(duration, args.windows, step=step, stride=stride)
    if step is not None:
        return SlidingWindows(duration, step, stride=stride)
    return SpreadWindows(duration, WINDOWS, share=SHARE, stride=stride)


def clips_of(args: argparse.Namespace, form: ClipForm, subject: Subject, videos: Sequence[Video], reader: Reader, *,
             checkpoint: dict | None = None) -> VideoClips:
    """The windows of videos that are looked at, as the flags say, else the checkpoint, else the trunk's weights.

    Args:
        form: as `clip_of` tells.
    """
    antialias = checkpoint is None or stored_args(checkpoint).antialias
    return VideoClips(videos, sampler=sampler_of(args, form.duration, form.stride, checkpoint),
                      transform=EvalTransform(form.size, antialias=antialias), reader=reader,
                      normalisation=subject.normalisation)


def grid_refusal(subject: Subject, model: str) -> str:
    """Why methods that explain by a grid of features cannot explain a trunk; empty where they can."""
    if not hasattr(subject.trunk, "class_token"):
        return ""
    return (f"explains by a grid of features, and the head of {model} reads none, but a class token; use gradients or "
            "perturbations")


def trunk_refusals(subject: Subject) -> dict[str, str]:
    """Why some methods cannot explain a trunk, by method; those that can are left out."""
    reasons = {"rollout": no_rollout(subject.trunk), "lrp": no_rules(subject.trunk)}
    return {method: reason for method, reason in reasons.items() if reason}


def contrast_refusal(question: Question) -> str:
    """Why a feature pyramid cannot explain what is asked; empty where it can."""
    return "follows the channels of one class, not --against" if question.against else ""


def pyramid_refusal(subject: Subject, window: Window) -> str:
    """Why a feature pyramid cannot explain a trunk; empty where it can."""
    reason = refusal(subject.trunk, subject.normalised(window.pixels))
    return f"cannot explain this trunk: {reason}" if reason else ""


def warn_of_short(clips: VideoClips, reader: Reader) -> None:
    """A warning for videos that end before their header says, and one for those that are shorter than a clip."""
    files = reader.reader if isinstance(reader, CachedReader) else reader
    if isinstance(files, LooseFiles) and files.cut:
        print(f"warning: {cut_in_words(files.cut, len(clips.videos))}", file=sys.stderr)
    if clips.looped:
        n = int(clips.lengths[0])
        few = (f"{clips.looped} of {len(clips.videos)} videos have fewer frames" if len(clips.videos) > 1 else
               f"{clips.videos.names[0]} has {n} frame{'' if n == 1 else 's'}, fewer")
        print(f"warning: {few} than the clip of {clips.sampler.duration} (--sample_duration), which shows them "
              "repeatedly", file=sys.stderr)


def leave_out(methods: Sequence[str], unserved: Sequence[str], reason: str, *, by_name: bool) -> list[str]:
    """The methods without those that a trunk cannot serve, which are reported.

    Args:
        by_name: whether the methods were asked for by name, and not by `all`.
    Raises:
        ValueError: for an unserved method that was asked for by name.
    """
    for method in (method for method in methods if method in unserved):
        if by_name:
            raise ValueError(f"--vis_method {method} {reason}")
        print(f"{method} is left out: it {reason}", file=sys.stderr)
    return [method for method in methods if method not in unserved]


def _folded(name: str) -> str:
    """The same for names that are one file's where a file system takes letters of either case for the same."""
    return unicodedata.normalize("NFC", file_name(name)).casefold()


def distinct_names(windows: Sequence[Window]) -> list[str]:
    """A name for the video of each window, by which their files differ: the video's, else the shortest end of its path
    that no other has, the last folders and the file."""
    paths, depths = [window.video.path for window in windows], [0] * len(windows)
    names = [window.video.name for window in windows]
    while True:
        counts = Counter(map(_folded, names))
        alike = [i for i, name in enumerate(names)
                 if counts[_folded(name)] > 1 and depths[i] < len(paths[i].parts) - 1]
        if not alike:
            break
        for i in alike:
            depths[i] += 1
            names[i] = " ".join(paths[i].parts[-1 - depths[i]:])
    taken: set[str] = set()
    for i, name in enumerate(names):  # "a b/c" is like "a/b c", and "c_pyramid.png" a file of c
        number, distinct = 1, name
        while taken & (own := {_folded(distinct) + ending for ending in ("", "_pyramid")}):
            number += 1
            distinct = f"{name} ({number})"
        names[i] = distinct
        taken |= own
    return names


def explain(args: argparse.Namespace, given: set[str]) -> tuple[int, Path]:
    """Explain all videos by all methods; what is done before Ctrl-C is kept, and laid out on the page.

    Returns:
        the number of clips, and the page.
    """
    device = choose_device(args.device, args.no_cuda)
    methods, by_name = chosen_methods(args), "all" not in args.vis_method
    options, asked = method_options(args, methods), parse_options(args.options, methods)
    loose, checkpoint = loose_paths(args), None
    out = make_out(args)
    if args.resume_path:
        path = under_root(args, args.resume_path)
        checkpoint = load_checkpoint(path)
        subject = hipe_subject(args, checkpoint, path, device)
    else:
        subject = trunk_subject(args, device)
        if reason := grid_refusal(subject, args.model):
            methods = leave_out(methods, GRID_METHODS, reason, by_name=by_name)
    for method, reason in trunk_refusals(subject).items():
        methods = leave_out(methods, [method], reason, by_name=by_name)
    form = clip_of(args, checkpoint, subject.trunk)
    check_size(subject.trunk, (form.duration, form.size, form.size))
    videos, reader = pick_videos(args, given, checkpoint, subject.hierarchy, loose)
    question = Question(args.target, args.level or 0, args.prototype, args.against)
    question.check(subject, videos)
    clips = clips_of(args, form, subject, videos, reader, checkpoint=checkpoint)
    warn_of_short(clips, reader)
    batch_size = args.batch_size or at_a_time(form.duration * form.size * form.size)
    predictions, seconds = find_windows(subject, clips, batch_size=batch_size, power=form.power)
    if not predictions:
        raise ValueError(f"none of the {len(videos)} videos can be read; check --videos_dir, --video, --video_path and "
                         "--root_path")
    windows = windows_to_explain(clips, subject, question, predictions)
    if reason := contrast_refusal(question):
        methods = leave_out(methods, ["class_feature_pyramid"], reason, by_name=by_name)
    if "class_feature_pyramid" in methods and (reason := pyramid_refusal(subject, windows[0])):
        methods = leave_out(methods, ["class_feature_pyramid"], reason, by_name=by_name)
    notes = {method: unusual_options(options[method], asked.get(method, ())) for method in methods}
    writer = Writer(subject, question, reader, out=out, label=args.save_label,
                    notes=notes, tubes=args.tubes)
    write(writer, subject, question, windows, options=options, batch_size=batch_size, seconds=seconds)
    return len(windows), writer.page


def clips_in_words(n: int) -> str:
    """1 clip, 2 clips."""
    return f"{n} clip{'' if n == 1 else 's'}"


def in_words(seconds: float) -> str:
    """About how long: "40 seconds", "6 minutes", "3 hours"."""
    for unit, size, least in (("hours", 3600, 2 * 3600), ("minutes", 60, 120)):
        if seconds >= least:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(10, 10 * round(seconds / 10))} seconds"


def write(writer: Writer, subject: Subject, question: Question, windows: Sequence[Window], *,
          options: dict[str, dict[str, object]], batch_size: int, seconds: float) -> None:
    """Write what every method of the writer tells of every clip, and the page of what is done, also after Ctrl-C.

    Args:
        seconds: that the model takes for a clip.
    """
    names = distinct_names(windows)
    clips = [writer.clip(window) for window in windows]
    outcomes: list[dict[str, Outcome]] = [{} for _ in windows]
    # perturbations last, and step, which refuses short clips, before the others: what cannot be is said at once
    order = sorted(writer.notes, key=lambda method: (METHODS[method].optimises, method != "step"))
    try:
        for method in order:
            missed, optimises = 0, METHODS[method].optimises
            expected = expected_seconds(method, options[method], windows, seconds)
            if expected > LONG:
                print(f"{method}: {clips_in_words(len(windows))}, {'at most' if optimises else 'about'} "
                      f"{in_words(expected)}", flush=True)
            results = attribute(method, subject, question, windows, options=options[method], batch_size=batch_size)
            # perturbations have a bar of their own
            for result in tqdm(results, total=len(windows), desc=method, unit="clip", leave=False,
                               disable=optimises or None):
                place = result.place
                outcomes[place][method] = writer.method(method, windows[place], file_name(names[place]), result)
                missed += result.missed
            if missed:
                remedy = "raise --num_iter"
                remedy += ", or leave out --published_energy" * bool(options[method]["published_energy"])
                print(f"warning: {method}: {missed} of {len(windows)} clips have masks whose area is more than "
                      f"{AREA_MISS:g} off what was asked for; {remedy}", file=sys.stderr)
            print(f"{method}: {clips_in_words(len(windows))}", flush=True)
    finally:
        if any(outcomes):
            writer.write_page(windows, names, clips, outcomes)

"""Explain clips by attribution methods: a HIPE checkpoint's classes, ancestors and prototypes, or any trunk's classes."""

import argparse
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from attribution import METHODS, VOXELWISE
from attribution.feature_pyramid import DEPTH, THETA, FeaturePyramid, feature_pyramid
from attribution.gradients import POLARITIES, STEPS
from attribution.perturbation import PERTURBATIONS, RATE, RECIPES, VARIANTS, extremal_masks
from datasets import READERS
from datasets.reading import VIDEO_EXTENSIONS, CachedReader, Reader, VideoFile, VideoInfo
from datasets.sampling import SlidingWindows
from datasets.transforms import EvalTransform, normalise
from datasets.video import Video, VideoClips, whole_videos
from evaluation.recognition import pool_windows
from explain import attributed, render
from explain.names import file_name
from explain.pages import percent
from explain.pictures import read_region
from hierarchy.tree import Hierarchy
from models.geometry import upsample
from models.weights import is_named, load_pretrained
from options.errors import user_errors
from options.flags import device_flags, model_flags, parse_given, parse_main
from options.resolve import resolve
from run.data import make_reader, normalisation_of, read_videos, window_power
from run.explaining import MEMORY_GB, choose, spread, stored_flags
from run.model import build_trunk, channels_last, check_size, choose_device, model_of
from run.paths import HERE, under_root
from run.resume import stored_args
from training.checkpoint import load_checkpoint

IMAGES = (".jpg", ".jpeg", ".png")
PICTURED = 6  # channels of a layer on the picture of a pyramid
LINKS = 2  # lines that lead from each of them
MISS = 0.02  # by which an area may differ from what was asked for before a line says so
PUBLISHED_NAMES = {"r2plus1d": "r2plus1d_18", "r3d": "r3d_18", "mc3": "mc3_18", "tsm": "tsm_resnet50"}  # of trunks, elsewhere
PUBLISHED_METHODS = {"perturb": "3d_ep"}
MISSING = 1  # frames by which headers are wrong of videos that are whole


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, set[str]]:
    """The command line, and which flags were given."""
    parser = argparse.ArgumentParser(prog="local_attribution.py", description=__doc__, allow_abbrev=False)
    group = parser.add_argument_group("what to explain with: a HIPE checkpoint, else a trunk (see model)")
    group.add_argument("--resume_path", help="HIPE checkpoint; it carries all other flags")
    group.add_argument("--level", type=int, help="explain the predicted class's ancestor so many levels up (default: 0, the class)")
    group.add_argument("--prototype", type=int, help="explain the activation of this prototype")
    group.add_argument("--classes", help="JSON list of the trunk's class names in the order of its outputs, or {name: index}")
    group.add_argument("--pretrain_dataset", default="", help="what the trunk was trained on; ucf101 gives the class names without --classes, others need those")
    group.add_argument("--target", default="predicted", help="predicted, true (what the published toolkit explains), or the name of a class (default: predicted)")
    group = parser.add_argument_group("videos: of the checkpoint's data, unless --videos_dir or --video is given")
    group.add_argument("--root_path", default=".", help="folder that relative paths hang off (default: .)")
    group.add_argument("--videos_dir", help="folder of frame folders, video files or class folders of those; a name up to its first - is the label")
    group.add_argument("--video", type=Path, metavar="FILE", help="a video file or frame folder whose class is not known")
    group.add_argument("--video_path", help="folder of the checkpoint's videos, when it has moved")
    group.add_argument("--annotation_path", help="annotation JSON, when it has moved")
    group.add_argument("--file_type", choices=sorted(READERS), help="what is in --video_path (default: the checkpoint's)")
    group.add_argument("--videos", nargs="+", metavar="NAME", help="videos by their names in the annotation")
    group.add_argument("--n_videos", type=int, default=4, help="how many, spread over the classes; 0 for all (default: 4, of --videos_dir all)")
    group.add_argument("--subset", choices=("train", "val", "test"), help="where to take them from (default: val, else train)")
    group.add_argument("--sample_size", type=int, help="height and width of a clip in pixels (default: the checkpoint's, else 112)")
    group.add_argument("--sample_duration", type=int, help="frames of a clip (default: the checkpoint's, else 16)")
    group.add_argument("--sample_t_stride", type=int, help="frames from one frame of a clip to the next (default: the checkpoint's, else 1)")
    group.add_argument("--inference_stride", type=int, default=16, help="frames from one window to the next, of which the surest is explained (default: 16)")
    group = parser.add_argument_group("methods")
    group.add_argument("--vis_method", nargs="+", default=["grad_cam"], choices=[*METHODS, "all"], type=lambda name: PUBLISHED_METHODS.get(name, name), help="attribution methods, side by side on one page; perturb means 3d_ep (default: grad_cam)")
    group.add_argument("--polarity", default="positive", choices=sorted(POLARITIES), help="of gradients (default: positive)")
    group.add_argument("--steps", type=int, default=STEPS, help=f"of smooth_grad and integrated_grad (default: {STEPS})")
    group.add_argument("--num_iter", type=int, default=2000, help="iterations of a perturbation; Ctrl-C ends it with the best mask so far (default: 2000)")
    group.add_argument("--perturb_area", type=float, nargs="+", default=[0.1], help="areas of a perturbation as shares, whose masks are averaged (default: .1)")
    group.add_argument("--perturb_type", default="blur", choices=PERTURBATIONS, help="what becomes of voxels outside the mask (default: blur)")
    group.add_argument("--variant", default="preserve", choices=VARIANTS, help="mask that keeps the score, that kills it, or both (default: preserve)")
    group.add_argument("--published_energy", action="store_true", help="perturbations by the published energy and rate alone, in which a score can pay for any area (default: areas hold)")
    group.add_argument("--theta", type=float, default=THETA, help=f"least share of a channel in a pyramid, 0..1 (default: {THETA})")
    group.add_argument("--depth", type=int, default=DEPTH, help=f"convolutions that a pyramid goes down (default: {DEPTH})")
    group.add_argument("--top_n", type=int, help="channels that a pyramid follows from each channel at most (default: all that reach theta)")
    group.add_argument("--tubes", default="layers", choices=("none", "layers", "kernels"), help="write a pyramid's heat of every layer, or of every channel too (default: layers)")
    group.add_argument("--manual_seed", type=int, default=1, help="of noise (default: 1)")
    group.add_argument("--batch_size", type=int, default=4, help="clips that perturbations optimise together (default: 4)")
    group.add_argument("--out", default="visual_res", help="folder to write (default: visual_res)")
    group.add_argument("--save_label", default="", help="name of this run below the method and the model (default: none; level1, prototype17, ...)")
    model_flags(parser)
    device_flags(parser)
    parser.add_argument("--no_gpu", dest="no_cuda", action="store_true", help="the same as --no_cuda")
    words = list(sys.argv[1:] if argv is None else argv)
    args, given = parse_given(parser, [PUBLISHED_NAMES.get(word, word) if before == "--model" else word
                                       for before, word in zip(["", *words], words, strict=False)])
    args.all_methods = "all" in args.vis_method
    if args.all_methods:
        args.vis_method = list(METHODS)
    args.vis_method = list(dict.fromkeys(args.vis_method))
    for name, least in (("n_videos", 0), ("sample_size", 1), ("sample_duration", 1), ("sample_t_stride", 1), ("steps", 1),
                        ("inference_stride", 1), ("num_iter", 1), ("depth", 1), ("top_n", 1), ("batch_size", 1), ("manual_seed", 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(args, name)}")
    for area in args.perturb_area:
        if not 0 < area < 1:
            raise ValueError(f"--perturb_area is a share between 0 and 1, not {area:g}; give for example 0.1")
    if not 0 <= args.theta <= 1:
        raise ValueError(f"--theta is a share between 0 and 1, not {args.theta:g}")
    if args.resume_path is None and (args.level or args.prototype is not None):
        raise ValueError("--level and --prototype need a HIPE checkpoint; give it as --resume_path")
    if args.level is not None and args.prototype is not None:
        raise ValueError("--level and --prototype contradict each other; give one of them")
    if args.resume_path is None and not args.pretrain_path:
        raise ValueError("nothing to explain with; give a HIPE checkpoint as --resume_path, or a trunk's weights as --pretrain_path")
    if args.resume_path is None and not (args.videos_dir or args.video):
        raise ValueError("no videos; give their folder as --videos_dir, or a file as --video")
    known = argparse.ArgumentParser()
    model_flags(known)
    of_trunks = {"classes", "pretrain_dataset", *(action.dest for action in known._actions)} & given
    if args.resume_path is not None and of_trunks:
        raise ValueError(f"--{min(of_trunks)} and --resume_path contradict each other, for the checkpoint tells that; leave one of them out")
    if args.prototype is not None and "target" in given:
        raise ValueError("--prototype and --target contradict each other; give one of them")
    if args.videos_dir and args.video:
        raise ValueError("--videos_dir and --video contradict each other; give one of them")
    return args, given


class AnyVideo:
    """Reads video files, and folders of pictures in the order of the numbers in their names.

    Attributes:
        cut: of the files with fewer frames than they promise, how many they have and promise.
    """

    def __init__(self) -> None:
        self._files = VideoFile()
        self.cut: dict[Path, tuple[int, int]] = {}

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see `datasets.reading`."""
        if not path.is_dir():
            return self._files.frames(path, indices)
        files = frame_files(path)
        wanted = range(len(files)) if indices is None else [int(i) for i in indices]
        pictures = []
        for i in wanted:
            try:
                with Image.open(files[i]) as image:
                    pictures.append(np.asarray(image.convert("RGB")))
            except (OSError, SyntaxError) as error:
                raise ValueError(f"{files[i]}: not a readable picture ({error}); replace it") from error
        if len({picture.shape for picture in pictures}) > 1:
            raise ValueError(f"{path}: frames differ in size; extract them again")
        return torch.from_numpy(np.stack(pictures))

    def info(self, path: Path) -> VideoInfo:
        """Number of frames, size and rate; a folder has no rate."""
        if not path.is_dir():
            info = self._files.info(path)
            with av.open(str(path), metadata_errors="replace") as container:
                promised = container.streams.video[0].frames  # 0 where the container does not tell
            if promised > info.n_frames + MISSING:
                self.cut[path] = info.n_frames, promised
            return info
        return VideoInfo(len(frame_files(path)), *self.size(path), None)

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width."""
        return tuple(self.frames(path, [0]).shape[1:3]) if path.is_dir() else self._files.size(path)


def frame_files(folder: Path) -> list[Path]:
    """The pictures in a folder, in the order of the numbers in their names.

    Raises:
        ValueError: where there is none.
    """
    files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGES]
    if not files:
        raise ValueError(f"{folder}: no frames in this folder; put in pictures (image_00001.jpg, ...), or give the video file")
    return sorted(files, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)])


def videos_in(folder: Path, hierarchy: Hierarchy) -> list[Video]:
    """The frame folders and video files in a folder, also one level deeper in class folders.

    Raises:
        ValueError: for a folder without any, and for a label that is no class.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; check --videos_dir")
    found: list[tuple[Path, str]] = []
    for path in sorted(folder.iterdir()):
        label = (path.name if path.is_dir() else path.stem).split("-")[0]
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.is_dir() or one.suffix.lower() in VIDEO_EXTENSIONS)
            if not inside or any(one.suffix.lower() in IMAGES for one in path.iterdir()):
                frame_files(path)
                inside = [path]
            found += [(one, label) for one in inside]
        elif path.suffix.lower() in VIDEO_EXTENSIONS:
            found.append((path, label))
    if not found:
        raise ValueError(f"{folder}: neither frame folders nor video files in it; check --videos_dir")
    videos = []
    for path, label in found:
        try:
            index = hierarchy.label(label)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; a name up to its first - is the label") from error
        videos.append(Video(path.name if path.is_dir() else path.stem, path, index, "testing", 0, (0, 0)))
    return videos


def class_names(args: argparse.Namespace) -> list[str]:
    """The trunk's class names, in the order of its outputs.

    Raises:
        ValueError, FileNotFoundError: where they are not given, or the file holds something else.
    """
    if not args.classes:
        if args.pretrain_dataset.lower() == "ucf101":
            tree = Hierarchy.from_csv(HERE / "UCF-101_hierarchy.csv")
            return list(tree.names[:tree.n_leaves])
        if args.pretrain_dataset.lower().startswith("kinetics"):
            raise ValueError(f"--pretrain_dataset {args.pretrain_dataset}: the names of its classes are not shipped; give them as --classes "
                             "classes.json, which for Kinetics-400 a line of README.md writes from torchvision")
        raise ValueError("the class names are missing; give them as --classes classes.json, or --pretrain_dataset ucf101")
    path = under_root(args, args.classes)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; check --classes") from error
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); write a list of class names") from error
    content = content.get("labels", content) if isinstance(content, dict) else content
    if (isinstance(content, dict) and all(isinstance(index, int) for index in content.values())
            and sorted(content.values()) == list(range(len(content)))):
        content = sorted(content, key=content.get)
    if not isinstance(content, list) or not content or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path}: not a list of class names, nor names with the indices 0, 1, ...; mend --classes")
    return content


@dataclass
class Subject:
    """A model that is explained, as far as attribution sees it."""

    name: str
    source: str  # file or name of the weights
    hierarchy: Hierarchy
    trunk: nn.Module
    log_probs: Callable[[Tensor], Tensor]  # (B, 3, T, H, W) -> (B, K)
    activations: Callable[[Tensor], Tensor] | None  # (B, 3, T, H, W) -> (B, P), of a HIPE model
    node_of: list[int]  # of prototypes
    head: Tensor | None  # (K0 or K, C) class weights of a pooled linear head
    normalisation: str  # of the clips
    highest: float = 1.0  # activation of a prototype's own patch


def leave_out(args: argparse.Namespace, methods: Sequence[str], reason: str) -> None:
    """Take methods that a trunk cannot serve out of `all`, with a line.

    Raises:
        ValueError: where they were asked for by name.
    """
    for method in methods:
        if not args.all_methods:
            raise ValueError(f"--vis_method {method} {reason}")
        print(f"{method} is left out: it {reason}", file=sys.stderr)
        args.vis_method.remove(method)


def trunk_subject(args: argparse.Namespace) -> Subject:
    """A trunk under mean pooling and a linear layer, both from --pretrain_path; one with a class token under that.

    Raises:
        ValueError, FileNotFoundError: where the weights do not fit the trunk, or hold no head for these classes, or
            the head does not read what a method of --vis_method does.
    """
    full, _ = parse_main([])
    for name in vars(full):
        if hasattr(args, name) and getattr(args, name) is not None:
            setattr(full, name, getattr(args, name))
    resolve(full)
    hierarchy = Hierarchy([[name] for name in class_names(args)], where="--classes, name {}".format)
    trunk = build_trunk(full)
    path = args.pretrain_path if is_named(args.pretrain_path) else under_root(args, args.pretrain_path)
    loaded = load_pretrained(trunk, path, n_classes=args.n_pretrain_classes)
    state = loaded.head
    weights = [key for key in state if key.endswith("weight") and state[key].dim() > 1
               and state[key].flatten(1).shape[1] == trunk.out_channels]
    if len(weights) != 1:
        raise ValueError(f"{path}: holds no classification head over {trunk.out_channels} channels; give weights with one (fc.weight, fc.bias)")
    weight = state[weights[0]].flatten(1).float()
    if len(weight) != hierarchy.n_leaves:
        raise ValueError(f"{path}: its head tells {len(weight)} classes apart and --classes names {hierarchy.n_leaves}; mend one of them")
    head = nn.Linear(trunk.out_channels, len(weight))
    head.load_state_dict({"weight": weight, "bias": state.get(weights[0].removesuffix("weight") + "bias", torch.zeros(len(weight))).float()})
    whole = channels_last(nn.ModuleDict({"trunk": trunk, "head": head})).to(args.where).eval()
    whole.requires_grad_(False)
    name = f"{full.model}-{full.model_depth}" if trunk.depths else full.model
    pooled: Callable[[Tensor], Tensor] = getattr(trunk, "class_token", lambda clips: trunk(clips).mean((2, 3, 4)))
    blind = [method for method in args.vis_method if method in ("grad_cam", "class_feature_pyramid")]
    if hasattr(trunk, "class_token"):
        leave_out(args, blind, f"explains by a grid of features, and the head of {full.model} reads none, but a class token; use gradients "
                               "or perturbations")
    return Subject(name, str(path), hierarchy, trunk, lambda clips: whole["head"](pooled(clips)).log_softmax(-1), None, [], whole["head"].weight,
                   args.normalisation or loaded.normalisation)


def hipe_subject(args: argparse.Namespace, checkpoint: dict, path: Path) -> Subject:
    """The model of a HIPE checkpoint; of the trunk epochs the softmax head, for the prototypes know nothing yet."""
    model, hierarchy, _ = model_of(checkpoint, path)
    model = model.to(args.where).eval().requires_grad_(False)
    if args.level is not None and not 0 <= args.level < hierarchy.n_levels:
        raise ValueError(f"--level {args.level} is not in the class tree of {path}; it has the levels 0 to {hierarchy.n_levels - 1}")
    n = len(model.prototype_layer.node_of)
    if args.prototype is not None and not 0 <= args.prototype < n:
        raise ValueError(f"--prototype {args.prototype} is not in {path}; it has the prototypes 0 to {n - 1}")
    normalisation = normalisation_of(stored_args(checkpoint))
    if checkpoint["done"] and checkpoint["done"][0] == "trunk":
        if args.prototype is not None:
            raise ValueError(f"{path}: of the trunk epochs, whose prototypes know nothing yet; give a later checkpoint, or leave out --prototype")
        weights = model.membership @ model.pooled_head.weight / model.membership.sum(1, keepdim=True)  # of ancestors the mean
        return Subject("trunk", str(path), hierarchy, model.trunk, lambda clips: model.node_log_probs(model.pooled_log_probs(model.trunk(clips))),
                       None, [], weights, normalisation)
    return Subject("hipe", str(path), hierarchy, model.trunk, lambda clips: model(clips).log_probs, lambda clips: model(clips).activations,
                   model.prototype_layer.node_of.tolist(), None, normalisation, model.prototype_layer.highest)


@dataclass
class Shown:
    """A window of a video that is explained."""

    video: Video
    clip: Tensor  # (3, T, H, W) normalised
    frames: Tensor  # (T,) in the video
    crop: Tensor  # (4,) in the video's own pixels
    log_probs: Tensor  # (K,) of the window
    target: int  # node or prototype
    title: str  # what that is


@torch.no_grad()
def find_windows(subject: Subject, clips: VideoClips, args: argparse.Namespace, power: float) -> list[tuple[int, dict, Tensor, int]]:
    """Of every video its index, the surest window of its prediction, that window's log-probabilities, and the prediction.

    Raises:
        ValueError: where a log-probability is not finite.
    """
    by_video: dict[int, list[tuple[int, Tensor]]] = {}
    for first in range(0, len(clips), args.batch_size):
        places = range(first, min(first + args.batch_size, len(clips)))
        items = [clips[i] for i in places]
        found = subject.log_probs(normalise(torch.stack([item["clip"] for item in items]).to(args.where), subject.normalisation))
        if not found.isfinite().all():
            raise ValueError(f"{subject.source}: gives log-probabilities that are not finite; the weights hold NaN or infinity, or belong to another trunk")
        for i, item, one in zip(places, items, found.cpu(), strict=True):
            if item["valid"]:
                by_video.setdefault(item["video"], []).append((i, one))
    chosen = []
    for video, windows in by_video.items():
        _, leaf, best = pool_windows(torch.stack([one for _, one in windows]), subject.hierarchy.membership, power)
        i, log_probs = windows[best]
        chosen.append((video, clips[i], log_probs, leaf))  # read again: the windows of all videos are too many to keep
    return chosen


def choose_target(args: argparse.Namespace, subject: Subject, video: Video, leaf: int) -> tuple[int, str]:
    """What is explained of a video, a node or a prototype, and what it is called.

    Raises:
        ValueError: where the true class is asked for and not known, or a class is not in the tree.
    """
    tree = subject.hierarchy
    if args.prototype is not None:
        return args.prototype, f"prototype {args.prototype} of {tree.full_name(subject.node_of[args.prototype])}"
    if args.target == "true":
        if video.label < 0:
            raise ValueError(f"{video.path}: its true class is not known; leave out --target true")
        leaf = video.label
    elif args.target != "predicted":
        leaf = tree.label(args.target)
    node = tree.path_ids(leaf)[args.level or 0]
    return node, tree.full_name(node)


def score_of(subject: Subject, args: argparse.Namespace, targets: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Scores of clips (n, 3, T, H, W) whose places among the explained ones are (n,) int64 -> (n,)."""
    outputs = subject.log_probs if args.prototype is None else subject.activations
    return lambda clips, which: outputs(clips).gather(1, targets[which][:, None])[:, 0]


Found = tuple[int, Tensor, FeaturePyramid | None, list[tuple[str, bool]]]


def attribute(method: str, subject: Subject, args: argparse.Namespace, shown: Sequence[Shown]) -> Iterator[Found]:
    """Clips as they are finished by one method: which, heat (T, H, W), its pyramid if it has one, lines for the margin."""
    targets = torch.tensor([one.target for one in shown], device=args.where)
    score = score_of(subject, args, targets)
    if method in RECIPES:
        for first in range(0, len(shown), args.batch_size):
            yield from perturb(method, args, lambda clips, which, first=first: score(clips, which + first), shown, first, subject.highest)
        return
    for i, one in enumerate(shown):
        def score_one(clips: Tensor, i: int = i) -> Tensor:
            return score(clips, torch.full((len(clips),), i, device=clips.device))
        size = tuple(one.clip.shape[1:])
        if method == "class_feature_pyramid":
            weights = None if subject.head is None else subject.head[one.target]
            pyramid = feature_pyramid(score_one, one.clip, layer=subject.trunk, class_weights=weights,
                                      theta=args.theta, depth=args.depth, top_n=args.top_n)
            yield i, pyramid.layers[0].tube(size), pyramid, []
        else:
            yield i, METHODS[method](score_one, one.clip, layer=subject.trunk, polarity=args.polarity, steps=args.steps,
                                     seed=args.manual_seed, upsample=functools.partial(upsample, size=size, stride=subject.trunk.stride, offset=getattr(subject.trunk, "offset", (0, 0, 0)))), None, []


def perturb(method: str, args: argparse.Namespace, score: Callable[[Tensor, Tensor], Tensor], shown: Sequence[Shown],
            first: int, highest: float) -> Iterator[Found]:
    """A batch of clips, from `first` on, by one optimisation; see `attribute`."""
    some = shown[first:first + args.batch_size]
    own = {"tolerance": None, "rate": RATE} if args.published_energy else {}
    found = extremal_masks(score, torch.stack([one.clip for one in some]), how=method, areas=args.perturb_area,
                           variants=(args.variant,), score="log_prob" if args.prototype is None else "activation", highest=highest,
                           perturbation=args.perturb_type, iterations=args.num_iter, progress=True, **own)
    if found.interrupted:
        print(f"{method}: interrupted; these are the best masks after {len(found.losses)} iterations", file=sys.stderr)
    missed = (found.areas[:, :, 0] - found.areas.new_tensor(args.perturb_area)).abs()  # (B, A)
    for i in range(len(some)):
        lines = [(f"area {area:.2f}, asked for {asked:g}" + (": not reached" if off > MISS else ""), off > MISS and not found.interrupted)
                 for area, asked, off in zip(found.areas[i, :, 0].tolist(), args.perturb_area, missed[i].tolist(), strict=True)]
        stopped = ", interrupted" if found.interrupted else ""
        yield first + i, found.masks[i].mean((0, 1)), None, [*lines, (f"{int(found.iterations[i].max())} iterations{stopped}", False)]


def facts_of(subject: Subject, one: Shown) -> list[tuple[str, str]]:
    """The true class and the two that are most probable in this window, with their probabilities there."""
    tree, n = subject.hierarchy, subject.hierarchy.n_leaves
    probability = one.log_probs[:n].double().exp()
    label = one.video.label
    true = f"{tree.full_name(label)}, {percent(float(probability[label]))}" if label >= 0 else "not known"
    likeliest = [f"{tree.full_name(leaf)}, {percent(float(probability[leaf]))}" for leaf in probability.argsort(descending=True)[:2].tolist()]
    return [("true class", true), *zip(("likeliest in this window", "then"), likeliest, strict=False)]


def unusual_options(args: argparse.Namespace, method: str) -> list[str]:
    """What was asked of a method that is not its default, and changes what its map tells."""
    asked = []
    if method in VOXELWISE and method != "random" and args.polarity != "positive":
        asked.append(f"polarity {args.polarity}")
    if method in RECIPES:
        asked += [f"variant {args.variant}"] * (args.variant != "preserve") + [f"hidden by {args.perturb_type}"] * (args.perturb_type != "blur")
        asked += ["published energy"] * args.published_energy
    return asked


def margin_of(subject: Subject, one: Shown, method: str, unusual: Sequence[str], lines: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """What stands beside a contact sheet: the method, what it explains, the true class, the likeliest, and what else there is."""
    (_, true), *likeliest = facts_of(subject, one)
    return [(method, True), (f"for {one.title}", False), *((said, False) for said in unusual), *lines, (f"true: {true}" if one.video.label >= 0 else "true class not known", True),
            *((f"{rank}. {said}", False) for rank, (_, said) in enumerate(likeliest, 1)),
            (one.video.name, False), (f"frames {int(one.frames.min())} to {int(one.frames.max())}", False)]


def pyramid_rows(pyramid: FeaturePyramid, size: tuple[int, int, int], title: str, name: str) -> list[attributed.PyramidRow]:
    """The pyramid as it is drawn: the strongest channels of the first row, and of each layer below those that lead most to drawn ones.

    Args:
        size: (T, H, W) of the clip. title, name: of what is explained, and of the video.
    """
    rows, places = [], {}
    edges, shares = pyramid.edges, pyramid.shares
    for i, layer in enumerate(pyramid.layers):
        into = edges[:, 2] == i
        links: dict[int, list[tuple[float, int, int]]] = {}  # of channels: share, row, place there
        for (above, channel, _, lower), share in zip(edges[into].tolist(), shares[into].tolist(), strict=True):
            if (above, channel) in places:
                links.setdefault(lower, []).append((share, above, places[above, channel]))
        # lines cross less where each channel stands below what it leads to
        leading = sorted(links, key=lambda channel: -sum(share for share, *_ in links[channel]))[:PICTURED]
        leading.sort(key=lambda channel: sum(share * there for share, _, there in links[channel]) / sum(share for share, *_ in links[channel]))
        drawn = layer.channels[:PICTURED].tolist() if i == 0 else leading
        places |= {(i, channel): place for place, channel in enumerate(drawn)}
        number = {channel: place for place, channel in enumerate(layer.channels.tolist())}
        down = f"{layer.depth} {'convolution' if layer.depth == 1 else 'convolutions'} down"
        note = f"{len(layer.channels)} of {layer.n_channels} channels"
        rows.append(attributed.PyramidRow(
            layer.name if i else title, f"{down}; {note}" if i else f"{name}; what the score reads: {note}", layer.tube(size).cpu(), drawn,
            layer.kernel_tubes(size, [number[channel] for channel in drawn]).cpu(),
            [(above, there, place) for place, channel in enumerate(drawn) for _, above, there in sorted(links.get(channel, []), reverse=True)[:LINKS]]))
    return rows


def tubes_of(pyramid: FeaturePyramid, size: tuple[int, int, int], kernels: bool) -> dict[str, np.ndarray]:
    """Of every layer its tube (T, H, W), and on request those of its channels (n, t, h, w), by their names in docs/FORMATS.md."""
    found = {}
    for i, layer in enumerate(pyramid.layers):
        found[f"layer{i}"] = layer.tube(size).cpu().numpy()
        if kernels:
            found[f"kernels{i}"] = layer.tubes.cpu().numpy()
    return found


class Writer:
    """Writes what was found: per method and clip a GIF, a sheet and the raw heat, and one page of all."""

    def __init__(self, args: argparse.Namespace, subject: Subject, reader: Reader) -> None:
        self.args, self.subject, self.reader = args, subject, reader
        kind = f"prototype{args.prototype}" if args.prototype is not None else f"level{args.level}" if args.level else ""
        self.label = args.save_label or kind
        self.out = Path(args.out).expanduser().resolve()
        self.out.mkdir(parents=True, exist_ok=True)  # what cannot be written to is said before hours of work

    def folder(self, method: str) -> Path:
        """OUT/METHOD/MODEL/LABEL, without the last where there is none."""
        folder = self.out / method.replace("*", "_x_") / self.subject.name
        return folder / file_name(self.label) if self.label else folder

    @property
    def page(self) -> Path:
        """The page that lays the methods of this run side by side."""
        return self.out / f"{file_name('-'.join(filter(None, (self.subject.name, self.label))))}.html"

    def window(self, one: Shown) -> tuple[render.Pixels, float]:
        """The frames of a clip, and how many seconds each is shown."""
        pixels = read_region(self.reader, one.video.path, one.frames, one.crop)
        try:
            fps = self.reader.info(one.video.path).fps
        except ValueError:  # this window could be read, though not the whole video
            fps = None
        return pixels, render.seconds_per_frame(one.frames, fps)

    def clip(self, one: Shown) -> attributed.Panel:
        """The clip itself, on the page."""
        pixels, seconds = self.window(one)
        return attributed.Panel("clip", f"frames {int(one.frames.min())} to {int(one.frames.max())}",
                                render.webp(pixels, seconds), render.webp(pixels[len(pixels) // 2:][:1]))

    def method(self, method: str, one: Shown, name: str, heat: Tensor, pyramid: FeaturePyramid | None,
               lines: Sequence[tuple[str, bool]]) -> attributed.Panel:
        """Write the files of a clip and a method.

        Args:
            name: of the files. heat: (T, H, W). lines: for the margin.
        """
        (pixels, seconds), folder = self.window(one), self.folder(method)
        folder.mkdir(parents=True, exist_ok=True)
        heat = heat.detach().float().cpu()
        np.save(folder / f"{name}.npy", heat.numpy())
        visible = attributed.drawn(heat, smooth=method in VOXELWISE)
        shown = render.overlay(pixels, visible)
        (folder / f"{name}.gif").write_bytes(render.gif(shown, seconds))
        unusual = unusual_options(self.args, method)
        if heat.amax() <= heat.amin():
            unusual.append("an empty map: all alike")
        sheet = attributed.heat_sheet(pixels, visible, margin_of(self.subject, one, method, unusual, lines))
        (folder / f"{name}.png").write_bytes(render.png(sheet))
        drawing = None
        if pyramid is not None:
            title = one.title if self.args.prototype is not None else f"{one.title}, {percent(float(one.log_probs[one.target].double().exp()))}"
            picture = attributed.pyramid_picture(pixels, pyramid_rows(pyramid, tuple(heat.shape), title, one.video.name))
            (folder / f"{name}_pyramid.png").write_bytes(render.png(picture))
            (folder / f"{name}_pyramid.json").write_text(json.dumps(pyramid.graph()) + "\n")
            if self.args.tubes != "none":
                np.savez_compressed(folder / f"{name}_tubes.npz", **tubes_of(pyramid, tuple(heat.shape), self.args.tubes == "kernels"))
            drawing = render.webp(picture)
        peak = int(heat.amax((1, 2)).argmax())
        hottest = [f"hottest in frame {int(one.frames[peak])}"] if heat.amax() > heat.amin() else []
        return attributed.Panel(method, "; ".join([*hottest, *unusual]), render.webp(shown, seconds),
                                render.webp(shown[peak:peak + 1]), render.webp(sheet), drawing)

    def write_page(self, shown: Sequence[Shown], panels: Sequence[dict[str, attributed.Panel]]) -> None:
        """Write the page of what is done, the methods in the order they were asked for."""
        order = ("clip", *self.args.vis_method)
        entries = [attributed.Entry(one.video.name, one.title, facts_of(self.subject, one), [found[key] for key in order if key in found])
                   for one, found in zip(shown, panels, strict=True)]
        attributed.write_page(self.page, f"Attribution, {self.subject.name}" + (f", {self.label}" if self.label else ""), entries)


def pick_videos(args: argparse.Namespace, given: set[str], checkpoint: dict | None, hierarchy: Hierarchy) -> tuple[list[Video], Reader]:
    """The videos to explain, and what reads them."""
    if args.videos_dir or args.video:
        reader = CachedReader(AnyVideo(), int(MEMORY_GB * 1e9))
        if args.videos_dir:
            return spread(videos_in(under_root(args, args.videos_dir), hierarchy), args.n_videos if "n_videos" in given else 0), reader
        file = args.video.expanduser().resolve()
        if file.is_dir():
            frame_files(file)
        n_frames = reader.info(file).n_frames
        return [Video(file.name if file.is_dir() else file.stem, file, -1, "testing", n_frames, (0, n_frames))], reader
    stored = stored_flags(checkpoint, args, given)
    return choose(args, whole_videos(read_videos(stored, hierarchy))), make_reader(stored)


def tell_of_short(clips: VideoClips, files: AnyVideo | None) -> None:
    """A line on videos that end before they promise to, and one on those that are shorter than a clip."""
    if files is not None and files.cut:
        path, (found, promised) = next(iter(files.cut.items()))
        print(f"warning: {len(files.cut)} of {len(clips.videos)} videos are cut short: {path} has {found} of the {promised} frames "
              "that it promises; replace the file", file=sys.stderr)
    if clips.looped:
        duration = clips.sampler.duration
        print(f"warning: {clips.looped} of {len(clips.videos)} videos have fewer frames than the clip of {duration} (--sample_duration), "
              "which shows them repeatedly", file=sys.stderr)


def explain(args: argparse.Namespace, given: set[str]) -> None:
    """Explain all videos by all methods; what was done of that until Ctrl-C is kept, and laid out on the page."""
    args.where = choose_device(args.device, args.no_cuda)
    checkpoint = None
    if args.resume_path:
        path = under_root(args, args.resume_path)
        checkpoint = load_checkpoint(path)
        subject = hipe_subject(args, checkpoint, path)
    else:
        subject = trunk_subject(args)
    stored = parse_main([])[0] if checkpoint is None else stored_args(checkpoint)
    size, duration, stride = (getattr(args, name) or getattr(stored, name) for name in ("sample_size", "sample_duration", "sample_t_stride"))
    check_size(subject.trunk, (duration, size, size))
    videos, reader = pick_videos(args, given, checkpoint, subject.hierarchy)
    clips = VideoClips(videos, sampler=SlidingWindows(duration, args.inference_stride, stride=stride),
                       transform=EvalTransform(size), reader=reader)
    tell_of_short(clips, reader.reader if isinstance(reader, CachedReader) and isinstance(reader.reader, AnyVideo) else None)
    shown = []
    for index, item, log_probs, leaf in find_windows(subject, clips, args, window_power(stored)):
        target = choose_target(args, subject, videos[index], leaf)
        clip = normalise(item["clip"].to(args.where), subject.normalisation)
        shown.append(Shown(videos[index], clip, item["frames"], item["crop"], log_probs, *target))
    if not shown:
        raise ValueError(f"none of the {len(videos)} videos can be read; check --videos_dir, --video_path and --root_path")
    names = [one.video.name for one in shown]
    names = [file_name(name if names.count(name) == 1 else f"{one.video.path.parent.name} {one.video.path.name}") for name, one in zip(names, shown, strict=True)]
    if "class_feature_pyramid" in args.vis_method:
        try:
            feature_pyramid(lambda clips: subject.trunk(clips).flatten(1).sum(1), shown[0].clip, layer=subject.trunk, depth=1)
        except ValueError as error:
            leave_out(args, ["class_feature_pyramid"], f"cannot explain this trunk: {error}")
    writer = Writer(args, subject, reader)
    panels = [{"clip": writer.clip(one)} for one in shown]
    try:
        # perturbations last, and step, which is particular about frames, before the others: what cannot be is said at once
        for method in sorted(args.vis_method, key=lambda method: (method in RECIPES, method != "step")):
            missed = 0
            for i, heat, pyramid, lines in attribute(method, subject, args, shown):
                panels[i][method] = writer.method(method, shown[i], names[i], heat, pyramid, lines)
                missed += any(strong for _, strong in lines)
            if missed:
                remedy = "raise --num_iter" + ", or leave out --published_energy" * args.published_energy
                print(f"warning: {method}: {missed} of {len(shown)} clips have masks whose area is more than {MISS:g} off what was asked for; "
                      f"{remedy}", file=sys.stderr)
            print(f"{method}: {len(shown)} clips", flush=True)
    finally:
        if any(len(found) > 1 for found in panels):
            writer.write_page(shown, panels)
    print(f"{len(shown)} clips explained: {writer.page}")


def main(argv: Sequence[str] | None = None) -> None:
    args, given = parse(argv)
    try:
        explain(args, given)
    except KeyboardInterrupt:
        print(f"interrupted; what was finished lies in {Path(args.out).expanduser().resolve()}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    with user_errors():
        main()

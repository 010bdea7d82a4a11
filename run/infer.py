"""Validation, inference over all windows, and calibration of a run."""

import sys
from collections.abc import Sequence

import torch
from tqdm import tqdm

from datasets.groups import CALIBRATION
from datasets.reading import Reader
from datasets.video import Video, VideoClips, whole_videos
from evaluation.recognition import Believed, VideoPool
from evaluation.unseen import unseen_entries
from explain import fingerprint
from run.data import even_clips, make_loader, report_looped, window_clips, window_power
from run.passes import share_of
from run.predict import evaluate, metrics_json, predict, results_json
from run.state import Run


def print_scores(title: str, scores: dict[str, float]) -> None:
    """Print accuracies in one line."""
    tqdm.write(f"{title}: validation " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))


def validate(run: Run, *, pooled: bool = False) -> dict[str, float] | None:
    """Accuracies over the validation videos, by the prototypes or by the trunk epochs' softmax head; None without any.

    The loader's processes wait for the next validation; by a frozen trunk there is one pass for all of them.
    """
    args = run.args
    if run.validation is None:
        videos = run.subset("val")
        clips = even_clips(args, videos, run.reader("val"), args.n_val_samples, normalisation=run.model.normalisation)
        if run.frozen is not None and videos:
            loader = run.frozen.validation(clips).loader(args.batch_size, run.world.rank, run.world.size)
        else:
            loader = make_loader(clips, n_threads=args.n_threads, device=run.device, persistent=True,
                                 **share_of(run, clips, args.batch_size))
        run.validation = videos, loader
    videos, loader = run.validation
    if not videos:
        return None
    scores = evaluate(run.model, loader, torch.from_numpy(videos.labels), device=run.device, pooled=pooled,
                      description="val", world=run.world, precision=run.precision, power=window_power(args))
    run.trainer.kind = None  # evaluation left the model in eval mode
    unread = len(videos) - scores["videos"]
    return scores | ({"unread": unread} if unread else {})


def infer(run: Run) -> None:
    """Pool the probabilities of each video's windows, and write {subset}.json and metrics.json.

    After trunk epochs alone they are those of the softmax head.

    Raises:
        ValueError: where no video of the subset is on disk or can be read.
    """
    args, name = run.args, run.args.inference_subset
    videos = whole_videos(run.subset(name))
    if not videos:
        raise ValueError(f"{args.annotation_path}: lists no video of --inference_subset {name} that is on disk")
    if _of_trunk_epochs(run):
        print("inference: after trunk epochs alone, so these predictions are by their softmax head", file=sys.stderr)
    elif run.record is None:
        print("inference: nothing was pushed yet, so these predictions are not by training patches", file=sys.stderr)
    spread = run.record is not None and run.record.spread is not None
    clips, pool = _predict(run, videos, run.reader(name), "inference", keep_distances=spread)
    report_looped(clips)
    if not pool.seen.any():
        raise ValueError(f"inference: not one video of --inference_subset {name} can be read; prepare them again "
                         "with util_scripts.generate_video_jpgs")
    believed = _believed(run)
    content = results_json(pool, videos, clips, run.hierarchy, top=args.output_topk, believed=believed,
                           unseen=_unseen(run, pool))
    metrics = metrics_json(pool, videos, run.hierarchy, model=fingerprint(run.model), subset=name, believed=believed)
    if metrics is not None:
        run.write_json("metrics.json", metrics, indent=1)
    if run.record is not None and not (run.results / "prototypes.json").is_file():
        run.write_prototypes()
    unread = len(videos) - len(content["results"])
    print(f"{run.write_json(f'{name}.json', content)}: predictions of {len(content['results'])} videos"
          + (f"; {unread} could not be read" if unread else ""))


def _predict(run: Run, videos: Sequence[Video], reader: Reader, what: str, *,
             keep_distances: bool = False) -> tuple[VideoClips, VideoPool]:
    """All windows of some videos, and the probabilities that these come to, on request with each video's distances from
    the prototypes."""
    args = run.args
    clips = window_clips(args, videos, reader, args.inference_stride, normalisation=run.model.normalisation)
    loader = make_loader(clips, n_threads=args.n_threads, device=run.device,
                         **share_of(run, clips, args.inference_batch_size or args.batch_size))
    return clips, predict(run.model, loader, len(videos), device=run.device, description=what, world=run.world,
                          precision=run.precision, power=window_power(args), keep_distances=keep_distances,
                          pooled=_of_trunk_epochs(run))


def _of_trunk_epochs(run: Run) -> bool:
    """Whether a run is in its trunk epochs, or right behind them: its prototypes know nothing yet."""
    return run.done is not None and run.done.kind == "trunk"


def _unseen(run: Run, pool: VideoPool) -> list[dict] | None:
    """How unseen each video looks; None where no push told how near training videos come to the prototypes."""
    if run.record is None or run.record.spread is None:
        return None
    paths = run.hierarchy.ancestors[pool.probs[:, :run.hierarchy.n_leaves].argmax(1)]
    return unseen_entries(pool.nearest, paths, run.record.spread, run.model.prototype_layer.node_of,
                          run.hierarchy.levels)


def _believed(run: Run) -> Believed:
    """Temperature and threshold of back-off: fitted on the groups that --calibrate held out of training."""
    args = run.args
    videos = whole_videos(run.videos.subset(CALIBRATION))
    if not videos:
        print("back-off: no groups were held out to calibrate on (--calibrate), so probabilities are taken as they "
              f"come and the threshold is --target_accuracy {args.target_accuracy:g} itself", file=sys.stderr)
        return Believed.uncalibrated(args.target_accuracy)
    _, pool = _predict(run, videos, run.source, "calibration")
    labels = torch.tensor([video.label for video in videos])[pool.seen]
    if not len(labels):
        print("warning: back-off: not one of the videos that were held out to calibrate on can be read, so "
              "probabilities are taken as they come", file=sys.stderr)
        return Believed.uncalibrated(args.target_accuracy)
    probs = pool.probs[pool.seen, :run.hierarchy.n_leaves]
    believed = Believed.fitted(probs, labels, run.hierarchy, args.target_accuracy)
    if believed.threshold > 1:
        print(f"warning: back-off: no threshold keeps {args.target_accuracy:g} right answers on the {len(labels)} "
              "held-out videos (too few, or too many mistakes), so every answer is the root; a lower "
              "--target_accuracy asks for less", file=sys.stderr)
    print(f"back-off: temperature {believed.temperature:.3g} and threshold {believed.threshold:.3g}, chosen on "
          f"{len(labels)} videos of {len(run.held_out)} groups that were held out of training")
    return believed

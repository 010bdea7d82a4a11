"""Does a model know what it has never seen, and from which level of the tree on?

    python -m benchmarks.unseen [--seed 2] [--leave_out NODE ...] [--clips CHECKPOINT=FOLDER ...]

On the synthetic set some branches of the tree are left out of training: classes of known parents, a parent of a known
grandparent, and a grandparent; main.py trains with the demo's flags on what is left. Of the validation videos, whose
places and actors training never saw, those of known classes must be told from the others. Ours is the score `unseen` of
val.json (evaluation/unseen.py), by prototypes; beside it stand what the trunk's softmax head offers: its confidence
(Hendrycks and Gimpel, ICLR 2017), its energy (Liu et al., NeurIPS 2020), and the distance of the trunk's pooled
features from those of training, of its classes under their common covariance (Lee et al., NeurIPS 2018) and of the
nearest clips by cosine (Sun et al., ICML 2022). Each takes the most familiar window of a video.

With --clips a finished checkpoint judges the videos of a folder, all of which it has never seen, against its own
validation videos, as clips of another set. Writes unseen.csv and unseen_levels.csv, with .md and .tex, to --save and
prints both tables: the area under the ROC curve and false alarms (the share of known videos that score as high as 95 %
of the unseen ones do); and what the threshold of the page says without any tuning.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.formats import Table
from benchmarks.left_out import leave_out, trained
from benchmarks.runs import demo_data
from benchmarks.tables import command_of
from datasets import READERS
from datasets.annotation import read_annotated_videos
from datasets.loose import videos_in
from datasets.video import Video, VideoClips
from evaluation.recognition import pool_windows
from evaluation.unseen import FAR, level_spreads, overall, own_distances, unseen_from, unseen_scores
from hierarchy.tree import Hierarchy, level_name
from models.hipe import HIPE
from options.errors import CommandLine, user_errors
from options.ranges import COUNT
from run.data import even_clips, make_loader, make_reader, read_videos, window_clips, window_power
from run.judging import load_model
from run.model import choose_device
from run.resume import stored_args
from training.checkpoint import load_checkpoint
from training.features import valid_clips
from training.push import PushRecord

LEFT_OUT = ("Change on the Spot", "Rising", "StarSliding", "KiteBouncing", "HoopSwinging", "BookCircling")
CAUGHT = 0.95  # of the unseen videos, at which false alarms are counted
NEAREST = 10  # clips of training whose distance is that of the last


@dataclass
class Windows:
    """What a model says of the windows of some videos.

    video: (N,) of each window. log_probs: (N, K). distances: (N, P). features: (N, C') pooled. logits: (N, K0) of the
    softmax head. n_videos: V.
    """

    video: Tensor
    log_probs: Tensor
    distances: Tensor
    features: Tensor
    logits: Tensor
    n_videos: int

    def smallest(self, values: Tensor) -> Tensor:
        """(N, ...) of the windows -> (V, ...), the smallest of each video's; infinite without windows."""
        result = values.new_full((self.n_videos, *values.shape[1:]), torch.inf)
        index = self.video.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
        return result.scatter_reduce(0, index, values, "amin")


@torch.no_grad()
def windows_of(model: HIPE, clips: VideoClips, device: torch.device) -> Windows:
    """Everything that the scores need of all clips."""
    rows: list[tuple[Tensor, ...]] = []
    loader = make_loader(clips, n_threads=0, device=device, batch_size=48)
    for batch in valid_clips(loader, device):
        trunk = model.trunk(batch["clip"])
        output, features = model.head(trunk), trunk.float().mean((2, 3, 4))
        rows.append((batch["video"], *(value.float().cpu() for value in (
            output.log_probs, output.distances, features, model.pooled_head(features)))))
    return Windows(*(torch.cat(column) for column in zip(*rows, strict=True)), len(clips.videos))


def head_scores(windows: Windows, training: Windows, labels: Tensor) -> dict[str, Tensor]:
    """How unseen videos look to the softmax head and its features, larger for stranger ones, by the score's name: (V,).

    Args:
        windows: of the videos that are judged. training: of clips of training videos. labels: (V,) of the latter.
    """
    clips, of_clip = training.features.double(), labels[training.video]
    classes, place = of_clip.unique(return_inverse=True)
    means = torch.stack([clips[of_clip == label].mean(0) for label in classes])  # (K0, C')
    fitted = LedoitWolf(assume_centered=True).fit((clips - means[place]).numpy())
    precision = torch.from_numpy(fitted.precision_)
    away = windows.features.double()[:, None] - means  # (N, K0, C')
    of_classes = torch.einsum("nkc,cd,nkd->nk", away, precision, away).amin(1)
    unit, others = (values / values.norm(dim=1, keepdim=True) for values in (windows.features.double(), clips))
    nearest = (1 - unit @ others.T).topk(min(NEAREST, len(others)), largest=False).values[:, -1]
    return {name: windows.smallest(score.double()) for name, score in {
        "softmax confidence": -windows.logits.softmax(1).amax(1), "energy": -windows.logits.logsumexp(1),
        "feature distance, classes": of_classes, "feature distance, clips": nearest}.items()}


def own_scores(model: HIPE, tree: Hierarchy, record: PushRecord, windows: Windows,
               power: float) -> tuple[Tensor, list[int | None]]:
    """How unseen the videos look by prototypes, `overall` (V,), and from which level on, V of `unseen_from`."""
    leaves = torch.tensor([pool_windows(windows.log_probs[windows.video == v], tree.membership, power)[1]
                           for v in range(windows.n_videos)])
    node_of = model.prototype_layer.node_of
    own = own_distances(windows.smallest(windows.distances), tree.ancestors[leaves], node_of)
    spreads = level_spreads(record.spread, node_of, tree.levels)
    return overall(own, spreads), [unseen_from(row) for row in unseen_scores(own, spreads).tolist()]


def quality(known: Tensor, unseen: Tensor) -> tuple[float, float]:
    """The area under the ROC curve of unseen against known videos, and the share of known videos that score at least
    as much as the lowest of the highest 95 % of the unseen ones; scores are larger for stranger videos."""
    truth, largest = np.repeat([0, 1], [len(known), len(unseen)]), float(np.finfo(np.float64).max)
    area = float(roc_auc_score(truth, torch.cat((known, unseen)).clamp(max=largest).numpy()))
    threshold = unseen.sort().values[int((1 - CAUGHT) * len(unseen))]
    return area, float((known >= threshold).double().mean())


@dataclass
class Judged:
    """A checkpoint and its scores of known and of unseen videos.

    scores: by name, of the (V,) known videos and of the others. from_level: of both, None where a video looks seen.
    """

    scores: dict[str, tuple[Tensor, Tensor]]
    from_level: tuple[list[int | None], list[int | None]]


def judged(path: Path, others: Sequence[Video], args: argparse.Namespace) -> Judged:
    """The scores of a checkpoint's validation videos and of others that it has never seen."""
    flags, (model, tree, record) = stored_args(load_checkpoint(path)), load_model(path)
    device, power = choose_device(None, args.no_cuda), window_power(flags)
    model = model.to(device).eval()
    videos, reader = read_videos(flags, tree), make_reader(flags)
    how = {"normalisation": model.normalisation}
    training = windows_of(model, even_clips(flags, videos.subset("training"), reader, flags.push_clips, **how), device)
    labels = torch.from_numpy(videos.subset("training").labels)
    by_name: list[dict[str, Tensor]] = []
    levels = []
    for some in (videos.subset("validation"), others):
        files = reader if some is not others else READERS["jpg" if some[0].path.is_dir() else "video"]()
        windows = windows_of(model, window_clips(flags, some, files, args.stride, **how), device)
        own, begins = own_scores(model, tree, record, windows, power)
        by_name.append({"ours": own, **head_scores(windows, training, labels)})
        levels.append(begins)
    return Judged({name: tuple(scores[name] for scores in by_name) for name in by_name[0]}, tuple(levels))


def add(cells: dict[str, dict[str, list[float]]], name: str, of: Judged, which: Sequence[bool] | None = None) -> None:
    """Put the qualities of all scores, for some of the unseen videos, into two rows of the table."""
    for row, values in ((f"{name}: AUROC", 0), (f"{name}: false alarms", 1)):
        for score, (known, unseen) in of.scores.items():
            chosen = unseen if which is None else unseen[torch.tensor(which)]
            cells.setdefault(row, {}).setdefault(score, []).append(quality(known, chosen)[values])


def said(name: str, levels: Sequence[int | None], n_levels: int) -> dict[str, dict[str, list[float]]]:
    """A row of how many videos look unseen from which level on, by the threshold of the page."""
    words = {None: "seen", **{level: f"from the {level_name(level)} on" for level in range(n_levels)}}
    return {name: {word: [sum(one == level for one in levels) / len(levels)] for level, word in words.items()}}


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m benchmarks.unseen", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=COUNT, default=2, help="of the synthetic set and the training (default: 2)")
    parser.add_argument("--leave_out", nargs="*", default=list(LEFT_OUT), metavar="NODE",
                        help=f"(default: {', '.join(LEFT_OUT)}; none to leave the synthetic set)")
    parser.add_argument("--clips", nargs="*", default=[], metavar="CHECKPOINT=FOLDER",
                        help="videos that the model of the checkpoint has never seen")
    parser.add_argument("--stride", type=COUNT, default=8, help="frames from one window to the next (default: 8)")
    parser.add_argument("--work", type=Path, default=Path("results/unseen"), help="(default: results/unseen)")
    parser.add_argument("--save", type=Path, metavar="DIR", help="folder to write the tables to as CSV, Markdown and "
                        "LaTeX, such as docs/results (default: they are printed only)")
    parser.add_argument("--no_cuda", action="store_true", help="stay on the CPU where there is a GPU")
    args = parser.parse_args(argv)
    cells: dict[str, dict[str, list[float]]] = {}
    levels: dict[str, dict[str, list[float]]] = {}
    if args.leave_out:
        work = args.work.resolve()
        line = demo_data(work / f"demo_{args.seed}", args.seed)
        data = Path(line[line.index("--root_path") + 1])
        split = leave_out(data, "ucf101_01.json", args.leave_out, work / f"split_{args.seed}")
        path = trained(split, line, work / f"results_{args.seed}")
        tree = load_model(path)[1]
        others = list(read_annotated_videos(split.folder / "unseen.json", data / "jpg", tree))
        of, begins = judged(path, others, args), [split.begins[video.name] for video in others]
        levels |= said("known classes", of.from_level[0], tree.n_levels)
        add(cells, "unseen, all", of)
        for level in range(tree.n_levels):
            which = [begin == level for begin in begins]
            if any(which):
                name = f"unseen from the {level_name(level)} on"
                add(cells, name, of, which)
                levels |= said(name, [one for one, here in zip(of.from_level[1], which, strict=True) if here],
                               tree.n_levels)
    for pair in args.clips:
        checkpoint, equals, folder = pair.partition("=")
        if not equals:
            raise ValueError(f"--clips {pair}: give CHECKPOINT=FOLDER")
        tree = load_model(Path(checkpoint))[1]
        of = judged(Path(checkpoint), videos_in(Path(folder), tree).videos, args)
        name = f"{Path(folder).parent.name}/{Path(folder).name} by {Path(checkpoint).parent.name}"
        add(cells, name, of)
        levels |= said(f"known classes of {Path(checkpoint).parent.name}", of.from_level[0], tree.n_levels)
        levels |= said(name, of.from_level[1], tree.n_levels)
    tables = {"unseen": Table("Never seen: ours and what the head of the same trunk offers", cells, notes=(
        "AUROC of unseen against known validation videos; false alarms: the share of known videos that score as high "
        "as 95 % of the unseen ones do.",)),
        "unseen_levels": Table("From which level on videos look unseen", levels, head="videos", notes=(
            f"Share of the videos, by the threshold of the page: less like what they are predicted to be than "
            f"{100 * FAR:.0f} % of the training videos are like what they show.",))}
    for name, table in tables.items():
        if args.save is not None:
            table.write(args.save, name, no_cuda=args.no_cuda,
                        command=command_of("unseen", sys.argv[1:] if argv is None else argv))
        print(f"\n{table.markdown()}")


if __name__ == "__main__":
    with user_errors():
        main()

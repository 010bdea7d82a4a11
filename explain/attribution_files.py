"""Writes what attribution methods tell: a GIF, a sheet and the heat of each clip and method, and one page of all."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attribution import METHODS
from attribution.feature_pyramid import FeaturePyramid
from datasets.reading import FrameTimes, Reader
from explain import attribution_page, render
from explain.attribution import Attribution, Question, Subject, Window
from explain.names import file_name
from explain.pages import percent, when
from explain.pictures import read_region
from machine.writing import sweep, write_bytes, write_text, write_whole
from models.geometry import box_of, box_to_source, points_to_source, smoothed

PICTURED = 6  # channels of a layer on the picture of a pyramid
LINKS = 2  # lines that lead from each of them
SHOWN = 5  # predictions of a video
DRAWN = 32  # frames of a clip, evenly spaced where it has more
REMEMBERED = 16  # windows whose pictures are kept from one method to the next, a dozen megabytes each
USUAL = {"polarity": "positive", "variants": ("preserve",), "perturbation": "blur", "published_energy": False}
NOTES = {"polarity": "polarity {}", "variants": "variant {}", "perturbation": "hidden by {}",
         "published_energy": "published energy"}


def unusual_options(options: Mapping[str, object], asked: Sequence[str] = ()) -> list[str]:
    """Notes on options that change what a map shows.

    Args:
        options: of a method. asked: names of those that are noted whatever their value.
    """
    def text(value: object) -> str:
        return " and ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)

    notes = [NOTES[name].format(text(options[name])) for name, usual in USUAL.items()
             if options.get(name, usual) != usual]
    notes += [f"{name} {text(options[name])}" for name in asked if name not in USUAL]
    return notes


def likeliest(subject: Subject, values: Tensor, n: int) -> list[tuple[str, float]]:
    """The n most probable classes and their probabilities, of the (K,) probabilities of all nodes."""
    leaves = values[:subject.hierarchy.n_leaves].double()
    return [(subject.hierarchy.full_name(leaf), float(leaves[leaf])) for leaf in leaves.topk(min(n, len(leaves)))[1]]


def heading(window: Window) -> str:
    """What the classes of the page are: "Most probable, from 2 windows (128 of 900 frames)", or of all its frames."""
    if window.frames_seen == window.n_frames:
        return "Most probable in the whole video"
    return (f"Most probable, from {window.n_windows} window{'s' * (window.n_windows != 1)} "
            f"({window.frames_seen} of {window.n_frames} frames)")


def margin_of(subject: Subject, window: Window, method: str, notes: Sequence[str],
              lines: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """The text beside a contact sheet: method, target, notes, true class, likeliest classes, and frames."""
    probability, label = window.log_probs.double().exp(), window.video.label
    true = "true class not known"
    if label >= 0:
        true = f"true: {subject.hierarchy.full_name(label)}, {percent(float(probability[label]))}"
    ranks = [f"{rank}. {name}, {percent(value)}"
             for rank, (name, value) in enumerate(likeliest(subject, probability, 2), 1)]
    return [(method, True), (f"for {window.title}", False), *((note, False) for note in notes), *lines,
            (true, True),
            *((f"{rank} in this window" if i == 0 else rank, False) for i, rank in enumerate(ranks)),
            (window.video.name, False), (f"frames {int(window.frames.min())} to {int(window.frames.max())}", False)]


def whereabouts(y: int, x: int, size: tuple[int, int]) -> str:
    """In which ninth of a picture of `size` (H, W) a place lies: "upper left", "centre"."""
    rows, columns = ("upper", "", "lower"), ("left", "", "right")
    row, column = rows[min(int(3 * y / size[0]), 2)], columns[min(int(3 * x / size[1]), 2)]
    if not row and not column:
        return "centre"
    return f"{row or 'middle'} {column or 'centre'}"


def hottest(window: Window, heat: Tensor) -> tuple[Tensor, render.Box, list[int], list[int]]:
    """Where heat (T, H, W) over a window is hottest.

    Returns:
        the peak (3,) and the box in the clip, and both in the video's own frames and pixels.
    """
    at, box = torch.tensor(np.unravel_index(int(heat.argmax()), tuple(heat.shape))), box_of(heat)
    of_video = window.frames, window.crop, window.size[1:]
    return at, box, points_to_source(at, *of_video).tolist(), list(box_to_source(box, *of_video))


def pyramid_rows(pyramid: FeaturePyramid, size: tuple[int, int, int], title: str,
                 name: str) -> list[attribution_page.PyramidRow]:
    """The pyramid as it is drawn: the strongest channels of the first row, and of each layer below those that lead most
    to drawn ones.

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
        totals = {channel: sum(share for share, *_ in leading) for channel, leading in links.items()}
        # lines cross less where each channel stands below what it leads to
        centres = {channel: sum(share * there for share, _, there in leading) / totals[channel]
                   for channel, leading in links.items()}
        leading = sorted(links, key=totals.get, reverse=True)[:PICTURED]
        leading.sort(key=centres.__getitem__)
        drawn = layer.channels[:PICTURED].tolist() if i == 0 else leading
        places |= {(i, channel): place for place, channel in enumerate(drawn)}
        number = {channel: place for place, channel in enumerate(layer.channels.tolist())}
        down = f"{layer.depth} {'convolution' if layer.depth == 1 else 'convolutions'} down"
        note = f"{len(layer.channels)} of {layer.n_channels} channels"
        above = [(row, there, place) for place, channel in enumerate(drawn)
                 for _, row, there in sorted(links.get(channel, []), reverse=True)[:LINKS]]
        rows.append(attribution_page.PyramidRow(
            layer.name if i else title, f"{down}; {note}" if i else f"{name}; what the score reads: {note}",
            layer.tube(size).cpu(), drawn, layer.kernel_tubes(size, [number[channel] for channel in drawn]).cpu(),
            above))
    return rows


def tubes_of(pyramid: FeaturePyramid, size: tuple[int, int, int], kernels: bool) -> dict[str, np.ndarray]:
    """Of every layer its tube (T, H, W), and on request those of its channels (n, t, h, w), by their names in
    docs/FORMATS.md."""
    arrays = {}
    for i, layer in enumerate(pyramid.layers):
        arrays[f"layer{i}"] = layer.tube(size).cpu().numpy()
        if kernels:
            arrays[f"kernels{i}"] = layer.tubes.cpu().numpy()
    return arrays


@dataclass(frozen=True)
class Outcome:
    """What a method comes to on a clip: its panel of the page, and its record of the JSON."""

    panel: attribution_page.Panel
    record: dict


class Writer:
    """Writes the files of each method and clip, and one page of all.

    Args:
        reader: of the videos.
        out: folder, which is there.
        label: folder below the method and the model, by default the question's.
        notes: by method, on options that are not the usual ones; the page shows the methods in this order.
        tubes: "none", "layers" or "kernels": what is written of a pyramid's heat.
    """

    def __init__(self, subject: Subject, question: Question, reader: Reader, *, out: Path, label: str,
                 notes: Mapping[str, Sequence[str]], tubes: str) -> None:
        self.subject, self.question, self.reader = subject, question, reader
        self.out, self.label, self.notes, self.tubes = out, label or question.label, notes, tubes
        self._pixels: dict[tuple[Path, int], tuple[render.Pixels, Tensor, render.Seconds]] = {}

    def folder(self, method: str) -> Path:
        """OUT/METHOD/MODEL/LABEL, without the last where there is none."""
        folder = self.out / method.replace("*", "_x_") / self.subject.name
        return folder / file_name(self.label) if self.label else folder

    @property
    def page(self) -> Path:
        """The page that lays the methods of this run side by side."""
        return self.out / f"{file_name('-'.join(filter(None, (self.subject.name, self.label))))}.html"

    def pixels_of(self, window: Window) -> tuple[render.Pixels, Tensor, render.Seconds]:
        """Those frames of a clip that are drawn, DRAWN at most: their pixels, their places, the seconds of each."""
        key = window.video.path, int(window.frames[0])
        if key in self._pixels:
            return self._pixels[key]
        every = -(-len(window.frames) // DRAWN)
        places = torch.arange(0, len(window.frames), every)
        pixels = read_region(self.reader, window.video.path, window.frames[places], window.crop)
        seconds = render.seconds_per_frame(window.frames, self.times_of(window))
        shown = pixels, places, render.part_of(seconds, 0, len(window.frames), every)
        if len(self._pixels) < REMEMBERED:
            self._pixels[key] = shown
        return shown

    def times_of(self, window: Window) -> FrameTimes | None:
        """When the frames of a window's video are shown; None where that is not known."""
        try:
            return self.reader.times(window.video.path)
        except ValueError:  # this window could be read, though not the whole video
            return None

    def clip(self, window: Window) -> attribution_page.Panel:
        """The clip itself, on the page."""
        pixels, _, seconds = self.pixels_of(window)
        return attribution_page.Panel("the clip", self._span(window), render.webp(pixels, seconds),
                                      render.webp(pixels[len(pixels) // 2:][:1]))

    def _span(self, window: Window) -> str:
        span, times = [int(window.frames.min()), int(window.frames.max()) + 1], self.times_of(window)
        return when(None if times is None else list(times.seconds_of(*span)), span)

    def method(self, method: str, window: Window, name: str, attribution: Attribution) -> Outcome:
        """Write the files of a clip and a method, which are called `name`."""
        (pixels, shown, seconds), folder = self.pixels_of(window), self.folder(method)
        sweep(folder)
        heat = attribution.heat.detach().float().cpu()
        write_whole(folder / f"{name}.npy", lambda file: np.save(file, heat.numpy()), durable=False)
        places = smoothed(heat) if METHODS[method].voxelwise else heat  # single voxels are no place
        visible = attribution_page.drawn(places)[shown]
        overlay = render.overlay(pixels, visible)
        write_bytes(folder / f"{name}.gif", render.gif(overlay, seconds))
        notes = list(self.notes.get(method, ()))
        empty = bool(heat.amax() <= heat.amin())
        if empty:
            notes.append("an empty map: all alike")
        sheet = attribution_page.heat_sheet(pixels, overlay,
                                            margin_of(self.subject, window, method, notes, attribution.lines))
        write_bytes(folder / f"{name}.png", render.png(sheet))
        kinds = {"heat": ".npy", "clip": ".gif", "sheet": ".png"}
        drawing = None
        if attribution.pyramid is not None:
            drawing = self._pyramid(folder, name, window, attribution.pyramid)
            kinds |= {"pyramid": "_pyramid.png", "graph": "_pyramid.json"}
            kinds |= {"tubes": "_tubes.npz"} if self.tubes != "none" else {}
        files = {kind: (folder / f"{name}{ending}").relative_to(self.out).as_posix() for kind, ending in kinds.items()}
        still, peak, box = len(pixels) // 2, None, None
        if not empty:
            at, tube, peak, box = hottest(window, places)
            words = self._words(window, at, peak)
            notes.insert(0, words)
            still = int((shown - at[0]).abs().argmin())
            spans = [int((shown < edge).sum()) for edge in (tube[0], tube[3])]  # of the box, in frames that are drawn
            spans[1] = max(spans[1], spans[0] + 1)
            overlay = render.draw_box(overlay, (spans[0], *tube[1:3], spans[1], *tube[4:]), window.size[1:])
        panel = attribution_page.Panel(method, "; ".join(notes), render.webp(overlay, seconds),
                                       render.webp(overlay[still:still + 1]), render.webp(sheet), drawing)
        return Outcome(panel, {"peak": peak, "box": box, "files": files})

    def _words(self, window: Window, at: Tensor, peak: Sequence[int]) -> str:
        """Where heat is hottest: `at` in the clip, `peak` in the video's own frames and pixels."""
        frame, times = peak[0], self.times_of(window)
        time = f"frame {frame}" if times is None else f"{times.seconds_of(frame, frame)[0]:.2f} s (frame {frame})"
        return f"hottest at {time}, {whereabouts(*at[1:].tolist(), window.size[1:])}"

    def _pyramid(self, folder: Path, name: str, window: Window, pyramid: FeaturePyramid) -> bytes:
        """Write a pyramid's picture, graph and tubes, and return the picture for the page."""
        title, size = window.title, window.size
        pixels = read_region(self.reader, window.video.path, window.frames, window.crop)
        if self.question.prototype is None:
            title += f", {percent(float(window.log_probs[window.target].double().exp()))}"
        picture = attribution_page.pyramid_picture(pixels, pyramid_rows(pyramid, size, title, window.video.name))
        write_bytes(folder / f"{name}_pyramid.png", render.png(picture))
        write_text(folder / f"{name}_pyramid.json", json.dumps(pyramid.graph()) + "\n")
        if self.tubes != "none":
            tubes = tubes_of(pyramid, size, self.tubes == "kernels")
            write_whole(folder / f"{name}_tubes.npz", lambda file: np.savez_compressed(file, **tubes), durable=False)
        return render.webp(picture)

    def entry(self, window: Window, name: str, panels: Sequence[attribution_page.Panel]) -> attribution_page.Entry:
        """A clip of the page, which is called `name`."""
        tree, label = self.subject.hierarchy, window.video.label
        true = f"{tree.full_name(label)}, {percent(float(window.probs[label]))}" if label >= 0 else "not known"
        best, _ = likeliest(self.subject, window.probs, 1)[0]
        verdict = "" if label < 0 else "right" if tree.full_name(label) == best else "wrong"
        facts = [("true class", true)]
        if window.n_windows > 1:
            facts.append(("shown", f"the surest of {window.n_windows} windows"))
        if self.question.prototype is None:
            nodes = [window.target, *([] if window.rival is None else [window.rival])]
            if window.n_windows > 1 or [tree.full_name(node) for node in nodes] != [best]:
                facts += [(f"{tree.full_name(node)} in this window", percent(float(window.log_probs[node].exp())))
                          for node in nodes]
        return attribution_page.Entry(name, window.title, facts, list(panels),
                                      likeliest(self.subject, window.probs, SHOWN), heading(window), verdict)

    def write_page(self, windows: Sequence[Window], names: Sequence[str], clips: Sequence[attribution_page.Panel],
                   outcomes: Sequence[Mapping[str, Outcome]]) -> None:
        """Write the page of what is done, and the same as JSON beside it.

        Args:
            names: by which the page tells the windows' videos apart.
        """
        entries, videos = [], []
        for window, name, clip, done in zip(windows, names, clips, outcomes, strict=True):
            order = [method for method in self.notes if method in done]
            entries.append(self.entry(window, name, [clip, *(done[method].panel for method in order)]))
            label, names = window.video.label, self.subject.hierarchy
            videos.append({
                "video": window.video.name, "path": str(window.video.path),
                "window": [int(window.frames.min()), int(window.frames.max()) + 1], "n_windows": window.n_windows,
                "frames_seen": window.frames_seen, "n_frames": window.n_frames,
                "true": names.full_name(label) if label >= 0 else None,
                "predictions": [{"label": name, "score": round(value, 6)}
                                for name, value in likeliest(self.subject, window.probs, SHOWN)],
                "target": window.title,
                **({} if window.rival is None else {"against": names.full_name(window.rival)}),
                "methods": {method: done[method].record for method in order}})
        title = f"Attribution, {self.subject.name}" + (f", {self.label}" if self.label else "")
        source = f"{self.subject.source}. {self.subject.credit}".removesuffix(". ")
        attribution_page.write_page(self.page, title, source, entries)
        content = {"model": self.subject.name, "weights": self.subject.source, "credit": self.subject.credit,
                   "label": self.label, "clip": list(windows[0].size), "videos": videos}
        write_text(self.page.with_suffix(".json"), json.dumps(content, indent=1, allow_nan=False) + "\n")

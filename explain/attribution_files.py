"""Writes what attribution methods tell: a GIF, a sheet and the heat of each clip and method, and one page of all."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from attribution import METHODS
from attribution.feature_pyramid import FeaturePyramid
from datasets.reading import Reader
from explain import attribution_page, render
from explain.attribution import Attribution, Question, Subject, Window
from explain.names import file_name
from explain.pages import percent
from explain.pictures import read_region

PICTURED = 6  # channels of a layer on the picture of a pyramid
LINKS = 2  # lines that lead from each of them
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


def facts_of(subject: Subject, window: Window) -> list[tuple[str, str]]:
    """The true class and the two that are most probable in this window, with their probabilities there."""
    tree, n = subject.hierarchy, subject.hierarchy.n_leaves
    probability = window.log_probs[:n].double().exp()
    label = window.video.label
    true = f"{tree.full_name(label)}, {percent(float(probability[label]))}" if label >= 0 else "not known"
    likeliest = [f"{tree.full_name(leaf)}, {percent(float(probability[leaf]))}"
                 for leaf in probability.argsort(descending=True)[:2].tolist()]
    return [("true class", true), *zip(("likeliest in this window", "then"), likeliest, strict=False)]


def margin_of(subject: Subject, window: Window, method: str, notes: Sequence[str],
              lines: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """The text beside a contact sheet: method, target, notes, true class, likeliest classes, and frames."""
    (_, true), *likeliest = facts_of(subject, window)
    return [(method, True), (f"for {window.title}", False), *((note, False) for note in notes), *lines,
            (f"true: {true}" if window.video.label >= 0 else "true class not known", True),
            *((f"{rank}. {text}", False) for rank, (_, text) in enumerate(likeliest, 1)),
            (window.video.name, False), (f"frames {int(window.frames.min())} to {int(window.frames.max())}", False)]


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


class Writer:
    """Writes the files of each method and clip, and one page of all.

    Args:
        reader: of the videos.
        out: folder, made at once: what cannot be written to is reported before hours of work.
        label: folder below the method and the model, by default the question's.
        notes: by method, on options that are not the usual ones; the page shows the methods in this order.
        tubes: "none", "layers" or "kernels": what is written of a pyramid's heat.
    """

    def __init__(self, subject: Subject, question: Question, reader: Reader, *, out: Path, label: str,
                 notes: Mapping[str, Sequence[str]], tubes: str) -> None:
        self.subject, self.question, self.reader = subject, question, reader
        self.out, self.label, self.notes, self.tubes = out, label or question.label, notes, tubes
        self.out.mkdir(parents=True, exist_ok=True)

    def folder(self, method: str) -> Path:
        """OUT/METHOD/MODEL/LABEL, without the last where there is none."""
        folder = self.out / method.replace("*", "_x_") / self.subject.name
        return folder / file_name(self.label) if self.label else folder

    @property
    def page(self) -> Path:
        """The page that lays the methods of this run side by side."""
        return self.out / f"{file_name('-'.join(filter(None, (self.subject.name, self.label))))}.html"

    def pixels_of(self, window: Window) -> tuple[render.Pixels, float]:
        """The frames of a clip, and how many seconds each is shown."""
        pixels = read_region(self.reader, window.video.path, window.frames, window.crop)
        try:
            fps = self.reader.info(window.video.path).fps
        except ValueError:  # this window could be read, though not the whole video
            fps = None
        return pixels, render.seconds_per_frame(window.frames, fps)

    def clip(self, window: Window) -> attribution_page.Panel:
        """The clip itself, on the page."""
        pixels, seconds = self.pixels_of(window)
        return attribution_page.Panel("clip", f"frames {int(window.frames.min())} to {int(window.frames.max())}",
                                      render.webp(pixels, seconds), render.webp(pixels[len(pixels) // 2:][:1]))

    def method(self, method: str, window: Window, name: str, attribution: Attribution) -> attribution_page.Panel:
        """Write the files of a clip and a method, which are called `name`."""
        (pixels, seconds), folder = self.pixels_of(window), self.folder(method)
        folder.mkdir(parents=True, exist_ok=True)
        heat = attribution.heat.detach().float().cpu()
        np.save(folder / f"{name}.npy", heat.numpy())
        visible = attribution_page.drawn(heat, smooth=METHODS[method].voxelwise)
        overlay = render.overlay(pixels, visible)
        (folder / f"{name}.gif").write_bytes(render.gif(overlay, seconds))
        notes = list(self.notes.get(method, ()))
        if heat.amax() <= heat.amin():
            notes.append("an empty map: all alike")
        margin = margin_of(self.subject, window, method, notes, attribution.lines)
        sheet = attribution_page.heat_sheet(pixels, visible, margin)
        (folder / f"{name}.png").write_bytes(render.png(sheet))
        drawing = None
        if attribution.pyramid is not None:
            drawing = self._pyramid(folder, name, window, attribution.pyramid, pixels, heat)
        peak = int(heat.amax((1, 2)).argmax())
        hottest = [f"hottest in frame {int(window.frames[peak])}"] if heat.amax() > heat.amin() else []
        return attribution_page.Panel(method, "; ".join([*hottest, *notes]), render.webp(overlay, seconds),
                                      render.webp(overlay[peak:peak + 1]), render.webp(sheet), drawing)

    def _pyramid(self, folder: Path, name: str, window: Window, pyramid: FeaturePyramid, pixels: render.Pixels,
                 heat: Tensor) -> bytes:
        """Write a pyramid's picture, graph and tubes, and return the picture for the page."""
        title, size = window.title, tuple(heat.shape)
        if self.question.prototype is None:
            title += f", {percent(float(window.log_probs[window.target].double().exp()))}"
        picture = attribution_page.pyramid_picture(pixels, pyramid_rows(pyramid, size, title, window.video.name))
        (folder / f"{name}_pyramid.png").write_bytes(render.png(picture))
        (folder / f"{name}_pyramid.json").write_text(json.dumps(pyramid.graph()) + "\n")
        if self.tubes != "none":
            np.savez_compressed(folder / f"{name}_tubes.npz", **tubes_of(pyramid, size, self.tubes == "kernels"))
        return render.webp(picture)

    def write_page(self, windows: Sequence[Window], panels: Sequence[Mapping[str, attribution_page.Panel]]) -> None:
        """Write the page of what is done."""
        order = ("clip", *self.notes)
        entries = [attribution_page.Entry(window.video.name, window.title, facts_of(self.subject, window),
                                          [done[key] for key in order if key in done])
                   for window, done in zip(windows, panels, strict=True)]
        title = f"Attribution, {self.subject.name}" + (f", {self.label}" if self.label else "")
        attribution_page.write_page(self.page, title, entries)

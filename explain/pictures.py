"""The picture files of explanations, and of every prototype of a push record."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from datasets.reading import Reader
from datasets.video import Video
from explain import render
from explain.attribution_page import drawn
from explain.contrast import Voice
from explain.match import LevelMatch, Match, PushRecordLike, Source, source_of
from explain.names import PARTS, file_name, picture_name, voice_name
from hierarchy.tree import Hierarchy
from machine.writing import check_writable, naming, sweep, write_bytes

CACHED_SOURCES = 48  # prototypes whose pictures are cached between videos, a few megabytes each
VOICE_HEIGHT = 128  # pixels of the pictures of a contrast
PROTOTYPE_HEIGHT = 192  # maximal pixels of the pictures of all prototypes, which may be thousands


def read_region(reader: Reader, path: Path, frames: Tensor, crop: Tensor,
                largest: int = render.LARGEST) -> render.Pixels:
    """The region of a video that a clip shows, scaled for display.

    Args:
        frames: (T,) frame indices.
        crop: (4,) y0, x0, y1, x1 in the video's own pixels; the stored frames may be smaller.
        largest: maximal height of the result in pixels.
    Returns:
        (T, H', W', 3) uint8.
    Raises:
        ValueError, OSError: where the video cannot be read.
    """
    pixels = np.asarray(reader.frames(path, frames))  # (T, h, w, 3)
    stored, own = np.array(pixels.shape[1:3]), np.array(reader.size(path))
    region = crop.double().numpy() * np.tile(stored / own, 2)
    shown = region[2:] - region[:2]  # (2,) height, width
    height, width = np.maximum(1, (shown * render.enlargement(shown[0], largest)).round().astype(int)).tolist()
    return render.resize(pixels, (height, width), tuple(region))


class Painter:
    """Draws the pictures of explanations, each as a GIF for people, and as a WebP and a still for the pages.

    Args:
        source_videos: training videos by name, from which prototypes come.
        reader: of those videos.
        clip_size: (H, W) of the clips, in whose pixels boxes are given.
        n_jobs: threads; most time is spent in libraries that release the interpreter's lock.
    Attributes:
        missing: names of the training videos that could not be read.
    """

    def __init__(self, source_videos: Mapping[str, Video], reader: Reader, clip_size: tuple[int, int], *,
                 n_jobs: int = 4) -> None:
        self.source_videos, self.reader, self.clip_size, self.n_jobs = source_videos, reader, clip_size, n_jobs
        self.missing: set[str] = set()
        self._drawn: dict[int, dict[str, dict[str, bytes | render.Pixels]]] = {}
        self._voices: dict[int, dict[str, bytes]] = {}  # pictures of training videos, by prototype

    def paint(self, folder: Path, pixels: render.Pixels, seconds: render.Seconds, levels: Sequence[LevelMatch]) -> None:
        """Draw all pictures of one video: the clip, each level's map, and box, heat, source, patch and card of
        each prototype.

        Args:
            folder: an existing one.
            pixels: (T, H', W', 3), the region that the clip shows.
            seconds: of each frame.
        """
        with naming(folder / PARTS):
            (folder / PARTS).mkdir(exist_ok=True)
        matches = [(level.level, rank, match) for level in levels for rank, match in enumerate(level.matches, 1)]
        sources = {match.prototype: match.source for _, _, match in matches if match.source is not None}

        def paint_level(level: LevelMatch) -> None:
            heated = render.overlay(pixels, level.heat)
            hottest = int(level.heat.amax((1, 2)).argmax())
            self._save(folder, f"level{level.level}", _encode(heated, seconds, hottest))
            sheet = render.webp(render.contact_sheet(heated))
            write_bytes(folder / PARTS / f"level{level.level}_sheet.webp", sheet)

        def paint_match(level: int, rank: int, match: Match) -> None:
            pictures = {kind: _encode(shown, seconds, match.peak[0])
                        for kind, shown in self._here(pixels, match).items()} | self._drawn.get(match.prototype, {})
            for kind, picture in pictures.items():
                self._save(folder, picture_name(level, rank, kind), picture)
            card = render.side_by_side([pixels, *(picture["pixels"] for picture in pictures.values())])
            write_bytes(folder / f"{picture_name(level, rank, 'card')}.gif", render.gif(card, seconds))

        with ThreadPoolExecutor(self.n_jobs) as pool:
            new = [prototype for prototype in sources if prototype not in self._drawn]
            self._drawn |= zip(new, pool.map(self._draw_source, [sources[prototype] for prototype in new]), strict=True)
            todo = [pool.submit(paint_level, level) for level in levels]
            todo += [pool.submit(paint_match, *match) for match in matches]
            self._save(folder, "clip", _encode(pixels, seconds, levels[0].matches[0].peak[0]))
            for part in todo:
                part.result()
        for prototype in list(self._drawn)[:max(0, len(self._drawn) - CACHED_SOURCES)]:
            del self._drawn[prototype]

    def paint_voices(self, folder: Path, pixels: render.Pixels, voices: Sequence[Voice],
                     sources: Mapping[int, Source | None]) -> None:
        """Draw the prototypes of contrasts: a still of the clip at the peak, and of the training video a still and a
        moving picture, each with its box.

        Args:
            folder, pixels: as in `paint`, which is called first.
            sources: by prototype.
        """
        for voice in voices:
            at = min(voice.peak[0], len(pixels) - 1)
            still = render.draw_box(self._small(pixels[at:at + 1]), (0, *voice.box[1:3], 1, *voice.box[4:]),
                                    self.clip_size)
            if voice.prototype not in self._voices:
                self._voices[voice.prototype] = self._draw_voice(sources[voice.prototype])
            for kind, data in {"here": render.webp(still), **self._voices[voice.prototype]}.items():
                write_bytes(folder / PARTS / f"{voice_name(voice.prototype, kind)}.webp", data)

    @staticmethod
    def _small(pixels: render.Pixels) -> render.Pixels:
        """As high as the pictures of a contrast."""
        _, height, width, _ = pixels.shape
        return render.resize(pixels, (VOICE_HEIGHT, max(1, round(width * VOICE_HEIGHT / height))))

    def _draw_voice(self, source: Source | None) -> dict[str, bytes]:
        """A prototype's training video with its box; empty where there is none, or it cannot be read."""
        if source is None:
            return {}
        try:
            video = self.source_videos[source.video]
            pixels = self._small(read_region(self.reader, video.path, source.frames, source.crop, VOICE_HEIGHT))
            seconds = render.seconds_per_frame(source.frames, self.reader.times(video.path))
        except (KeyError, OSError, ValueError):
            self.missing.add(source.video)
            return {}
        boxed, at = render.draw_box(pixels, source.clip_box, self.clip_size), source.peak_frame
        return {"source": render.webp(boxed[at:at + 1]), "moving": render.webp(boxed, seconds)}

    @staticmethod
    def _save(folder: Path, name: str, picture: dict[str, bytes | render.Pixels]) -> None:
        write_bytes(folder / f"{name}.gif", picture["gif"])
        write_bytes(folder / PARTS / f"{name}.webp", picture["webp"])
        write_bytes(folder / PARTS / f"{name}_still.webp", picture["still"])

    def stills(self, pixels: render.Pixels, match: Match) -> dict[str, render.Pixels]:
        """The frames (1, H', W', 3) that stand for the pictures of a prototype: "box" and "heat" at its peak, "source"
        and "patch" of its training video; without these two where none can be read."""
        stills = {kind: shown[match.peak[0]:][:1] for kind, shown in self._here(pixels, match).items()}
        there = None if match.source is None else self._there(match.source)
        if there is not None:
            at = match.source.peak_frame
            stills |= {"source": there[0][at:at + 1], "patch": there[1][at - match.source.clip_box[0]:][:1]}
        return stills

    def _here(self, pixels: render.Pixels, match: Match) -> dict[str, render.Pixels]:
        """The clip with a prototype's box, and with its heat."""
        heat = match.heat if match.by_similarity else drawn(match.heat)
        return {"box": render.draw_box(pixels, match.box, self.clip_size), "heat": render.overlay(pixels, heat)}

    def _there(self, source: Source) -> tuple[render.Pixels, render.Pixels, render.Seconds] | None:
        """The training video with the prototype's box, the patch, and the seconds of the frames; None where the video
        cannot be read."""
        try:
            video = self.source_videos[source.video]
            pixels = read_region(self.reader, video.path, source.frames, source.crop)
            seconds = render.seconds_per_frame(source.frames, self.reader.times(video.path))
        except (KeyError, OSError, ValueError):
            self.missing.add(source.video)
            return None
        patch = render.readable(render.crop_box(pixels, source.clip_box, self.clip_size))
        return render.draw_box(pixels, source.clip_box, self.clip_size), patch, seconds

    def _draw_source(self, source: Source) -> dict[str, dict[str, bytes | render.Pixels]]:
        """The training video with the prototype's box, and the patch; empty where the video cannot be read."""
        there = self._there(source)
        if there is None:
            return {}
        boxed, patch, seconds = there
        return {"source": _encode(boxed, seconds, source.peak_frame),
                "patch": _encode(patch, render.part_of(seconds, source.clip_box[0], source.clip_box[3]),
                                 source.peak_frame - source.clip_box[0])}


def _encode(pixels: render.Pixels, seconds: render.Seconds, still: int) -> dict[str, bytes | render.Pixels]:
    """A picture with its encoded files; `still` is the index of the frame that replaces it where motion is off."""
    return {"pixels": pixels, "gif": render.gif(pixels, seconds), "webp": render.webp(pixels, seconds),
            "still": render.webp(pixels[still:still + 1])}


def prototype_pictures(record: PushRecordLike, hierarchy: Hierarchy, node_of: Tensor, *, videos: Mapping[str, Video],
                       reader: Reader, out: Path, n_jobs: int = 1, progress: bool = False) -> list[str]:
    """Draw every matched prototype from the push record alone, without the model.

    Writes two files for each: `<prototype>_<node>.gif`, its source clip with heat and box, and
    `<prototype>_<node>_patch.png`, its patch at its peak.

    Args:
        record: see training/push.py.
        node_of: (P,) int64.
        videos: training videos by name. reader: of these videos.
        out: the folder, which is created.
        n_jobs: threads.
    Returns:
        the names of videos that could not be read, whose prototypes have no picture.
    """
    check_writable(out)
    sweep(out)

    def draw(prototype: int) -> str | None:
        source = source_of(record, prototype)
        try:
            video = videos[source.video]
            pixels = read_region(reader, video.path, source.frames, source.crop, PROTOTYPE_HEIGHT)
            seconds = render.seconds_per_frame(source.frames, reader.times(video.path))
        except (KeyError, OSError, ValueError):
            return source.video
        name = f"{prototype:04d}_{file_name(hierarchy.names[int(node_of[prototype])])}"
        heat = record.heat(prototype)
        heated = render.draw_box(render.overlay(pixels, heat), source.clip_box, tuple(heat.shape[1:]))
        write_bytes(out / f"{name}.gif", render.gif(heated, seconds))
        patch = render.readable(render.crop_box(pixels, source.clip_box, tuple(heat.shape[1:])))
        write_bytes(out / f"{name}_patch.png", render.png(patch[source.peak_frame - source.clip_box[0]:]))
        return None

    matched = [p for p, video in enumerate(record.video) if video is not None]
    with ThreadPoolExecutor(max(1, n_jobs)) as pool:
        drawn = tqdm(pool.map(draw, matched), desc="pictures", total=len(matched), disable=not progress, leave=False)
        return sorted({video for video in drawn if video is not None})


def patch_sheet(folder: Path, prototypes: Sequence[int], height: int = 96) -> np.ndarray | None:
    """The patches that `prototype_pictures` drew into a folder, side by side.

    Args:
        prototypes: their numbers, in order. height: of the sheet, in pixels.
    Returns:
        (height, W, 3) uint8, or None where none was drawn.
    """
    files = [file for p in prototypes for file in folder.glob(f"{p:04d}_*_patch.png")]
    pictures = []
    for file in files:
        with Image.open(file) as image:
            width = max(1, round(image.width * height / image.height))
            pictures.append(np.asarray(image.convert("RGB").resize((width, height))))
    return np.concatenate(pictures, 1) if pictures else None

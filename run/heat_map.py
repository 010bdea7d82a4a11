"""Heat of a video by an attribution method, as an object: where it is hottest, measures, files and a page."""

import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from attribution import METHODS
from explain.attribution import Attribution, Question, Subject, Window
from explain.attribution_files import SHOWN, Writer, hottest, likeliest
from explain.cells import heat_cell
from explain.names import file_name
from explain.pages import percent
from explain.pictures import read_region
from models.geometry import smoothed
from run.measuring import Measuring, measured_heat


class HeatMap:
    """What an attribution method tells of a video; a notebook shows it in short.

    Attributes:
        method: its name. target: what is explained, in words. video: its name. heat: (T, H, W) over the clip. frames:
            (T,) of the clip in the video. window: the same half-open. predictions: most probable classes of the video.
        probability: of the target in the window; of a prototype None. peak: frame, y, x, and box: t0, y0, x0, t1, y1,
            x1, half-open, of the heat in the video's own frames and pixels; None where the map is flat.

    Args:
        notes: on the method's options, for pages. leaf: the class that is explained, or whose ancestor is.
        measuring: the heat.
    """

    def __init__(self, subject: Subject, question: Question, window: Window, attribution: Attribution, *, method: str,
                 notes: Sequence[str], leaf: int, measuring: Measuring) -> None:
        self._subject, self._question, self._window, self._attribution = subject, question, window, attribution
        self._notes, self._leaf, self._measuring = list(notes), leaf, measuring
        self.method, self.target, self.video = method, window.title, window.video.name
        self.heat, self.frames = attribution.heat.detach().float().cpu(), window.frames
        self.window = int(window.frames.min()), int(window.frames.max()) + 1
        self.predictions = likeliest(subject, window.probs, SHOWN)
        self.probability = None if question.prototype is not None else float(window.log_probs[window.target].exp())
        self.peak: list[int] | None = None
        self.box: list[int] | None = None
        if self.heat.amax() > self.heat.amin():
            *_, self.peak, self.box = hottest(window, smoothed(self.heat) if METHODS[method].voxelwise else self.heat)

    def __repr__(self) -> str:
        of = "" if self.probability is None else f" ({percent(self.probability)} in this window)"
        return f"<HeatMap of {self.video}: {self.method} for {self.target}{of}, hottest at {self.peak}>"

    def _repr_html_(self) -> str:
        window = self._window
        pixels = read_region(window.clips.reader, window.video.path, window.frames, window.crop)
        note = "an empty map: all alike" if self.peak is None else f"hottest in frame {self.peak[0]}"
        return heat_cell(pixels, self.heat, title=f"{self.method} for {self.target}",
                         note="; ".join([self.video, note, *self._notes]),
                         voxelwise=METHODS[self.method].voxelwise, predictions=self.predictions)

    def measure(self, *measures: str, truth: str | Path | None = None, **settings: object) -> pd.DataFrame:
        """How good this very heat is, beside random heat.

        Args:
            measures: of evaluation.measures.MEASURES that need heat, a box or the event (default: insertion and
                deletion). truth, settings: as of `Explanation.measure`.
        Returns:
            a row for the method and one for random heat, a column for each measure.
        Raises:
            ValueError: for a measure that there is not, or that needs more; for heat of a prototype, or of a contrast,
                which measures do not know.
        """
        if self._question.prototype is not None or self._question.against:
            raise ValueError("measures are of the probability of a node; attribute to a class or its ancestor, without "
                             "prototype and against")
        return measured_heat(self._measuring, measures, self.heat, method=self.method, level=self._question.level,
                             item=self._window.clips[self._window.item], leaf=self._leaf, truth=truth,
                             settings=settings)

    def save(self, folder: str | Path) -> Path:
        """Write the files and the page that local_attribution.py writes, into a folder.

        Returns:
            the page.
        """
        out = Path(folder).expanduser().resolve()
        out.mkdir(parents=True, exist_ok=True)
        writer = Writer(self._subject, self._question, self._window.clips.reader, out=out, label="",
                        notes={self.method: self._notes}, tubes="layers")
        outcome = writer.method(self.method, self._window, file_name(self.video), self._attribution)
        writer.write_page([self._window], [self.video], [writer.clip(self._window)], [{self.method: outcome}])
        return writer.page

    def show(self) -> Path:
        """Write the page to a new temporary folder, and open it in the browser.

        Returns:
            the page.
        """
        page = self.save(tempfile.mkdtemp(prefix="hipe_"))
        webbrowser.open(page.as_uri())
        return page

"""Rows: what was measured, stored beside the checkpoint so that a call goes on where an earlier one stopped."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.video import VideoClips
from evaluation.measures import editions
from judging.judge import Judge, Key, Load, Settings, method_edition
from judging.scenes import DISTURBANCES, Truth
from machine.processes import process_pool
from machine.writing import append_line, write_text

# The measures of files that have one edition for the whole table; those added since begin at edition 1.
OF_ONE_EDITION = (
    "insertion", "deletion", "box_only", "box_hidden", "activation_box_only", "activation_box_hidden",
    "box_volume", "pointing", "pointing_strict", "pointing_space", "pointing_time", "energy", "energy_space",
    "energy_time", "stable_noise", "stable_jpeg", "stable_jitter", "set_size", "own_evidence",
    "ancestors_evidence", "descendants_evidence", "elsewhere_evidence", "total_evidence", "off_path",
    "own_needed", "silenced", "silenced_needed", "silenced_three", "flips", "flips_three", "similarity",
    "closer_than", "typical", "nearest_own", "same_way", "purity", "duplicates", "sharing", "consistency",
    "consistent", "self_similarity", "on_event", "ways_covered")
# settings of files that lack them: the mean, no options, heat as methods give it, and all windows
BEFORE = {"window_power": 1.0, "options": "", "smooth": False, "windows": ""}


def _stored(settings: dict, table: str) -> tuple[dict, dict[str, int]]:
    """What a file says of its settings, and the edition of every measure in it.

    Files from before the measures had editions have one for the whole table.
    """
    settings = BEFORE | settings
    if "edition" in settings:
        names = [name for name in editions(table) if name in OF_ONE_EDITION]
        return settings, dict.fromkeys(names, settings.pop("edition"))
    return settings, settings.pop("editions")


class Rows:
    """rows.jsonl: a line of settings, and below it a line for each video, explanation and level.

    Where measures were added or changed since, or others are asked for, another line of settings follows with their
    editions, and below it lines that hold these measures alone.

    Args:
        measures: that are asked for, None for all.
    Raises:
        ValueError: where the file holds numbers of other settings, or something else.
    """

    def __init__(self, path: Path, settings: Settings, overwrite: bool, measures: Sequence[str] | None = None) -> None:
        self.path, self.settings = path, settings
        self.editions = {name: edition for name, edition in editions("explanations").items()
                         if measures is None or name in measures}
        self._rows: dict[Key, dict] = {}
        self._editions: dict[Key, dict[str, int]] = {}  # of the measures in each row
        lines = [] if overwrite or not path.is_file() else path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]  # a killed call may have left half a line
        stored, differing, known = {}, None, None
        try:
            for line in map(json.loads, whole):
                if "settings" in line:
                    stored, known = _stored(line["settings"], "explanations")
                    differing = differing or next(
                        ((name, stored.get(name), value) for name, value in vars(settings).items()
                         if stored.get(name) != value), None)
                else:
                    self._take(line, dict(known))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not what this script writes ({error}); --overwrite measures afresh") from error
        if differing:
            name, before, now = differing
            raise ValueError(f"{path}: measured with another {name} ({before}, not {now}); --overwrite measures "
                             "afresh, --out writes elsewhere")
        if known != self.editions:
            whole.append(json.dumps({"settings": settings.stored() | {"editions": self.editions}}) + "\n")
        write_text(path, "".join(whole), durable=True)

    def _take(self, row: dict, known: dict[str, int]) -> None:
        """Read a row whose measures are of the editions `known`; it adds to an earlier row of the same explanation.

        One by another edition of an attribution method is passed over.
        """
        if row.get("method", 1) != method_edition(row["explanation"]):
            return
        key = (row["video"], row["explanation"], row["level"])
        earlier, before = self._rows.get(key, {"measures": {}}), self._editions.get(key, {})
        same = {name: value for name, value in earlier["measures"].items()
                if before[name] == known.get(name, before[name])}
        self._rows[key], self._editions[key] = {**row, "measures": same | row["measures"]}, before | known

    @property
    def rows(self) -> list[dict]:
        """A row for each video, explanation and level, with the measures whose editions are those of today."""
        return [{**row, "measures": {name: value for name, value in row["measures"].items()
                                     if self._editions[key].get(name) == self.editions.get(name)}}
                for key, row in self._rows.items()]

    def missing(self, key: Key) -> list[str]:
        """The measures to apply to an explanation: new ones, changed ones, or all."""
        known = self._editions.get(key, {})
        return [name for name, edition in self.editions.items() if known.get(name) != edition]

    def measure(self, load: Load, clips: VideoClips, truth: Truth, device: torch.device,
                wanted: Sequence[tuple[str, int]], *, n_threads: int, batch_size: int, progress: bool) -> None:
        """Measure what is wanted and missing, and append it to the file as it comes.

        Args:
            load, clips, truth, device: as of a `Judge`. wanted: explanations and levels. n_threads: processes that
                share the videos, none but this one below 2. batch_size: videos at a time.
        """
        todo: dict[int, dict[Key, list[str]]] = {}
        for v, video in enumerate(clips.videos):
            asked = {(video.name, *one): names for one in wanted if (names := self.missing((video.name, *one)))}
            if asked:
                todo[v] = asked
        videos = list(todo)
        jobs = [(some, {key: names for v in some for key, names in todo[v].items()})
                for some in (videos[i:i + batch_size] for i in range(0, len(videos), batch_size))]
        bar = tqdm(total=len(videos), desc="explanations", unit="video", disable=not progress or not jobs)
        for (some, _), rows in zip(jobs, _rows_of((self.settings, load, clips, truth, device), jobs, n_threads),
                                   strict=True):
            for row in rows:
                self._take(row, self.editions)
                append_line(self.path, json.dumps(row))
            bar.update(len(some))
        bar.close()


_judge: Judge | None = None  # of a worker process


def _begin(*made_of: object) -> None:
    global _judge
    torch.set_num_threads(1)
    _judge = Judge(*made_of)


def _work(job: tuple) -> list[dict]:
    return list(_judge.rows(*job))


def _rows_of(made_of: tuple, jobs: Sequence[tuple], n_threads: int) -> Iterator[Iterable[dict]]:
    """The rows of every job, by a judge in this process as they are taken, or in several as jobs are done."""
    if n_threads < 2:
        judge = Judge(*made_of)
        yield from (judge.rows(*job) for job in jobs)
        return
    with process_pool(n_threads, get_context("spawn"), _begin, *made_of) as pool:
        try:
            yield from (done.result() for done in as_completed([pool.submit(_work, job) for job in jobs]))
        finally:  # after an error or Ctrl-C no further job is begun
            pool.shutdown(cancel_futures=True)


def stored_prototypes(path: Path, settings: Settings, subset: str, overwrite: bool,
                      measure: Callable[[], list[dict]]) -> list[dict]:
    """The rows of the prototypes as such: those of prototypes.json, measured where they are of other settings.

    Args:
        path: of prototypes.json. subset: of the videos that were not trained on. measure: makes the rows.
    Raises:
        ValueError: where the file is something else.
    """
    wanted = {"digest": settings.digest, "seed": settings.seed, "truth": settings.truth, "subset": subset,
              "disturbances": list(DISTURBANCES)}
    rows = None
    if path.is_file() and not overwrite:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            stored, known = _stored(content["settings"], "prototypes")
            if all(stored.get(name) == value for name, value in wanted.items()) and known == editions("prototypes"):
                rows = content["rows"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not what this script writes ({error}); --overwrite measures afresh") from error
    if rows is None:
        rows = measure()
        content = {"settings": wanted | {"editions": editions("prototypes")}, "rows": rows}
        write_text(path, json.dumps(content), durable=True)
    return rows

"""The questions of a study, drawn from explained videos, their answers in a key, and the pages that ask them."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from explain import pages, render
from explain.names import PARTS, picture_name, voice_name
from explain.results_folder import read_json
from explain.study.clips import Moving
from machine.writing import check_writable, write_text

AGREEMENT, DISTINCTION = "agreement", "distinction"
TASKS = (AGREEMENT, DISTINCTION)
RATINGS = ("1", "2", "3", "4")
OPTIONS = 4  # explanations in a question of distinction
KEY = "key.json"
TEXT = {
    AGREEMENT: {"title": "How alike are they?", "question": "How alike are the two marked parts?",
                "choices": ["not alike", "somewhat alike", "alike", "very much alike"]},
    DISTINCTION: {"title": "Which explanation is right?", "question": "Which explanation is right?", "choices": []}}


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """How a study is made.

    Args:
        n_questions: that a participant answers, checks not counted, fewer where the pool is smaller.
        pool: questions on a page at most, from which those of a participant are drawn.
        checks: attention checks a participant.
        seed: of the pool, and with the participant of the questions and their order.
    """

    n_questions: int = 20
    pool: int = 40
    checks: int = 2
    seed: int = 1


@dataclass
class Study:
    """The questions of both tasks, as pages show them, and the key, which is not for participants.

    questions: by task, entries as in the pages' data. pictures: by name, as in `Moving.encoded`.
    """

    id: str
    settings: StudySettings
    questions: dict[str, list[dict]] = field(default_factory=lambda: {task: [] for task in TASKS})
    pictures: dict[str, dict[str, str]] = field(default_factory=dict)
    key: dict[str, dict[str, dict]] = field(default_factory=lambda: {task: {} for task in TASKS})

    def write(self, out: Path) -> list[Path]:
        """Write the pages of tasks that have questions, and key.json."""
        check_writable(out)
        written = []
        for task in TASKS:
            page = out / f"{task}.html"
            if not self.questions[task]:
                page.unlink(missing_ok=True)
                continue
            settings = self.settings
            data = {"study": self.id, "task": task, "seed": settings.seed, "n": settings.n_questions,
                    "checks": settings.checks, "questions": self.questions[task], "choices": TEXT[task]["choices"],
                    "pictures": {name: self.pictures[name] for name in _named(self.questions[task])}}
            text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
            pages.write_template(page, "study.html", task=task, text=TEXT[task], data=text,
                                 n=min(settings.n_questions, sum(not one["check"] for one in self.questions[task]))
                                 + sum(one["check"] for one in self.questions[task]))
            written.append(page)
        content = {"study": self.id, "seed": self.settings.seed, "n_questions": self.settings.n_questions,
                   "checks": self.settings.checks, **self.key}
        write_text(out / KEY, json.dumps(content, indent=1) + "\n")
        return written


def _named(questions: Sequence[dict]) -> list[str]:
    """The names of all pictures of some questions."""
    shown = [part for question in questions for part in (question.get("clip"), *question["parts"]) if part]
    return list(dict.fromkeys(name for part in shown for name in (part if isinstance(part, list) else [part])))


def read_explained(folders: Sequence[Path]) -> list[tuple[Path, dict]]:
    """The folder and content of every explanation that has pictures.

    Raises:
        ValueError: for a folder without any, or one of an earlier version.
    """
    found = []
    for folder in folders:
        files = sorted(folder.glob(f"*/{pages.EXPLANATION}"))
        if not files:
            raise ValueError(f"{folder}: holds no explained videos; give a folder that local_analysis.py writes")
        own = [(file.parent, read_json(file)) for file in files if (file.parent / PARTS / "clip.webp").is_file()]
        if not own:
            raise ValueError(f"{folder}: its videos were explained without pictures; run local_analysis.py again "
                             "without --no_img")
        try:
            old = [place for place, content in own if any("contrast" not in level for level in content["levels"])]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder}: holds an explanation.json of another form ({error!r}); run local_analysis.py "
                             "again") from error
        if old:
            raise ValueError(f"{old[0]}: explained by an earlier version; run local_analysis.py again")
        found += own
    models = {content.get("model") for _, content in found}
    if len(models) > 1:
        raise ValueError(f"{folders[0]}: explanations of {len(models)} models lie there; run local_analysis.py again, "
                         "or give folders of one model")
    return found


class _Maker:
    """Draws questions, and names pictures and questions by numbers that tell nothing."""

    def __init__(self, explained: Sequence[tuple[Path, dict]], settings: StudySettings) -> None:
        self.settings, self.explained = settings, explained
        self.rng = np.random.default_rng(settings.seed)
        names = sorted(f"{content['video']} {level['level']}" for _, content in explained
                       for level in content["levels"])
        text = json.dumps([settings.seed, settings.n_questions, settings.pool, settings.checks, names,
                           sorted({str(content.get("model")) for _, content in explained})])
        self.study = Study(hashlib.sha256(text.encode()).hexdigest()[:8], settings)
        self._names: dict[object, str] = {}

    def name(self) -> str:
        """Eight hexadecimal digits."""
        return self.rng.bytes(4).hex()

    def picture(self, what: object, make: Callable[[], tuple[Moving, render.Pixels]]) -> str:
        """The name of a picture, which is made once; `what` is equal where the picture is."""
        if what not in self._names:
            self._names[what] = self.name()
            moving, still = make()
            self.study.pictures[self._names[what]] = moving.encoded(still)
        return self._names[what]

    def clip(self, folder: Path) -> Moving:
        return Moving.read(folder / PARTS / "clip.webp")

    def file(self, folder: Path, name: str, still: str, same: object = None) -> str:
        """A picture of a folder and its still; `same` is equal for pictures that are the same in several folders."""
        moving, other = (folder / PARTS / f"{one}.webp" for one in (name, still))
        return self.picture(same or moving, lambda: (Moving.read(moving), Moving.read(other).frame(0)))

    def here(self, folder: Path, content: dict, box: Sequence[int], *, cut: bool = False) -> str:
        """The clip of a video with a box, or what is in the box."""
        def make() -> tuple[Moving, render.Pixels]:
            clip = self.clip(folder)
            place = clip.place(box, content["window"], content["crop"])
            shown = clip.cut(place) if cut else clip.boxed(place)
            return shown, shown.frame((place[3] - place[0]) // 2 + (0 if cut else place[0]))
        return self.picture((folder, tuple(box), cut), make)

    def spread(self, candidates: Sequence, level_of: Callable[[object], int],
               video_of: Callable[[object], str]) -> list:
        """As many as the pool takes: levels in turn, and of each level video after video."""
        order = self.rng.permutation(len(candidates)).tolist()
        seen: dict[tuple[int, str], int] = {}
        turn: dict[tuple[int, int], int] = {}
        ranked = []
        for i in order:
            level, video = level_of(candidates[i]), video_of(candidates[i])
            again = seen[level, video] = seen.get((level, video), -1) + 1  # how often the video was drawn before
            place = turn[level, again] = turn.get((level, again), -1) + 1
            ranked.append(((again, place, level), i))
        return [candidates[i] for _, i in sorted(ranked)[:self.settings.pool]]

    # --- agreement

    def agreement(self) -> None:
        """Pairs of a part of a video and the prototype that it is said to be like."""
        candidates = [(folder, content, level, rank, entry) for folder, content in self.explained
                      for level in content["levels"] for rank, entry in enumerate(level["prototypes"], 1)
                      if self._pictured(folder, level["level"], rank)]
        chosen = self.spread(candidates, lambda one: one[2]["level"], lambda one: one[1]["video"])
        for folder, content, level, rank, entry in chosen:
            box = picture_name(level["level"], rank, "box")
            left = [self.file(folder, box, f"{box}_still"),
                    self.here(folder, content, entry["box"], cut=True)]
            self._ask(AGREEMENT, {"parts": [left, self._source(folder, level["level"], rank, entry)],
                                  "level": level["level"]},
                      {"video": content["video"], "level": level["level"], "node": level["node"], "rank": rank,
                       "prototype": entry["prototype"], "similarity": entry["similarity"], "right": _right(content)})
        for i in range(min(self.settings.checks, len(chosen))):
            folder, content, level, rank, entry = chosen[-1 - i]
            same = self._source(folder, level["level"], rank, entry)
            if i % 2:
                wanted = RATINGS[int(self.rng.integers(len(RATINGS)))]
                self._check(AGREEMENT, {"parts": [same, same], "prompt": "This question only checks that you read it: "
                                        f"answer {wanted}, whatever you see."}, [wanted])
            else:
                self._check(AGREEMENT, {"parts": [same, same]}, list(RATINGS[2:]))

    @staticmethod
    def _pictured(folder: Path, level: int, rank: int) -> bool:
        return all((folder / PARTS / f"{picture_name(level, rank, kind)}.webp").is_file()
                   for kind in ("box", "source", "patch"))

    def _source(self, folder: Path, level: int, rank: int, entry: dict) -> list[str]:
        names = {kind: picture_name(level, rank, kind) for kind in ("source", "patch")}
        return [self.file(folder, name, f"{name}_still", (entry["prototype"], kind)) for kind, name in names.items()]

    # --- distinction

    def distinction(self) -> None:
        """Four explanations of a video, one of them of the right answer."""
        candidates = [one for one in (self._candidate(folder, content, level) for folder, content in self.explained
                                      for level in content["levels"]) if one is not None]
        chosen = self.spread(candidates, lambda one: one["level"], lambda one: one["content"]["video"])
        for one in chosen:
            self._distinguish(one, {})
        for i in range(min(self.settings.checks, len(chosen))):
            self._distinguish(chosen[-1 - i], {"ordered": bool(i % 2), "identical": not i % 2})

    def _candidate(self, folder: Path, content: dict, level: dict) -> dict | None:
        """The nodes between which a level can be asked about, and their loudest prototypes; None where they are few."""
        truth = content["truth"]
        if level["level"] > 0:  # the names of the true ancestors are known where they are the predicted ones
            truth = level["node"] if _right(content) else None
        voices = {rival["node"]: _loudest(rival, rival["node"], folder) for rival in level["contrast"]}
        for rival in level["contrast"][:1]:
            voices = {level["node"]: _loudest(rival, level["node"], folder), **voices}
        voices = {node: voice for node, voice in voices.items() if voice is not None}
        if truth not in voices or len(voices) < OPTIONS:
            return None
        nodes = list(dict.fromkeys([truth, *(node for node in [level["node"]] if node in voices), *voices]))[:OPTIONS]
        return {"folder": folder, "content": content, "level": level["level"], "truth": truth,
                "predicted": level["node"], "voices": {node: voices[node] for node in nodes}}

    def _distinguish(self, one: dict, check: Mapping[str, bool]) -> None:
        folder, content, names, parts = one["folder"], one["content"], {}, {}
        for node, voice in one["voices"].items():
            names[node] = self.name()
            here = there = self.here(folder, content, voice["box"])
            if not (check.get("identical") and node == one["truth"]):
                moving, still = (voice_name(voice["prototype"], kind) for kind in ("moving", "source"))
                there = self.file(folder, moving, still, ("voice", voice["prototype"]))
            parts[names[node]] = [here, there]
        order = [list(parts)[i] for i in self.rng.permutation(len(parts))]
        clip = self.file(folder, "clip", "clip_still")
        shown = {"clip": clip, "parts": [parts[name] for name in order], "options": order}
        if check.get("identical"):
            self._check(DISTINCTION, shown, [names[one["truth"]]], order)
        elif check:
            prompt = ("This question only checks that you pay attention: choose the option that stands last, whatever "
                      "you see.")
            self._check(DISTINCTION, shown | {"prompt": prompt, "fixed": 1}, order[-1:], order)
        else:
            self._ask(DISTINCTION, shown | {"level": one["level"]},
                      {"video": content["video"], "level": one["level"], "right": _right(content),
                       "options": {names[node]: node for node in one["voices"]}, "answer": names[one["truth"]],
                       "predicted": names.get(one["predicted"])})

    def _ask(self, task: str, shown: dict, known: dict) -> None:
        name = self.name()
        self.study.questions[task].append({"id": name, "check": 0, **shown})
        self.study.key[task][name] = known

    def _check(self, task: str, shown: dict, accepted: list[str], options: Sequence[str] = ()) -> None:
        name = self.name()
        self.study.questions[task].append({"id": name, "check": 1, "level": 0, **shown})
        self.study.key[task][name] = {"check": accepted, **({"options": list(options)} if options else {})}


def _right(content: dict) -> bool | None:
    """Whether the predicted class is right; None where the truth is not known."""
    return None if content["truth"] is None else content["truth"] == content["prediction"][0]


def _loudest(rival: dict, node: str, folder: Path) -> dict | None:
    """A node's own prototype that says most in a contrast, where its training video was drawn."""
    own = [voice for voice in rival["prototypes"] if voice["node"] == node
           and (folder / PARTS / f"{voice_name(voice['prototype'], 'moving')}.webp").is_file()]
    return max(own, key=lambda voice: (abs(voice["nats"]), voice["similarity"]), default=None)


def make_study(folders: Sequence[Path], settings: StudySettings) -> Study:
    """The questions of both tasks, from folders of explained videos.

    Args:
        folders: as local_analysis.py and local_analysis_parents.py write them.
    Raises:
        ValueError: where nothing can be asked, or a folder is no such folder.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    maker = _Maker(read_explained(folders), settings)
    maker.agreement()
    maker.distinction()
    if not any(maker.study.questions.values()):
        raise ValueError(f"{folders[0]}: no prototype on its pages comes from a training video that could be shown, so "
                         "nothing can be asked; explain with a checkpoint after a push")
    return maker.study

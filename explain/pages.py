"""The pages of explained videos: self-contained HTML from explanation.json and picture files."""

import base64
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from explain import what_if, wording
from explain.names import PARTS, picture_name, voice_name
from machine.writing import sweep, write_text

EXPLANATION, PAGE, STORY = "explanation.json", "index.html", "story.html"
NARROW = wording.NARROW
SAME_WINDOW = ("model", "video", "window", "prediction")  # equal in two explanations of one window at different levels


def percent(probability: float) -> str:
    """A probability in percent: 97 %, 0.4 %, and never rounded to 100 % or 0 %."""
    value = 100 * probability
    if value < 0.1:
        text = "< 0.1 %"
    elif value >= 99.95:
        text = "> 99.9 %"
    else:
        text = f"{value:.1f} %" if value < 10 or 99 < value < 100 else f"{value:.0f} %"
    return text.replace(" ", NARROW)


def signed(value: float) -> str:
    """A number with its sign, +1.24 or −0.031, with the minus character."""
    if abs(value) < 0.0005:
        return "0"
    return (f"{value:+.2f}" if abs(value) >= 0.1 else f"{value:+.3f}").replace("-", "\N{MINUS SIGN}")


def when(seconds: list[float] | None, frames: list[int]) -> str:
    """A span of half-open frames, in seconds where the video's rate is known."""
    shown = f"frames{NARROW}{frames[0]}\N{EN DASH}{frames[1] - 1}"
    return shown if seconds is None else f"{seconds[0]:.2f}\N{EN DASH}{seconds[1]:.2f}{NARROW}s ({shown})"


def above(level: int) -> str:
    """The heading of a level of the tree."""
    words = ("Class", "One level above the class", "Two levels above the class", "Three levels above the class")
    return words[level] if level < len(words) else f"{level} levels above the class"


def _data_uri(path: Path) -> str | None:
    """A WebP file as a data URI; None where there is no file."""
    try:
        return f"data:image/webp;base64,{base64.b64encode(path.read_bytes()).decode()}"
    except FileNotFoundError:
        return None


def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "rate": wording.rate, "signed": signed, "above": above,
                            "share": wording.share, "judgement": wording.judgement,
                            "hangs_on_words": wording.hangs_on_words, "contrast_words": wording.contrast_words,
                            "tested": wording.tested, "sentences": wording.sentences, "unlike": wording.unlike,
                            "unseen": wording.unseen,
                            "closeness": wording.closeness, "typicality": wording.typicality,
                            "zip": lambda a, b: list(zip(a, b, strict=True)),
                            "base64": lambda data: base64.b64encode(data).decode()}
    environment.globals |= {"when": when, "narrow": NARROW, "picture_name": picture_name, "voice_name": voice_name,
                            "picture": lambda folder, name: _data_uri(folder / PARTS / f"{name}.webp")}
    return environment


_TEMPLATES = _environment()


def render_template(template: str, **values: object) -> str:
    """The text that a template of this package makes."""
    return _TEMPLATES.get_template(template).render(**values)


def write_template(target: Path, template: str, **values: object) -> None:
    """Write a page from a template of this package, atomically."""
    write_text(target, render_template(template, **values))


def address(target: Path, page: Path) -> str:
    """The address of a file relative to a page."""
    return quote(Path(os.path.relpath(target, page.parent)).as_posix())


def load(folder: Path | None) -> dict | None:
    """The explanation in a folder; None without its page, which is written last, or of an earlier version."""
    if folder is None or not (folder / PAGE).is_file():
        return None
    try:
        explanation = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return explanation if is_current(explanation) else None


def is_current(explanation: dict) -> bool:
    """Whether an explanation has all entries that pages show; those of earlier versions lack some."""
    return all("decision" in level for level in explanation["levels"])


def start_folder(folder: Path, explanation: dict) -> None:
    """Write a video's explanation.json; pictures and pages of a different explanation are removed."""
    for place in (folder, folder / PARTS):
        sweep(place)
    text = json.dumps(explanation, indent=1, allow_nan=False) + "\n"
    target = folder / EXPLANATION
    if target.is_file():  # else nothing in the folder is ours
        if target.read_text(encoding="utf-8") == text:
            return
        for old in (folder / PAGE, folder / STORY, folder / what_if.FILE, *folder.glob("*.gif")):
            old.unlink(missing_ok=True)
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    write_text(target, text)


def write_what_if(folder: Path, data: dict | None) -> None:
    """Write the data with which a video's pages compute probabilities; None removes the file."""
    if data is None:
        (folder / what_if.FILE).unlink(missing_ok=True)
    else:
        write_text(folder / what_if.FILE, json.dumps(data, allow_nan=False, separators=(",", ":")) + "\n")


def what_if_data(folder: Path) -> dict | None:
    """What the pages of a folder compute with: the data as text for a script, and node ids by name."""
    try:
        data = json.loads((folder / what_if.FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    text = json.dumps(what_if.in_columns(data), separators=(",", ":")).replace("<", "\\u003c")
    return {"data": text, "ids": {node["name"]: i for i, node in enumerate(data["nodes"])},
            "hyperbolic": data["formula"]["name"] == "tree_hyperbolic"}


def write_pages(folder: Path, beside: Path | None) -> None:
    """Write a video's index.html from its explanation.json and pictures.

    Where the folder `beside` explains the same window by the same model at other levels, the pages of both folders link
    to each other, and both folders get the story of all levels.
    """
    mine = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))
    theirs = load(beside)
    if theirs is None or any(mine[key] != theirs.get(key) for key in SAME_WINDOW):
        for place, its in ((folder, mine), (beside, theirs)):
            # the other page may link to earlier files of this folder
            if its is not None and (place == folder or (place / PAGE).is_file()):
                (place / STORY).unlink(missing_ok=True)
                _write_page(place, its, None, None)
        return
    for here, its, there, other in ((folder, mine, beside, theirs), (beside, theirs, folder, mine)):
        _write_page(here, its, there, other)
        _write_story(here, [(here, its), (there, other)])


def _write_page(folder: Path, explanation: dict, beside: Path | None, other: dict | None) -> None:
    page = folder / PAGE
    levels = sorted(explanation["levels"], key=lambda level: level["level"])
    links = {"overview": f"../{PAGE}"}
    if other is not None:
        links |= {"story": STORY, "other": address(beside / PAGE, page),
                  "other_levels": sorted(level["level"] for level in other["levels"])}
    write_text(page, _TEMPLATES.get_template("video.html").render(
        explanation=explanation, levels=[(folder, level) for level in levels], links=links, asked=what_if_data(folder)))


def _write_story(folder: Path, parts: Iterable[tuple[Path, dict]]) -> None:
    """Write the story: all levels from the top down, of the explanations of one window in several folders."""
    by_level = {level["level"]: (where, explanation, level) for where, explanation in parts
                for level in explanation["levels"]}
    ordered = [by_level[level] for level in sorted(by_level, reverse=True)]
    links = {"overview": f"../{PAGE}", "pages": [
        (level["level"], address(where / PAGE, folder / STORY)) for where, _, level in ordered]}
    write_text(folder / STORY, _TEMPLATES.get_template("story.html").render(
        explanation=ordered[0][1], levels=[(where, level) for where, _, level in ordered], links=links,
        asked=what_if_data(folder)))


def write_overviews(out: Path, beside: Path | None, model: str) -> None:
    """Write index.html of all explained videos, and that of the folder beside, so that both link to each other.

    Args:
        model: only explanations by this model are listed (see `explainer.fingerprint`).
    """
    folders = [folder for folder in (out, beside) if folder is not None and folder.is_dir()]
    entries = {folder: _entries(folder, model) for folder in folders}
    if beside in entries and not entries[beside] and (beside / PAGE).is_file():  # of another model
        entries[beside] = _entries(beside, None)
        folders.remove(beside)
    filled = [folder for folder in folders if entries[folder]]
    for folder in entries:
        others = [other for other in filled if other != folder] if folder in filled else []
        levels = [sorted({level["level"] for entry in entries[place] for level in entry["explanation"]["levels"]})
                  for place in (folder, *others)]
        links = {"other": address(others[0] / PAGE, folder / PAGE), "other_levels": levels[1]} if others else {}
        write_text(folder / PAGE, _TEMPLATES.get_template("overview.html").render(
            entries=entries[folder], levels=levels[0], links=links))


def _entries(out: Path, model: str | None) -> list[dict]:
    """The explanations in a folder that are of a model; None for the model of the first one."""
    entries = []
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        explanation = load(folder)
        model = model or (explanation or {}).get("model")
        if explanation is not None and explanation.get("model") == model:
            entries.append({"folder": folder, "explanation": explanation, "page": quote(f"{folder.name}/{PAGE}"),
                            "story": quote(f"{folder.name}/{STORY}") if (folder / STORY).is_file() else None})
    return entries

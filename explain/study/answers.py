"""The answers of a study's participants, read from CSV files and checked against the key, line by line."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from explain.results_folder import read_json
from explain.study.questions import RATINGS, TASKS

COLUMNS = ("study", "task", "participant", "position", "question", "answer", "seconds")


@dataclass(frozen=True)
class Answer:
    """A participant's answer, and what the key knows of the question.

    known: the question's entry in key.json, which has "check" (the accepted answers) where it is an attention check.
    """

    task: str
    participant: str
    question: str
    answer: str
    seconds: float
    known: dict


def read_key(path: Path) -> dict:
    """The content of key.json.

    Raises:
        FileNotFoundError: where there is none. ValueError: where it is no key.
    """
    key = read_json(path)
    if key is None:
        raise FileNotFoundError(f"{path}: no such file; give the key.json that was written with the pages as --key")
    if not isinstance(key, dict) or not {"study", "checks", *TASKS} <= key.keys() or not all(
            isinstance(key[task], dict) for task in TASKS):
        raise ValueError(f"{path}: not the key of a study; give the key.json that was written with the pages as --key")
    return key


def read_answers(paths: Sequence[Path], key: dict) -> list[Answer]:
    """All answers in CSV files, as the pages write them; columns may be separated by semicolons, as spreadsheets do.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: naming the file and the line of what is wrong.
    """
    answers, first = [], {}
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path}: no such file; check --score") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: no text ({error}); give the CSV that the page downloads") from error
        head = text.partition("\n")[0]
        rows = csv.reader(io.StringIO(text), delimiter=";" if head.count(";") > head.count(",") else ",")
        names = [name.strip().lower() for name in next(rows, [])]
        if missing := [name for name in COLUMNS if name not in names]:
            raise ValueError(f"{path}, line 1: no column {missing[0]}; give the CSV that the page downloads")
        for row in rows:
            if not any(field.strip() for field in row):
                continue
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(names):
                raise ValueError(f"{where}: {len(row)} fields in place of {len(names)}; mend the line or remove it")
            answer = _answer(dict(zip(names, map(str.strip, row), strict=True)), key, where)
            place = answer.task, answer.participant, answer.question
            if place in first:
                raise ValueError(f"{where}: participant {answer.participant} answers question {answer.question} again, "
                                 f"after {first[place]}; remove one of the two")
            first[place] = where
            answers.append(answer)
    if not answers:
        raise ValueError(f"{paths[0]}: holds no answer; give the CSV files that the pages download")
    return answers


def _answer(row: dict[str, str], key: dict, where: str) -> Answer:
    """One line, checked."""
    if row["study"] != key["study"]:
        raise ValueError(f"{where}: study {row['study']!r}, and the key is of {key['study']}; give the key.json of "
                         "those pages as --key")
    if row["task"] not in TASKS:
        raise ValueError(f"{where}: no task {row['task']!r}; it is {' or '.join(TASKS)}")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", row["participant"]):
        raise ValueError(f"{where}: participant {row['participant']!r}; use letters, digits, _ and -")
    known = key[row["task"]].get(row["question"])
    if known is None:
        raise ValueError(f"{where}: the key has no question {row['question']!r} of {row['task']}; mend the line or "
                         "remove it")
    allowed = RATINGS if row["task"] == TASKS[0] else tuple(known["options"])
    if row["answer"] not in allowed:
        raise ValueError(f"{where}: answer {row['answer']!r} is none of {', '.join(allowed)}; mend the line or remove "
                         "it")
    try:
        seconds = float(row["seconds"].replace(",", "."))
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{where}: seconds {row['seconds']!r} is no number of at least 0; mend the line or remove it")
    return Answer(row["task"], row["participant"], row["question"], row["answer"], seconds, known)

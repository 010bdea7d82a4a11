"""Reads the text, CSV and JSON files that people write, in any usual encoding and with any line ends."""

import codecs
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

# UTF-32's little-endian mark begins like UTF-16's
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
          (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
DELIMITERS = (",", ";", "\t")
MISSING = "no such file"


def _decoded(path: Path, missing: str, remedy: str) -> str:
    """The characters of a file without its mark.

    Raises:
        FileNotFoundError: with the words `missing`. ValueError: naming file and line, for what is no text.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: {missing}") from error
    mark, encoding = next(((mark, name) for mark, name in _MARKS if content.startswith(mark)), (b"", "utf-8"))
    try:
        text = content[len(mark):].decode(encoding)
    except UnicodeDecodeError as error:
        before = error.object[:error.start].decode(encoding, "replace")
        raise ValueError(f"{path}:{len(_lines_of(before))}: not text in {encoding.upper()} ({error.reason}); save it "
                         f"as UTF-8{_or(remedy)}") from error
    if "\0" in text:
        line = len(_lines_of(text[:text.index("\0")]))
        raise ValueError(f"{path}:{line}: holds zero bytes, as no text in UTF-8 does; save it as UTF-8{_or(remedy)}")
    return text


def _or(remedy: str) -> str:
    return f", or {remedy}" if remedy else ""


def _unix(text: str) -> str:
    """The same text with line ends of one kind, from those of Windows and of old Macs."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _lines_of(text: str) -> list[str]:
    return _unix(text).split("\n")  # str.splitlines would also split at form feeds, which a name may hold


def read_text(path: Path, *, missing: str = MISSING, remedy: str = "") -> str:
    """The content of a text file, whose lines end with `\\n`: UTF-8 with or without a mark, UTF-16 and UTF-32 with one.

    Args:
        missing: what to say of a file that is not there. remedy: what to do about one that is no text.
    Raises:
        FileNotFoundError, ValueError: naming the file, and the line of what is no text.
    """
    return _unix(_decoded(path, missing, remedy))


def read_lines(path: Path, *, missing: str = MISSING, remedy: str = "") -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1, without blanks at their ends.

    Args and raises: as `read_text`.
    """
    lines = read_text(path, missing=missing, remedy=remedy).split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def read_json(path: Path, *, missing: str = MISSING, remedy: str = "", expected: str = "JSON") -> object:
    """The content of a JSON file, in any encoding that `read_text` reads.

    Args:
        missing, remedy: as in `read_text`. expected: what the file should be.
    Raises:
        FileNotFoundError, ValueError: naming the file, and the line at which it is not JSON.
    """
    text = _decoded(path, missing, remedy)
    then = f"; {remedy}" if remedy else ""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line, column = len(_lines_of(text[:error.pos])), error.colno
        why = "the file is empty" if not text.strip() else f"{error.msg}, column {column}"
        raise ValueError(f"{path}:{line}: not {expected} ({why}){then}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise ValueError(f"{path}: not {expected} ({error}){then}") from error


def read_rows(path: Path, *, fits: Callable[[list[str]], bool] | None = None, missing: str = MISSING,
              remedy: str = "") -> list[tuple[int, list[str]]]:
    """The rows of a table that are not empty, with their line numbers; cells without blanks at their ends.

    Commas, semicolons or tabs separate the cells, whichever makes the first row one that `fits`.

    Args:
        fits: whether a first row is one of such a table; by default the separator is the one that makes most cells.
        missing, remedy: as in `read_text`.
    Raises:
        FileNotFoundError, ValueError: naming the file, and the line of what cannot be read.
    """
    text = read_text(path, missing=missing, remedy=remedy)
    first = next((line for line in text.split("\n") if line.strip(" \t,;")), "")
    heads = {mark: [cell.strip() for cell in next(csv.reader([first], delimiter=mark, skipinitialspace=True), [])]
             for mark in DELIMITERS}
    if fits is None:
        delimiter = max(DELIMITERS, key=lambda mark: len(heads[mark]))  # the first of those that make as many
    else:
        delimiter = next((mark for mark in DELIMITERS if fits(heads[mark])), ",")
    reader, rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True), []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not a line of a CSV file ({error}); correct it{_or(remedy)}") \
            from error
    return rows


def read_table(path: Path, columns: Sequence[str] | None = None, *, missing: str = MISSING,
               remedy: str = "") -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file by the names in its first row, or by the names of its columns where it has none.

    Args:
        columns: of a file without a row of names. missing, remedy: as in `read_text`.
    Returns:
        line number and cells by column, of every row that is not empty.
    Raises:
        FileNotFoundError, ValueError: naming the file and the line, also of a row that lacks cells.
    """
    fits = None if columns is None else lambda cells: len(cells) >= len(columns)
    rows = read_rows(path, fits=fits, missing=missing, remedy=remedy)
    if columns is None:
        columns = rows.pop(0)[1] if rows else []
        while columns and not columns[-1]:  # as spreadsheets leave them
            columns.pop()
    for line, cells in rows:
        if len(cells) < len(columns):
            lacking = f"{len(columns) - len(cells)} of {len(columns)} cells are missing"
            raise ValueError(f"{path}:{line}: {lacking}; expected {','.join(columns)}" + f"; {remedy}" * bool(remedy))
    return [(line, dict(zip(columns, cells, strict=False))) for line, cells in rows]

"""What the pages name exists: links, anchors, files, flags; their commands parse; every flag stands on a page."""

import importlib
import re
import sys

import pytest
import torch
from documents import PAGES, ROOT, Command, anchors, code, commands, links, prose, spans, text_of

from attribution import METHODS
from benchmarks import tables
from options.flags import parse_main
from options.words import FlagParser
from tests.test_architecture import FLOORS, MODULES

SHORT = {"README.md": 250, "docs/RESULTS.md": 250}  # lines at most
SUBJECTS = ("TRAINING", "DATASETS", "TRUNKS", "EXPLANATIONS", "ATTRIBUTION", "MEASURES", "PAPER", "CLUSTER",
            "RELIABILITY", "EXTENDING")
SCRIPTS = sorted(name for name, path in MODULES.items() if "__main__" in path.read_text()
                 and re.fullmatch(r"\w+|(util_scripts|benchmarks)\.\w+", name))
DOCUMENTED = [name for name in SCRIPTS if not name.startswith("benchmarks.")]  # a benchmark's flags stand in its --help
FLAG = re.compile(r"(?<![\w-])--[A-Za-z]\w*(?:-\w+)*(?![\w-])")
OTHERS = {  # flags of other programs
    "--nproc_per_node", "--nnodes", "--rdzv_backend", "--rdzv_endpoint", "--rdzv_id", "--max_restarts",  # torchrun
    "--job-name", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "--time", "--signal",
    "--requeue", "--open-mode",  # Slurm
    "--shm-size"}  # Docker


class Parsed(BaseException):
    """Ends a script where its command line is parsed."""

    def __init__(self, parser: FlagParser, rest: list[str]) -> None:
        self.parser, self.rest = parser, rest


@pytest.fixture
def stops(monkeypatch):
    """Scripts end when they have parsed their command line."""
    whole, known = FlagParser.parse_args, FlagParser.parse_known_args
    inside = []

    def parse_known_args(self, args=None, namespace=None):
        values, rest = known(self, args, namespace)
        if inside:
            return values, rest
        raise Parsed(self, rest)

    def parse_args(self, args=None, namespace=None):
        inside.append(self)
        try:
            whole(self, args, namespace)
        finally:
            inside.pop()
        raise Parsed(self, [])

    monkeypatch.setattr(FlagParser, "parse_args", parse_args)
    monkeypatch.setattr(FlagParser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a benchmark of the GPU asks first


def parse(script: str, words: list[str], monkeypatch) -> None:
    """Parse a command line as a script does, and what it leaves by main.py's flags."""
    monkeypatch.setattr(sys, "argv", [script, *words])
    try:
        with pytest.raises(Parsed) as stop:
            importlib.import_module(script).main()
    except SystemExit as end:
        if end.code == 0:  # --help
            return
        pytest.fail(f"{script} does not take {' '.join(words)}")
    rest = stop.value.rest
    if script.startswith("benchmarks.") and "--repeats" in rest:  # of benchmarks.bench.Bench, which parses last
        at = rest.index("--repeats")
        del rest[at:at + 2]
    if rest:
        with pytest.raises(Parsed):
            parse_main(rest)


def flags_of(script: str, monkeypatch) -> set[str]:
    """All flags of a script's own."""
    def caught(parser, *_):
        raise Parsed(parser, [])

    with monkeypatch.context() as patch:
        patch.setattr(FlagParser, "parse_args", caught)
        patch.setattr(FlagParser, "parse_known_args", caught)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(sys, "argv", [script])
        with pytest.raises(Parsed) as stop:
            importlib.import_module(script).main()
    return {name for name in stop.value.parser._option_string_actions if name.startswith("--")}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in links(page):
        if target.startswith(("http://", "https://")):
            continue
        place, _, anchor = target.partition("#")
        path = (PAGES[page].parent / place) if place else PAGES[page]
        assert path.exists(), f"{page} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(path), f"{page} links to {target}: no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page):
    top = {path.name for path in ROOT.iterdir()}
    for span in spans(page):
        if re.search(r"[<>{}*$ ]", span) or not re.fullmatch(r"[\w./-]+", span):
            continue
        first, slash, _ = span.partition("/")
        made = {"results", "demo", "visual_res", "fuzz_results"}  # by scripts
        ours = (slash and first in top - made) or span.endswith((".py", ".md", ".bib"))
        places = (ROOT / span, PAGES[page].parent / span, ROOT / "docs" / span)
        if ours and span[0] != "." and not span.startswith(("measures.", "study.")):
            assert any(path.exists() for path in places), f"{page} names {span}, which does not exist"
        if re.fullmatch(r"(util_scripts|benchmarks)\.[a-z_0-9.]+", span):
            assert span in MODULES, f"{page} names {span}, which does not exist"


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page, stops, monkeypatch):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for found in commands(page):
        if found.program == "make":
            assert {word for word in found.words if "=" not in word} <= targets, f"{found}: no such target"
        elif found.script.startswith("tests."):
            assert (ROOT / f"{found.script.replace('.', '/')}.py").is_file(), f"{found}: no such file"
        elif found.script != "pytest":
            assert found.script in MODULES, f"{found}: no such script"
            words = list(found.words)
            if found.script.startswith("benchmarks."):
                tables._place(words)  # --save, which every benchmark takes
            if words or found.program == "torchrun":
                parse(found.script, words, monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_flags_that_are_named_exist(page, monkeypatch):
    known = OTHERS | {tables.SAVE}
    for script in SCRIPTS:
        known |= flags_of(script, monkeypatch)
    assert not {flag for line in code(page) for flag in FLAG.findall(line)} - known, page


@pytest.mark.parametrize("script", DOCUMENTED)
def test_every_flag_stands_on_a_page(script, monkeypatch):
    written = {flag for page in PAGES if page.startswith(("README", "docs/")) for line in code(page)
               for flag in FLAG.findall(line)}
    missing = flags_of(script, monkeypatch) - written
    assert not missing, f"write a row for {', '.join(sorted(missing))} of {script} on a page of docs/"


@pytest.mark.parametrize(("page", "most"), SHORT.items())
def test_pages_are_short(page, most):
    assert len(text_of(page).splitlines()) <= most


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_whole_and_name_their_columns(page):
    for block in re.findall(r"(?:^\|.*\n)+", prose(page), re.MULTILINE):
        head, *rows = map(tables.cells_of, block.splitlines())
        assert all(head), f"{page}: a column of the table that begins with {head} has no name"
        assert {len(row) for row in rows} == {len(head)}, f"{page}: {block.splitlines()[0]}"


def test_the_first_page_names_every_folder_and_script():
    page = text_of("README.md").partition("## The files")[2]
    assert not [name for name in (*FLOORS, "tests", "docs") if f"{name}/" not in page]
    assert not [path.name for path in ROOT.glob("*.py") if path.name not in page]


def test_every_option_of_a_method_stands_on_a_page():
    table = text_of("docs/ATTRIBUTION.md").partition("### Options of methods")[2].partition("## How")[0]
    named = {name for line in table.splitlines() if line.startswith("| `")
             for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    missing = {f"{method.name}.{option}" for method in METHODS.values() for option in method.options
               if option not in named}
    assert not missing, f"add {', '.join(sorted(missing))} to the table of options in docs/ATTRIBUTION.md"


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_page_says_what_how_and_where(subject):
    page = f"docs/{subject}.md"
    headings = re.findall(r"^## (\w+)", text_of(page), re.MULTILINE)
    assert [name for name in headings if name in ("What", "How", "Example", "Examples", "Files")][:2] == ["What", "How"]
    assert {"Files"} <= set(headings) and {"Example", "Examples"} & set(headings)
    assert f"docs/{subject}.md" in links("README.md")


def test_citations_are_whole():
    text = (ROOT / "docs" / "CITATIONS.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@(\w+)\{(\w+),\n(.*?)^\}$", text, re.MULTILINE | re.DOTALL)
    assert len(entries) == text.count("@") > 20 and len({key for _, key, _ in entries}) == len(entries)
    for kind, key, fields in entries:
        assert {"title", "author", "year", "journal" if kind == "article" else "booktitle"} <= set(
            re.findall(r"^  (\w+) +=", fields, re.MULTILINE)), key
        assert fields.count("{") == fields.count("}") and "%" not in fields, key
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"title += \{(.+)\},", text)[1] in cited


def test_tables_of_the_benchmarks_are_listed_and_whole():
    folder = ROOT / "docs" / "results"
    index = (folder / tables.INDEX).read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[([^\]]+)\]", index, re.MULTILINE)
    assert listed == sorted(path.name for path in folder.glob("*.csv"))
    for line in index.splitlines():
        if line.startswith("| ["):
            _, what, _, machine, date, versions = tables.cells_of(line)
            assert what and machine and date and versions, line
    for name in listed:
        widths = {len(row) for row in tables.read_csv(folder / name)}
        assert len(widths) == 1 and widths.pop() > 1, name
    reported = text_of("docs/RESULTS.md") + text_of("docs/TRUNKS.md") + text_of("docs/results/NOTES.md")
    assert not [name for name in listed if name not in reported]


def test_figures_of_the_first_page_stand_in_the_results():
    """A figure that is measured anew is then changed in both places."""
    numbers = re.compile(r"(?<![\w.])0?(\.\d{2,3})(?!\d)")
    stored = {number for path in (*(ROOT / "docs" / "results").glob("*.csv"), PAGES["docs/RESULTS.md"])
              for number in re.findall(r"\d*(\.\d{2,3})(?!\d)", path.read_text())}
    table = text_of("README.md").partition("## What it can do")[2].partition("## UCF-101")[0]
    figures = {number for line in table.splitlines() if line.startswith("| ")
               for cell in line.split("|")[2:3] for number in numbers.findall(cell)}
    assert len(figures) > 5 and not figures - stored


def test_what_is_wrong_on_a_page_is_noticed(tmp_path, stops, monkeypatch):
    page = tmp_path / "PAGE.md"
    page.write_text("# One\n\n## Two: `x`\n\n## One\n\n[a](PAGE.md#two-x) `python -m util_scripts.prune --forbid x`\n")
    monkeypatch.setitem(PAGES, "PAGE.md", page)
    assert anchors(page) == {"one", "two-x", "one-1"} and links("PAGE.md") == ["PAGE.md#two-x"]
    (found,) = commands("PAGE.md")
    assert found == Command("PAGE.md", "python", "util_scripts.prune", ("--forbid", "x"))
    with pytest.raises(pytest.fail.Exception, match="prune"):
        parse(found.script, list(found.words), monkeypatch)
    test_links_lead_somewhere("PAGE.md")
    page.write_text("[a](PAGE.md#three) [b](none.md) `--no_such_flag` `models/none.py` `make none`\n")
    for test in (test_links_lead_somewhere, test_files_that_are_named_exist):
        with pytest.raises(AssertionError):
            test("PAGE.md")
    with pytest.raises(AssertionError):
        test_flags_that_are_named_exist("PAGE.md", monkeypatch)
    with pytest.raises(AssertionError):
        test_commands_parse("PAGE.md", stops, monkeypatch)

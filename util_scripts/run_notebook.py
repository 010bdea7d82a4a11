"""Run the code cells of a notebook in order, in this process, and store what they print and show in it.

Notebooks of this project are plain Python: no magics and no shell commands, so that this needs no Jupyter.
"""

import argparse
import ast
import contextlib
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from hierarchy.texts import read_json
from machine.writing import write_text
from options.errors import CommandLine, user_errors


def code_of(cell: dict) -> str:
    """The source of a cell, which a notebook has as one string or as lines."""
    return "".join(cell["source"])


def read_notebook(path: Path) -> dict:
    """A notebook in the format of nbformat 4.

    Raises:
        FileNotFoundError, ValueError: naming the file, where it is missing or something else.
    """
    content = read_json(path, missing="no such notebook; check the path", remedy="give a notebook of Jupyter")
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list) or content.get("nbformat") != 4:
        raise ValueError(f"{path}: not a notebook of Jupyter's format 4; open it in Jupyter and save it again")
    return content


def shown(value: object) -> dict:
    """What a notebook shows of the value of a cell's last expression."""
    html = getattr(value, "_repr_html_", None)
    data = {"text/plain": repr(value).splitlines(keepends=True)}
    return {"text/html": html().splitlines(keepends=True), **data} if html is not None else data


def run_cell(code: str, name: str, names: dict[str, object]) -> tuple[str, object]:
    """Run the code of a cell.

    Args:
        name: of the cell, for tracebacks. names: that cells share, which it may add to.
    Returns:
        what it printed, and the value of its last expression, None where it ends with a statement.
    """
    tree, value, out = ast.parse(code, name), None, io.StringIO()
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(out):
        exec(compile(tree, name, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), names)
    return out.getvalue(), value


def run_notebook(content: dict, folder: Path) -> dict[str, object]:
    """Run all code cells of a notebook in a folder, and put their outputs into it.

    Returns:
        the names that the cells have defined.
    Raises:
        whatever a cell raises; the note of the exception says which one it was.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(folder)
    try:
        for number, cell in enumerate((cell for cell in content["cells"] if cell["cell_type"] == "code"), 1):
            try:
                printed, value = run_cell(code_of(cell), f"<cell {number}>", names)
            except Exception as error:
                error.add_note(f"in code cell {number}:\n{code_of(cell)}")
                raise
            cell["execution_count"], cell["outputs"] = number, []
            if printed:
                cell["outputs"].append({"output_type": "stream", "name": "stdout",
                                        "text": printed.splitlines(keepends=True)})
            if value is not None:
                cell["outputs"].append({"output_type": "execute_result", "execution_count": number, "metadata": {},
                                        "data": shown(value)})
    finally:
        os.chdir(before)
    return names


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m util_scripts.run_notebook", description=__doc__,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path, help="file, whose outputs are replaced")
    parser.add_argument("--out", type=Path, help="file to write instead")
    args = parser.parse_args(argv)
    content = read_notebook(args.notebook)
    run_notebook(content, args.notebook.resolve().parent)
    target = args.out or args.notebook
    write_text(target, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"{target}: {sum(cell['cell_type'] == 'code' for cell in content['cells'])} cells, "
          f"{target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    with user_errors():
        main()

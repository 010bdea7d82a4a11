"""Who may import whom, and what no source of the project may hold: read from the sources themselves."""

import ast
import functools
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"machine": -1, "hierarchy": 0, "models": 1, "datasets": 1, "evaluation": 2, "attribution": 2, "training": 3,
          "explain": 3, "judging": 4, "options": 5, "run": 6, "util_scripts": 7, "benchmarks": 7}
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))  # the top floor: main, local_analysis, ...
TOP = 7
LONGEST_FILE, LONGEST_CLASS, LONGEST_SCRIPT = 400, 250, 150  # lines
GATHERING = {"benchmarks.all"}  # runs others
NAMESPACE = 5  # the lowest floor that sees the flags


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {name: ROOT / f"{name}.py" for name in SCRIPTS}
    for package in FLOORS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def package_of(module: str) -> str:
    return module.partition(".")[0]


def floor_of(module: str) -> int:
    return FLOORS.get(package_of(module), TOP)


def ours(name: str) -> str | None:
    """The longest prefix of a dotted name that is a module of the project."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(module: str, *, lazy: bool = True) -> set[str]:
    """The project's modules that a module imports; with lazy=False only those imported when it is."""
    path = MODULES[module]
    is_package = path.name == "__init__.py"
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                up = parts[:len(parts) - node.level + is_package]
                base = ".".join([*up, base] if base else up)
            found.update(f"{base}.{alias.name}" for alias in node.names)
        if not lazy and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(parsed(path))
    return {target for target in map(ours, found) if target and target != module}


def test_the_house_is_read():
    """Were nothing found, nothing would be wrong."""
    assert {"main", "options.flags", "run.model", "hierarchy.tree", "models.hipe", "training.engine"} <= set(MODULES)
    assert "models.hipe" in imports("training.engine") and "hierarchy.tree" in imports("models.hipe")
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders - {"tests"} == set(FLOORS), "a new package needs a floor here, in docs/EXTENDING.md and in README.md"


def test_a_file_imports_from_lower_floors_or_its_own_package():
    for module in MODULES:
        for target in imports(module):
            below = floor_of(target) < floor_of(module)
            same_package = package_of(target) == package_of(module)
            assert below or same_package or floor_of(module) == TOP, f"{module} imports {target}"


def test_rooms_that_never_meet():
    for one, other in (("models", "datasets"), ("training", "explain"), ("evaluation", "attribution")):
        for module in MODULES:
            packages = {package_of(target) for target in imports(module)}
            assert not (package_of(module) == one and other in packages), f"{module} imports {other}"
            assert not (package_of(module) == other and one in packages), f"{module} imports {one}"


def test_attribution_imports_nothing_of_ours():
    for module in MODULES:
        if package_of(module) == "attribution":
            assert {package_of(target) for target in imports(module)} <= {"attribution"}, module


def test_no_circles():
    """Neither within a package nor among the scripts, for what is imported when a module is."""
    done, path = set(), []

    def walk(module: str) -> None:
        assert module not in path, " -> ".join([*path[path.index(module):], module])
        if module in done:
            return
        path.append(module)
        for target in sorted(imports(module, lazy=False)):
            # a package's __init__ gathers its modules, whose imports of siblings pass through it unharmed
            if not (target == package_of(module) or (module in FLOORS and module == package_of(target))):
                walk(target)
        path.pop()
        done.add(module)

    for module in MODULES:
        walk(module)


def test_only_the_top_floors_see_the_flags():
    for module in MODULES:
        if floor_of(module) < NAMESPACE:
            text = MODULES[module].read_text(encoding="utf-8")
            assert "argparse" not in text, f"{module} knows argparse"


def functions(path: Path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node


def test_no_namespace_below_the_flags():
    for module, path in MODULES.items():
        if floor_of(module) >= NAMESPACE:
            continue
        for function in functions(path):
            given = function.args
            for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs):
                annotation = ast.unparse(argument.annotation) if argument.annotation else ""
                assert argument.arg not in ("args", "opt", "opts"), f"{module}:{argument.lineno} takes {argument.arg}"
                assert "Namespace" not in annotation, f"{module}:{argument.lineno} takes a Namespace"


def test_no_source_insists_on_a_gpu():
    for module in MODULES:
        for node in ast.walk(parsed(MODULES[module])):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr != "cuda", f"{module}:{node.lineno} calls .cuda("


def test_modules_and_public_things_say_what_they_are():
    for module in MODULES:
        tree = parsed(MODULES[module])
        assert not tree.body or ast.get_docstring(tree), f"{module} has no docstring"
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_" and node.name != "main":
                assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_large_file_is_tracked():
    large = [f"{path.name}: {path.stat().st_size} bytes" for path in tracked() if path.is_file()
             and path.stat().st_size > 1_000_000]
    assert not large


def test_nothing_names_the_machine_it_was_made_on():
    """Absolute paths work on one machine only."""
    for path in tracked():
        if path.suffix in (".py", ".md", ".csv", ".toml", ".txt", ".html", ".cff") and path.name != Path(__file__).name:
            text = path.read_text(encoding="utf-8")
            assert not [word for word in ("/home/", "/work/", "/root/") if word in text], path


# --- sizes, and what nobody imports


def sources() -> list[Path]:
    """Every Python file of the project, tests and their helpers too."""
    return [*MODULES.values(), *sorted((ROOT / "tests").glob("*.py"))]


def test_files_and_classes_are_short():
    templates = [path for path in (ROOT / "explain" / "templates").iterdir() if path.is_file()]
    long = [f"{path.relative_to(ROOT)}: {n} lines" for path in [*sources(), *templates]
            if (n := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE]
    for path in sources():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef) and node.end_lineno - node.lineno >= LONGEST_CLASS:
                long.append(f"{path.relative_to(ROOT)}: class {node.name}")
    assert not long, "split along meaning: " + ", ".join(long)


def test_scripts_are_shorter():
    for name in SCRIPTS:
        lines = MODULES[name].read_text(encoding="utf-8").splitlines()
        assert len(lines) < LONGEST_SCRIPT, f"{name}.py: {len(lines)} lines; what it does belongs to run/"


def is_script(module: str) -> bool:
    """Whether a module is run from the shell."""
    return '__name__ == "__main__"' in MODULES[module].read_text(encoding="utf-8")


def test_no_script_imports_another():
    for module in MODULES:
        if is_script(module):
            others = {target for target in imports(module) if is_script(target)}
            assert not others or module in GATHERING, f"{module} imports {others}; share a module that is no script"


def test_no_test_module_imports_another():
    for path in sorted((ROOT / "tests").glob("*.py")):
        for node in ast.walk(parsed(path)):
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                     else [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            tests = [name for name in names if name.startswith("test_")]
            assert not tests, f"{path.name} imports {tests}; put what they share into a helper beside them"

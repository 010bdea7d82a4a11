"""The version of the program, which pyproject.toml alone states, and that of PyTorch, without importing it."""

import platform
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def program_version() -> str:
    """Version of this program, such as 0.1.0.

    Raises:
        FileNotFoundError, ValueError: pyproject.toml is not beside the program, or states no version.
    """
    if not PROJECT.is_file():
        raise FileNotFoundError(f"{PROJECT}: is missing, and states the version; get it back with git checkout")
    try:
        return str(tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"])
    except (KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{PROJECT}: states no version ({error}); get it back with git checkout") from error


def versions() -> str:
    """What --version prints: `hipe 0.1.0, PyTorch 2.11.0, Python 3.11.7`."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "not installed"
    return f"hipe {program_version()}, PyTorch {torch}, Python {platform.python_version()}"

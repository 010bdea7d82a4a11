"""What a folder of results was made with, so that no table claims other settings; itself no part."""

import json
from collections.abc import Mapping
from pathlib import Path

from machine.writing import write_text


def claim(folder: Path, settings: Mapping[str, object]) -> Path:
    """Make a folder for results of these settings, or see that it is one.

    Raises:
        ValueError: where it holds results of other settings.
    """
    file, wanted = folder / "settings.json", json.loads(json.dumps(settings, default=str))
    if file.is_file():
        stored = json.loads(file.read_text(encoding="utf-8"))
        if other := sorted(name for name in {*stored, *wanted} if stored.get(name) != wanted.get(name)):
            raise ValueError(f"{folder}: holds results of another --{other[0]} ({stored.get(other[0])}, not "
                             f"{wanted.get(other[0])}); give another --out, or remove the folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(wanted, indent=1) + "\n")
    return folder

"""Counts and faults of a campaign, kept in a folder so that runs add up."""

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.fuzz.lab import Found
from training.checkpoint import write_whole

HEADING = "## Counts"
WHAT = {"inputs": "spoilt inputs", "kills": "kills", "disks": "full disks", "pairs": "lost processes"}


class Ledger:
    """The counts of a folder, in counts.json, and its faults, a line each in faults.jsonl.

    Attributes:
        n_faults_now: of the cases that were added since the ledger was opened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.n_faults_now = folder, 0
        path = folder / "counts.json"
        try:
            self.counts: dict[str, dict] = json.loads(path.read_text()) if path.is_file() else {}
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error}); remove it, or give another --out") from error

    def next_seed(self, kind: str) -> int:
        """The first seed that no case of a kind has had."""
        return self.counts.get(kind, {}).get("next_seed", 0)

    def add(self, kind: str, seed: int, found: Found, *, seconds: float, repeat: str) -> None:
        """Count a case and write down what it found."""
        row = self.counts.setdefault(kind, {"cases": 0, "n": 0, "faults": 0, "seconds": 0.0, "next_seed": 0,
                                            "ends": {}})
        row["cases"] += 1
        row["n"] += found.n
        row["faults"] += len(found.faults)
        row["seconds"] = round(row["seconds"] + seconds, 2)
        row["next_seed"] = max(row["next_seed"], seed + 1)
        for end in found.ends:
            row["ends"][end] = row["ends"].get(end, 0) + 1
        self.n_faults_now += len(found.faults)
        self.folder.mkdir(parents=True, exist_ok=True)
        if found.faults:
            with open(self.folder / "faults.jsonl", "a", encoding="utf-8", errors="backslashreplace") as file:
                for fault in found.faults:
                    file.write(json.dumps({"kind": kind, "seed": seed, "repeat": repeat, **asdict(fault)}) + "\n")
        write_whole(self.folder / "counts.json", lambda file: file.write(json.dumps(self.counts, indent=1).encode()))

    def table(self) -> str:
        """The counts as a table in Markdown."""
        rows = [f"| {kind} | {row['cases']} | {row['n']} {WHAT[kind]} | "
                + ", ".join(f"{end}: {n}" for end, n in sorted(row["ends"].items()))
                + f" | {row['faults']} | {row['seconds'] / 60:.1f} |" for kind, row in self.counts.items()]
        return "\n".join(["| kind | cases | what they did | how scripts ended | faults | minutes |",
                          "| --- | --- | --- | --- | --- | --- |", *rows])

    def write_into(self, page: Path) -> None:
        """Replace the section Counts of a page, up to the next heading of its rank, by the table."""
        text = page.read_text(encoding="utf-8")
        before, heading, rest = text.partition(f"{HEADING}\n")
        if not heading:
            raise ValueError(f"{page}: has no heading {HEADING!r}; add one where the counts are wanted")
        _, follows, after = rest.partition("\n## ")
        content = f"{before}{HEADING}\n\n{self.table()}\n{follows}{after}"
        write_whole(page, lambda file: file.write(content.encode()))

"""What long tests have done so far, kept where ``TINYFLEET_KILL_RECORDS`` says: they go on from there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec


class Records:
    """One JSON document a line. Without a directory to keep them in, they are gone with the test."""

    def __init__(self, name: str, fallback: Path) -> None:
        directory = Path(os.environ.get("TINYFLEET_KILL_RECORDS", fallback))
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / f"{name}.jsonl"

    def all(self) -> list[dict[str, Any]]:
        """Oldest first."""
        return read_records(self._path)

    def add(self, record: dict[str, Any]) -> None:
        """On disk when it returns."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """Of one file, oldest first; none where it is not there."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines() if line.strip()]

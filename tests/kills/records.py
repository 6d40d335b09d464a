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
        if not self._path.exists():
            return []
        return [msgspec.json.decode(line) for line in self._path.read_bytes().splitlines() if line.strip()]

    def add(self, record: dict[str, Any]) -> None:
        """On disk when it returns."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")

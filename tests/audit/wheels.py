"""The board's wheels: that the index still gives the very files whose hashes are pinned."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.audit.findings import Outcome, Part

# pip's words for a file with another hash than the pinned one.
_ANOTHER = "DO NOT MATCH THE HASHES"


def of_index(file: Path) -> Part:
    """Download what this machine's Python would install of ``file``, and let pip compare the hashes."""
    name = f"wheels of {file.name}"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "download",
            "--quiet",
            "--no-cache-dir",
            "--no-deps",
            "--require-hashes",
            "--only-binary",
            ":all:",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "pip", *command, "--dest", folder, "-r", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        count = len(list(Path(folder).iterdir()))
    return read(name, done.returncode, done.stderr, count)


def read(name: str, code: int, errors: str, count: int) -> Part:
    """What pip's end means: a file that differs is found, one that cannot be had is not known."""
    if code == 0:
        return Part(name, Outcome.CLEAN, f"{count} files have their hashes")
    lines = [line.strip() for line in errors.splitlines() if line.strip() and "WARNING" not in line]
    if _ANOTHER in errors:
        return Part(name, Outcome.FOUND, "a file of the index is another than the pinned one", lines)
    return Part(name, Outcome.NOT_ASKED, "the index did not give them", lines)

"""Runs a document's commands as a newcomer would: in a copy of the tree, in the environment of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docs.fenced import ROOT

TIMEOUT_S = 800
MAKES_OWN = {"MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "ARGS", "PARALLEL"}


def copy_tree(target: Path) -> Path:
    """The tracked files as they are now, links as links."""
    ran = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.skip("not a git checkout")
    for name in ran.stdout.split("\0"):
        source, copy = ROOT / name, target / name
        if name and (source.exists() or source.is_symlink()):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)
    return target


def link_environment(target: Path) -> None:
    """``.venv`` is the environment that runs the tests, and make finds nothing to set up in it.

    The stamps depend on each other: they get one time, or make would install the copy into the real environment.
    """
    environment = target / ".venv"
    environment.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith(".stamp"):
            (environment / entry.name).symlink_to(entry)
    now = time.time_ns()
    for stamp in Path(sys.prefix).glob(".stamp*"):
        (environment / stamp.name).touch()
        os.utime(environment / stamp.name, ns=(now, now))


def run_in_copy(script: str, folder: Path) -> None:
    """Run ``script`` with ``sh -e``; its output is shown where it fails."""
    if not (Path(sys.prefix) / "pyvenv.cfg").exists():
        pytest.skip("the documents speak of a virtual environment, and the tests run in none")
    tree = copy_tree(folder / "tinyfleet")
    link_environment(tree)
    # What the make that runs the tests was told is not for the makes of the document.
    outside = {name: value for name, value in os.environ.items() if name not in MAKES_OWN}
    environment = {
        **outside,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH")))),
        "PATH": f"{tree / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "TINYFLEET_STATE": str(folder / "state"),
    }
    ran = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, f"{script}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"

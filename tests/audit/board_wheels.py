"""Writes constraints/board.txt: every wheel that a board may take from an index, by its hash.

``python -m tests.audit.board_wheels`` asks the index once for each Python and machine of ``CELLS``, and writes
versions, markers and hashes. Run it where a version is to change.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FILE = ROOT / "constraints/board.txt"
# What the guide installs on a board, and what builds this tree there without fetching a builder.
EXTRAS = ("images",)
BUILDERS = ("setuptools>=77",)
# Asked for where the index has a wheel of it, left out elsewhere.
WHERE_THERE_IS_ONE = ("runtime",)
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("aarch64", "x86_64")
_HEAD = """\
# Every wheel that a board takes from an index, by its hash: any other is refused by
#   pip install --require-hashes --only-binary :all: -r constraints/board.txt
# Written by: python -m tests.audit.board_wheels
"""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """A Python on a machine."""

    python: str
    machine: str

    def holds(self, requirement: Requirement) -> bool:
        """Whether the requirement's marker is true there."""
        environment = {
            **default_environment(),
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "platform_machine": self.machine,
        }
        return requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})


CELLS = tuple(Cell(python, machine) for python in PYTHONS for machine in MACHINES)


@dataclass(frozen=True, slots=True, order=True)
class Wheel:
    """A file of an index: its distribution, and the SHA-256 of all of it."""

    name: str
    version: str
    sha256: str


def requirements(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for: of the board without ``extras``, else of these alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["optional-dependencies"][extra] for extra in extras] or [project["dependencies"]]
    return [Requirement(line) for group in groups for line in group]


def pinned() -> list[Requirement]:
    """The versions that the tests run with."""
    lines = (ROOT / "constraints/common.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def resolve(cell: Cell, wanted: list[Requirement]) -> set[Wheel]:
    """What pip would install there. Raises ``LookupError`` where the index has no set of wheels for it."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        held = [f"{one.name}{one.specifier}\n" for one in pinned() if cell.holds(one)]
        constraints.write_text("".join(held), encoding="utf-8")
        # glibc from 2.17 to 2.36, Debian 12's: the tags that a board there takes.
        tags = [f"--platform=manylinux_2_{minor}_{cell.machine}" for minor in range(36, 16, -1)]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"),
                *("--report", "-", "--target", folder, "--only-binary", ":all:", "--no-cache-dir"),
                *tags,
                *(f"--platform=manylinux2014_{cell.machine}", "--python-version", cell.python),
                *("--constraint", str(constraints)),
                *(f"{one.name}{one.specifier}" for one in wanted if cell.holds(one)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise LookupError(f"Python {cell.python} on {cell.machine}: {done.stderr.strip()[-300:]}")
    return {
        Wheel(
            item["metadata"]["name"].lower().replace("_", "-"),
            item["metadata"]["version"].partition("+")[0],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in json.loads(done.stdout)["install"]
    }


def text(found: dict[Cell, set[Wheel]]) -> str:
    """The file: one requirement a version, its marker only where not every cell has it."""
    cells: dict[tuple[str, str], set[Cell]] = defaultdict(set)
    hashes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cell, wheels in found.items():
        for wheel in wheels:
            cells[wheel.name, wheel.version].add(cell)
            hashes[wheel.name, wheel.version].add(wheel.sha256)
    lines = [_HEAD]
    for name, version in sorted(cells):
        marker = _marker(cells[name, version])
        lines.append(f"{name}=={version}{f' ; {marker}' if marker else ''}")
        lines.extend(f" \\\n    --hash=sha256:{digest}" for digest in sorted(hashes[name, version]))
        lines.append("\n")
    return "".join(lines)


def _marker(cells: set[Cell]) -> str:
    if cells == set(CELLS):
        return ""
    terms = []
    for python in PYTHONS:
        machines = [machine for machine in MACHINES if Cell(python, machine) in cells]
        term = f"python_version == '{python}'"
        if len(machines) == len(MACHINES):
            terms.append(term)
        else:
            terms += [f"{term} and platform_machine == '{machine}'" for machine in machines]
    return " or ".join(terms)


def record() -> None:
    """Ask the index for every cell, and write the file."""
    needed = [*requirements(), *requirements(*EXTRAS), *map(Requirement, BUILDERS)]
    found = {}
    for cell in CELLS:
        try:
            found[cell] = resolve(cell, [*needed, *requirements(*WHERE_THERE_IS_ONE)])
        except LookupError:
            found[cell] = resolve(cell, needed)
            print(f"Python {cell.python} on {cell.machine}: no wheel of the extra {WHERE_THERE_IS_ONE[0]}")  # noqa: T201
    FILE.write_text(text(found), encoding="utf-8")


if __name__ == "__main__":
    record()

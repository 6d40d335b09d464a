"""What the audit reads out of its tools' answers, and that the board's wheels are pinned whole."""

from __future__ import annotations

import json
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.audit import board_wheels, vulnerabilities, wheels
from tests.audit.board_wheels import CELLS, Cell, Wheel
from tests.audit.findings import Outcome

FAULT = {"id": "PYSEC-1", "fix_versions": ["2.1"], "description": "", "aliases": []}
SOUND = {"name": "a", "version": "1", "vulns": []}
UNKNOWN = {"name": "b", "skip_reason": "not found"}
FAULTY = {"name": "c", "version": "2", "vulns": [FAULT]}


def _pinned() -> list[tuple[Requirement, list[str]]]:
    blocks = re.split(r"\n(?=\S)", board_wheels.FILE.read_text(encoding="utf-8").strip())
    lines = [block for block in blocks if not block.startswith("#")]
    return [(Requirement(line.split(" \\")[0]), re.findall(r"--hash=sha256:(\w+)", line)) for line in lines]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_all_that_a_board_needs_is_pinned_by_hash(cell):
    here = {canonicalize_name(one.name): one for one, _ in _pinned() if cell.holds(one)}
    for wanted in [*board_wheels.requirements(), *board_wheels.requirements(*board_wheels.EXTRAS)]:
        if cell.holds(wanted):
            (version,) = here[canonicalize_name(wanted.name)].specifier
            assert version.operator == "=="
            assert wanted.specifier.contains(version.version), wanted


def test_every_pin_has_hashes_and_agrees_with_the_tests_versions():
    tested = {canonicalize_name(one.name): one for one in board_wheels.pinned() if CELLS[0].holds(one)}
    for one, hashes in _pinned():
        assert hashes
        assert all(len(digest) == 64 for digest in hashes)
        if CELLS[0].holds(one) and canonicalize_name(one.name) in tested:
            (version,) = one.specifier
            assert tested[canonicalize_name(one.name)].specifier.contains(version.version), one


def test_a_marker_stands_only_where_not_every_cell_has_the_version():
    old, new = (Wheel("numpy", version, digit * 64) for version, digit in (("1.26", "a"), ("2.4", "b")))
    everywhere = Wheel("psutil", "7", "c" * 64)
    found = {cell: {everywhere, old if cell.python == "3.11" else new} for cell in CELLS}
    found[Cell("3.13", "x86_64")].discard(new)
    text = board_wheels.text(found)
    assert "psutil==7 \\\n" in text
    assert "numpy==1.26 ; python_version == '3.11' \\\n" in text
    assert "python_version == '3.12' or python_version == '3.13' and platform_machine == 'aarch64'" in text
    assert text.count("--hash") == 3


@pytest.mark.parametrize(
    ("asked", "outcome", "lines"),
    [
        ([SOUND], Outcome.CLEAN, []),
        ([SOUND, UNKNOWN], Outcome.NOT_ASKED, ["b: not found"]),
        ([SOUND, UNKNOWN, FAULTY], Outcome.FOUND, ["c 2: PYSEC-1, mended in 2.1", "b: not found"]),
    ],
)
def test_an_answer_that_is_missing_is_not_a_clean_one(asked, outcome, lines):
    part = vulnerabilities.read("x", json.dumps({"dependencies": asked}))
    assert (part.outcome, part.lines) == (outcome, lines)


@pytest.mark.parametrize(
    ("code", "errors", "outcome"),
    [
        (0, "", Outcome.CLEAN),
        (1, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", Outcome.FOUND),
        (1, "ERROR: Could not find a version that satisfies", Outcome.NOT_ASKED),
    ],
)
def test_what_the_end_of_pip_means(code, errors, outcome):
    assert wheels.read("x", code, errors, 3).outcome is outcome

"""The types in the repository are those of the compiled module."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "stub.py"


def test_the_stub_is_what_the_module_has():
    pytest.importorskip("nanobind", minversion="3.1")  # others word some types otherwise
    if not SCRIPT.exists():
        pytest.skip("not in the repository")
    script = runpy.run_path(str(SCRIPT))
    assert script["STUB"].read_text(encoding="utf-8") == script["generate"](), f"run {SCRIPT}"

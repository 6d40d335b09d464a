"""What needs torch says so where it is missing, and how to get it."""

from __future__ import annotations

import sys

import pytest

EXAMPLE = "examples/fedavg-digits.toml"


@pytest.fixture(autouse=True)
def no_torch(monkeypatch, tmp_path):
    """Importing torch fails, and looking for it finds nothing."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("tinyfleet.fedcore.training.native.facts.fault", lambda: "")


@pytest.mark.parametrize(
    "command",
    [
        ("demo", "--engine", "torch"),
        ("simulate", EXAMPLE, "--engine", "torch"),
        ("bench", "methods", "smoke"),
        ("bench", "methods", "smoke", "--engine", "native"),
        ("bench", "engine"),
        ("bench", "selection"),
        ("bench", "caches"),
        ("bench", "plan", "--engine", "torch"),
        ("profile", "measure", "--engine", "torch"),
        ("profile", "measure-training", "--engine", "torch"),
    ],
    ids=" ".join,
)
def test_a_command_that_needs_torch_names_the_extra(tinyfleet, monkeypatch, pytestconfig, tmp_path, command):
    root = pytestconfig.rootpath
    monkeypatch.chdir(tmp_path)
    ran = tinyfleet(*(root / word if word == EXAMPLE else word for word in command))
    assert ran.code == 2
    assert "pip install 'tinyfleet[torch]'" in ran.err
    assert not list(tmp_path.iterdir()), "it looked before it wrote anything"

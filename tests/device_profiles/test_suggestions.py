from __future__ import annotations

from pathlib import Path

import pytest

from tinyfleet.device_profiles import suggestions
from tinyfleet.device_profiles.suggestions import hint, nearest

KNOWN = ("battery", "disk", "temperature")


@pytest.mark.parametrize(
    ("name", "near"),
    [("batery", "battery"), ("tempertaure", "temperature"), ("moon", None), ("disk", None), ("", None)],
)
def test_the_nearest_known_name(name, near):
    assert nearest(name, KNOWN) == near


def test_a_hint_names_the_nearest_or_all():
    assert hint("batery", KNOWN) == "did you mean 'battery'?"
    assert hint("moon", iter(KNOWN)) == "choose from battery, disk, temperature"


def test_no_other_module_makes_suggestions_of_its_own():
    root = Path(suggestions.__file__).resolve().parents[1]
    packages = ("device_profiles", "fedcore", "edge_agent", "coordinator", "export", "tinyfleet")
    files = {file.resolve() for package in packages for file in (root / package).rglob("*.py")}
    assert len(files) > 60
    own = {file for file in files if "difflib" in file.read_text(encoding="utf-8")}
    assert own == {root / "device_profiles" / "suggestions.py"}

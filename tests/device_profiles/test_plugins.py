"""Doors for other distributions: lazy, by name, and one bad plugin costs only itself."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from importlib import metadata

import pytest

from tests.distributions import distribution
from tinyfleet.device_profiles import plugins as scanner
from tinyfleet.device_profiles.plugins import Door, PluginError, plugins

GROUP = "tinyfleet.numbers"


def number(name, given):
    if not isinstance(given, int):
        raise TypeError(f"it is {given!r}; give a whole number")
    return given


DOOR = Door(GROUP, lambda: ("one",), number)
_serial = itertools.count()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution on the path; its one module is called ``made`` in its sources and entry points."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def add(name, points, source="", **how):
        module = f"made_{next(_serial)}"
        text = f"[{GROUP}]\n{points}".replace("made", module)
        distribution(tmp_path / "site", name, text, **{module: source}, **how)
        monkeypatch.syspath_prepend(str(tmp_path / f"another-{module}"))  # a new path is scanned anew
        return module

    return add


def test_what_a_distribution_adds_is_imported_when_it_is_asked_for(install):
    module = install("acme", "two = made:TWO", "TWO = 2", version="3.1")
    (plugin,) = plugins(GROUP)
    assert (plugin.name, plugin.distribution, plugin.version) == ("two", "acme", "3.1")
    assert DOOR.names() == ("two",)
    assert DOOR.load("three") is None
    assert DOOR.load("one") is None
    assert module not in sys.modules
    assert DOOR.load("two") == 2
    assert module in sys.modules
    assert DOOR.load_all() == {"two": 2}
    assert DOOR.fault(plugin) == ""


@pytest.mark.parametrize(
    ("point", "source", "words"),
    [
        ("two = made:TWO", "raise OSError('no such device')", "importing it raised OSError: no such device"),
        ("two = made:TWO", "import sys; sys.exit(3)", "importing it raised SystemExit: 3"),
        ("two = made:TWO", "", "importing it raised AttributeError"),
        ("two = made.inner:TWO", "", "importing it raised ModuleNotFoundError"),
        ("two = made:TWO", "TWO = 'zwei'", "it is 'zwei'; give a whole number"),
    ],
)
def test_a_bad_plugin_costs_itself_and_says_whose_it_is_and_what_to_do(install, caplog, point, source, words):
    install("bad-one", point, source, version="0.2")
    install("good-one", "four = made:FOUR", "FOUR = 4")
    with pytest.raises(PluginError) as caught:
        DOOR.load("two")
    told = str(caught.value)
    assert told.startswith(f"bad-one 0.2: entry point 'two' of {GROUP} (")
    assert words in told
    assert told.endswith("pip uninstall bad-one")
    with caplog.at_level(logging.WARNING):
        assert [DOOR.load_all() for _ in range(3)] == [{"four": 4}] * 3
    assert [record.message for record in caplog.records] == [told], "said once"
    assert [DOOR.fault(plugin) for plugin in plugins(GROUP) if plugin.name == "two"] == [told]


def test_a_failing_import_is_tried_once(install):
    module = install("slow", "two = made:TWO", "import builtins\nbuiltins.tries = tries + 1\nraise OSError")
    import builtins

    builtins.tries = 0
    try:
        for _ in range(3):
            with pytest.raises(PluginError):
                DOOR.load("two")
        assert builtins.tries == 1
    finally:
        del builtins.tries
    assert module not in sys.modules


def test_a_name_of_ours_cannot_be_taken(install, caplog):
    module = install("taker", "one = made:ONE\ntwo = made:TWO", "ONE, TWO = 1, 2")
    with caplog.at_level(logging.WARNING):
        assert DOOR.names() == ("two",)
    assert DOOR.load("one") is None
    assert module not in sys.modules
    assert "taker 1.0: entry point 'one'" in caplog.text
    assert "its name is one of ours" in caplog.text
    assert ["ours" in DOOR.fault(plugin) for plugin in plugins(GROUP)] == [True, False]


def test_two_distributions_with_one_name_are_both_named_and_neither_is_taken(install):
    install("first", "two = made:TWO", "TWO = 2")
    install("second", "two = made:TWO", "TWO = 22")
    with pytest.raises(PluginError, match=r"two.* (first|second) has one of that name too"):
        DOOR.load("two")
    assert DOOR.load_all() == {}


def test_a_line_that_is_no_entry_point_hides_no_others(install):
    install("damaged", "two made TWO\nthree = made:THREE", "THREE = 3")
    install("good", "four = made:FOUR", "FOUR = 4")
    assert DOOR.load_all() == {"three": 3, "four": 4}
    (told,) = filter(None, (DOOR.fault(plugin) for plugin in plugins(GROUP)))
    assert told.startswith("damaged 1.0: entry point ")
    assert "TWO' is not: name = module:attribute" in told


def test_metadata_is_read_as_the_standard_library_reads_it():
    """Of what is installed here: entry points of any group, names and versions."""
    known = {(d.metadata["Name"], d.version): d for d in metadata.distributions()}
    compared = 0
    for distribution_ in known.values():
        path = getattr(distribution_, "_path", None)
        text = distribution_.read_text("entry_points.txt")
        if text and path is not None and path.name.endswith("-info"):
            name, version = scanner._identity(path)
            assert (name, version) == (distribution_.metadata["Name"], distribution_.version)
            for group in {point.group for point in distribution_.entry_points}:
                ours = scanner._points(text.replace(f"[{group}]", "[tinyfleet.x]"), name, version)
                expected = {
                    (p.name, p.value.partition("[")[0].strip())
                    for p in distribution_.entry_points
                    if p.group == group
                }
                assert {(plugin.name, plugin.target) for plugin in ours if not plugin.fault} == expected
                compared += 1
    assert compared > 3


def test_extras_comments_and_attributes_of_attributes(install):
    install("acme", "# a comment\n\ntwo = made:Box.two [extra]\n", "class Box:\n    two = 2")
    assert DOOR.load_all() == {"two": 2}


@pytest.mark.parametrize(
    "script",
    [
        "from tinyfleet.device_profiles.sensors.read import check_names; check_names(['disk'])",
        "from tinyfleet.device_profiles.known_boards import board; board('pi-5')",
        "from tinyfleet.fedcore.models.registry import build; from tinyfleet.fedcore.run_spec import ModelSettings;"
        " build(ModelSettings('resnet8', (3, 32, 32)))",
        "from tinyfleet.fedcore.methods.registry import kind; kind('fedavg')",
        "from tinyfleet.fedcore.datasets.registry import load; load('digits')",
    ],
)
def test_names_of_ours_import_nothing_of_others_and_do_not_even_look(script):
    spy = (
        "from tinyfleet.device_profiles import plugins\n"
        "def refuse(path): raise SystemExit('looked for distributions')\n"
        "plugins._scan = refuse\n"
    )
    ran = subprocess.run([sys.executable, "-c", spy + script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    asks = "from tinyfleet.device_profiles.sensors.read import names; names()"
    assert subprocess.run([sys.executable, "-c", spy + asks], capture_output=True, check=False).returncode == 1

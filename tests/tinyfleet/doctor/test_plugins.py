"""The doctor tries what other distributions add, and says what is wrong with each."""

from __future__ import annotations

from importlib import import_module

import pytest

from tests.distributions import distribution
from tinyfleet.doctor.answer import Outcome, Surroundings
from tinyfleet.doctor.plugins import DOORS, plugins

SENSOR = """\
from tinyfleet.device_profiles.sensors.sensor import Sensor
SENSOR = Sensor('{}', lambda root, options: None)
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def test_every_table_has_a_door_with_its_own_group():
    for group, module in DOORS.items():
        door = import_module(module).DOOR
        assert door.group == group
        assert door.taken()


def test_all_are_listed_and_each_fault_names_distribution_entry_point_and_remedy(site, tmp_path):
    points = "[tinyfleet.sensors]\nfan = doc_fan:SENSOR\n"
    distribution(site, "acme-fan", points, version="2.0", doc_fan=SENSOR.format("fan"))
    points = (
        "[tinyfleet.sensors]\nwind = doc_odd:SENSOR\n[tinyfleet.methods]\nfedavg = doc_odd:SENSOR\n"
        "[tinyfleet.method]\nx = doc_odd:SENSOR\n[tinyfleet.boards]\nsb1 = doc_odd\n"
        "[console_scripts]\nodd = doc_odd:x\n"
    )
    distribution(site, "odd", points, doc_odd=SENSOR.format("fan"))
    answer = plugins(Surroundings(tmp_path))
    assert answer.status is Outcome.WARNING
    assert "acme-fan 2.0: sensors fan" in answer.found.splitlines()
    assert "odd 1.0: sensors wind, methods fedavg, method x, boards sb1" in answer.found.splitlines()
    faults = [line for line in answer.remedy.splitlines() if line.startswith("odd ")]
    assert len(faults) == len(answer.remedy.splitlines()) == 4
    assert all(line.endswith("pip uninstall odd") for line in faults)
    for words in (
        "give a Sensor called 'wind'",
        "entry point 'fedavg' of tinyfleet.methods (doc_odd:SENSOR): its name is one of ours",
        "there is no such group; did you mean 'tinyfleet.methods'?",
        "give a package that has sb1.toml in its folder",
    ):
        assert words in answer.remedy

from __future__ import annotations

import json

import pytest

from tinyfleet.doctor import checks as doctor_checks
from tinyfleet.doctor.answer import Answer, Check, Outcome, Surroundings
from tinyfleet.doctor.probe import EXIT_CODES
from tinyfleet.doctor.report import examine
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.reach.causes import CauseKind


@pytest.fixture
def here(tmp_path):
    return Surroundings(state=tmp_path / "state")


def test_every_check_answers(here):
    findings = examine(here)
    assert [f.name for f in findings] == list(doctor_checks.CHECKS)
    assert all(f.found for f in findings)
    assert not [f for f in findings if f.essential and f.status is Outcome.MISSING]
    assert not here.state.exists()


def test_a_check_that_fails_does_not_stop_the_others(here, monkeypatch):
    def broken(surroundings: Surroundings) -> Answer:
        raise OSError("no such thing")

    monkeypatch.setitem(doctor_checks.CHECKS, "disk", Check(broken))
    by_name = {f.name: f for f in examine(here, ["disk", "python"])}
    assert by_name["disk"].status is Outcome.MISSING
    assert "no such thing" in by_name["disk"].found
    assert by_name["python"].status is Outcome.OK


def test_unknown_check_names_the_nearest(here):
    with pytest.raises(ConfigError, match="mosquitto"):
        examine(here, ["mosquito"])


def test_a_package_that_is_missing(here):
    look = doctor_checks.package("no-such-package-at-all", "nothing works", "install it")
    assert look(here) == Answer(Outcome.MISSING, "not installed: nothing works", "install it")


@pytest.mark.parametrize(("torch", "status"), [("2.9", Outcome.WARNING), (None, Outcome.MISSING)])
def test_a_machine_without_the_native_engine(here, monkeypatch, torch, status):
    monkeypatch.setattr(doctor_checks, "_ask", lambda probe: (None, "died by signal 4"))
    monkeypatch.setattr(doctor_checks, "_version", lambda name: torch)
    answer = doctor_checks.engine(here)
    assert answer.status is status
    assert "died by signal 4" in answer.found
    assert "pip install ./sparse_engine" in answer.remedy
    assert ("make torch" in answer.remedy) is (torch is None)


def test_a_machine_without_torch_is_told_what_that_costs_and_how_to_get_it(here, monkeypatch):
    monkeypatch.setattr(doctor_checks, "_version", lambda name: None)
    answer = doctor_checks.torch(here)
    assert answer.status is Outcome.WARNING
    assert "bench methods" in answer.found
    assert "make torch" in answer.remedy
    assert "tinyfleet[torch]" in answer.remedy


def test_command(tinyfleet, tmp_path):
    ran = tinyfleet("doctor", "python", "disk", "--state", tmp_path, "--json")
    document = json.loads(ran.out)
    assert ran.code == 0
    assert document["healthy"] is True
    assert [check["name"] for check in document["checks"]] == ["python", "disk"]
    lost = tinyfleet("doctor", "broker", "--broker", "mqtt://127.0.0.1:1", "--state", tmp_path)
    assert lost.code == EXIT_CODES[CauseKind.PORT]
    assert "essential" in lost.out

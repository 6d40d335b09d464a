"""``tinyfleet doctor certificates``: what lasts, what should have been renewed, what the broker does not know."""

from __future__ import annotations

import time

import pytest

from tinyfleet.broker_place import remember
from tinyfleet.coordinator.fleet.authority import Authority
from tinyfleet.doctor.answer import Outcome, Surroundings
from tinyfleet.doctor.certificates import certificates
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.mosquitto_files import write_broker

DAY = 86400.0


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.delenv("TINYFLEET_CA", raising=False)
    return tmp_path


def issued(state, name, days, ago=0.0):
    clock = lambda: time.time() - ago * DAY  # noqa: E731
    Authority(state / "authority", clock=clock).issue(subject_of(name), days=days)


def test_without_an_authority_nothing_is_wrong(state):
    told = certificates(Surroundings(state))
    assert told.status is Outcome.OK
    assert "tinyfleet ca init" in told.found


def test_the_first_to_end_is_named(state):
    Authority.make(state / "authority")
    issued(state, "board-1", 730)
    issued(state, "board-2", 100)
    told = certificates(Surroundings(state))
    assert told.status is Outcome.OK
    assert "2 in use" in told.found
    assert "that of board-2, in 100 days" in told.found


def test_what_should_have_been_renewed_is_a_warning(state):
    Authority.make(state / "authority")
    issued(state, "board-1", 730)
    issued(state, "late", 100, ago=80)
    issued(state, "gone", 10, ago=80)
    told = certificates(Surroundings(state))
    assert told.status is Outcome.WARNING
    assert "1 should have been renewed by now: late" in told.found
    assert "expired: gone" in told.found
    assert "tinyfleet ca renew NAME" in told.remedy
    assert "tinyfleet ca issue NAME" in told.remedy


def test_an_authority_that_others_may_read_is_a_warning(state):
    Authority.make(state / "authority")
    (state / "authority").chmod(0o755)
    told = certificates(Surroundings(state))
    assert told.status is Outcome.WARNING
    assert "chmod 700" in told.found


def test_a_broker_that_was_not_told_of_a_revocation_is_a_warning(state):
    authority = Authority.make(state / "authority")
    write_broker(authority, state / "broker", ["gateway.lan"])
    remember(authority, state / "broker", "")
    issued(state, "board-1", 730)
    assert certificates(Surroundings(state)).status is Outcome.OK
    authority.revoke("board-1")
    told = certificates(Surroundings(state))
    assert told.status is Outcome.WARNING
    assert "older than the authority's" in told.found
    assert f"tinyfleet broker refresh --ca {state / 'authority'} --out {state / 'broker'}" in told.remedy

"""One warning an outage, few while it lasts, one line when it is over."""

from __future__ import annotations

import logging

import pytest

from tinyfleet.fedcore.protocol.reach.backoff import STABLE_S
from tinyfleet.fedcore.protocol.reach.causes import Cause, CauseKind
from tinyfleet.fedcore.protocol.reach.watch import REPEAT_MOST_S, REPEAT_S, ReachWatch

PORT = Cause(CauseKind.PORT, "gw:1883: nobody listens")
NAME = Cause(CauseKind.NAME, "gw:1883: no such name")
TAKEN = Cause(CauseKind.SESSION, "gw:1883: taken over")


class Watched:
    """A watch whose clock is a test's."""

    def __init__(self, caplog):
        caplog.set_level(logging.INFO)
        self.now, self.caplog = 0.0, caplog
        self.watch = ReachWatch(logging.getLogger("t"), lambda: self.now, lambda: 1.8e9 + self.now)

    def says(self, cause, after=0.0):
        """What is logged once ``cause`` holds."""
        self.now += after
        self.caplog.clear()
        self.watch.note(cause)
        return [f"{record.levelname} {record.getMessage()}" for record in self.caplog.records]


@pytest.fixture
def watched(caplog):
    return Watched(caplog)


def test_an_outage_is_one_warning_and_one_line_when_it_is_over(watched):
    assert watched.says(None) == []
    assert watched.says(PORT, 100.0) == ["WARNING broker gw:1883: nobody listens"]
    assert watched.watch.trouble.since == 1.8e9 + 100.0
    assert watched.watch.trouble.told(1.8e9 + 190.0) == "port: gw:1883: nobody listens (for 90 s)"
    for _ in range(200):
        assert watched.says(PORT, 1.0) == []
    assert watched.says(None) == ["INFO the broker is reached again, after 3 min"]
    assert watched.watch.trouble is None
    assert watched.says(None, 1.0) == []


def test_what_lasts_is_said_again_less_and_less_often(watched):
    said_at = []
    for second in range(0, 19_000, 10):
        watched.now = float(second)
        if watched.says(PORT):
            said_at.append(second)
    waits = [later - earlier for earlier, later in zip(said_at, said_at[1:], strict=False)]
    assert waits == [REPEAT_S, 600.0, 1200.0, 2400.0, *4 * [REPEAT_MOST_S]]


def test_another_cause_is_said_at_once(watched):
    watched.says(PORT)
    assert watched.says(NAME, 5.0) == ["WARNING broker gw:1883: no such name"]
    assert watched.says(PORT, 5.0) == [], "and that was said"
    assert watched.watch.trouble.kind is CauseKind.PORT
    assert watched.says(None, 2.0) == ["INFO the broker is reached again, after 12 s"]


def test_what_comes_and_goes_is_one_outage(watched):
    watched.says(None)
    assert len(watched.says(PORT, 10.0)) == 1
    assert len(watched.says(None, 1.0)) == 1
    assert watched.says(PORT, 1.0) == ["WARNING broker gw:1883: nobody listens, again"]
    for _ in range(20):
        assert watched.says(None, 1.0) == []
        assert watched.watch.trouble is not None, "it stands for a moment"
        assert watched.says(PORT, 1.0) == []
    watched.says(None, 1.0)
    assert watched.says(None, STABLE_S - 1.0) == []
    assert watched.says(None, 1.0) == ["INFO the broker is reached again, after 103 s"]
    assert watched.says(None, STABLE_S) == []
    assert watched.says(PORT, 1.0) == ["WARNING broker gw:1883: nobody listens"], "another outage"


def test_a_connection_that_stands_is_no_proof_against_a_second_client(watched):
    watched.says(None)
    assert watched.says(TAKEN, 10.0) == ["WARNING broker gw:1883: taken over"]
    for _ in range(100):
        assert watched.says(None, 1.0) == []
        assert watched.says(TAKEN, 1.0) == []
    (again,) = watched.says(TAKEN, REPEAT_S - 200.0)
    assert again == "WARNING broker gw:1883: taken over (for 5 min, 101 times)"
    assert watched.says(None) == []
    assert watched.says(None, STABLE_S) == ["INFO the broker is reached again, after 6 min"]


def test_the_last_line_never_says_that_all_is_well_when_it_is_not(watched):
    """Over any flapping: what was logged last agrees with what holds, but for the minute of proof."""
    last = ""
    for turn in range(400):
        cause = PORT if turn % 7 in (1, 2, 5) else None
        for line in watched.says(cause, 3.0):
            last = line
        if cause is not None:
            assert last.startswith("WARNING"), turn

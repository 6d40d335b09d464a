"""While a run goes on without a board, its data is looked at again: what was mended is said without a restart."""

from __future__ import annotations

import pytest

from tests.edge_agent.rig import Looker
from tinyfleet.edge_agent.task.second_look import AGAIN_S, PATIENCE_S, Looked, SecondLook
from tinyfleet.edge_agent.worker.commands import DescribeCommand, Described, Unfit
from tinyfleet.fedcore.foreign.data_description import DataDescription
from tinyfleet.fedcore.protocol.messages import Hello, LeftOut

BEFORE = DataDescription((1, 4, 4), "uint8", classes=("green", "teal"))
AFTER = DataDescription((1, 4, 4), "uint8", classes=("green", "red"))
COMMAND = DescribeCommand("porch", {})


class Scene:
    def __init__(self):
        self.now, self.started = 0.0, []
        self.look = SecondLook(COMMAND, self.start, lambda: self.now)

    def start(self):
        self.started.append(Looker())
        return self.started[-1]

    def later(self, seconds=AGAIN_S, *, known=BEFORE, idle=True):
        self.now += seconds
        return self.look.tick(known, idle=idle)

    def sees(self, event, known=BEFORE):
        """The next look, which finds that."""
        assert self.later(known=known) is None
        self.started[-1].says.append(event)
        return self.later(0.0, known=known)


def described(data, samples=7):
    return Described((), samples, {}, "0", data)


@pytest.fixture
def scene():
    return Scene()


def test_nobody_looks_unasked(scene):
    scene.later(1e6)
    assert not scene.started


def test_what_was_mended_is_said_once_and_then_nobody_looks(scene):
    scene.look.wanted()
    assert scene.later(AGAIN_S - 1) is None
    assert not scene.started
    assert scene.sees(described(AFTER)) == Looked(AFTER, 7)
    assert scene.started[-1].heard == [COMMAND]
    assert scene.started[-1].killed
    scene.later(1e6, known=AFTER)
    assert len(scene.started) == 1


def test_as_long_as_nothing_has_changed_it_looks_again_and_says_nothing(scene):
    scene.look.wanted()
    assert scene.sees(described(BEFORE)) is None
    assert scene.sees(described(BEFORE)) is None
    assert scene.sees(described(AFTER)) == Looked(AFTER, 7)


def test_data_that_went_away_and_came_back_is_said_twice(scene):
    scene.look.wanted()
    assert scene.sees(Unfit("DataError", "no such folder")) == Looked(None, 0)
    assert scene.sees(Unfit("DataError", "no such folder"), known=None) is None
    assert scene.sees(described(BEFORE), known=None) == Looked(BEFORE, 7)


def test_a_board_that_is_needed_looks_later(scene):
    scene.look.wanted()
    scene.later(idle=False)
    assert not scene.started
    scene.later(0.0)
    assert len(scene.started) == 1
    assert scene.later(1.0, idle=False) is None
    assert scene.started[0].killed
    scene.later()
    assert len(scene.started) == 2


def test_a_look_that_does_not_end_is_ended(scene):
    scene.look.wanted()
    scene.later()
    assert scene.later(PATIENCE_S) is None
    assert scene.started[0].killed


def test_the_agent_greets_with_what_it_found(rig):
    rig.accepted()
    rig.coordinator.say(LeftOut("r", "classes: here teal, wanted red"))
    rig.settle()
    rig.settle(AGAIN_S)
    rig.looker.says.append(described(AFTER, 42))
    rig.coordinator.heard.clear()
    rig.settle()
    hello = rig.coordinator.of(Hello)[-1]
    assert (hello.data, hello.samples) == (AFTER, 42)

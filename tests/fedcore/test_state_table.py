"""The one table that both daemons' machines are made of."""

from __future__ import annotations

from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.fedcore.state_table import StateTable


class Door(StrEnum):
    SHUT = "shut"
    OPEN = "open"
    GONE = "gone"


class Push(StrEnum):
    PULL = "pull"
    SLAM = "slam"
    BURN = "burn"


TABLE = StateTable(
    Door.SHUT,
    {
        (Door.SHUT, Push.PULL): Door.OPEN,
        (Door.OPEN, Push.SLAM): Door.SHUT,
        (Door.SHUT, Push.BURN): Door.GONE,
        (Door.OPEN, Push.BURN): Door.GONE,
    },
)


def test_an_arrow_is_followed_and_anything_else_changes_nothing():
    assert TABLE.after(Door.SHUT, Push.PULL) is Door.OPEN
    assert TABLE.allows(Door.SHUT, Push.PULL)
    assert TABLE.after(Door.OPEN, Push.PULL) is Door.OPEN
    assert not TABLE.allows(Door.OPEN, Push.PULL)


def test_an_event_knows_where_it_leaves_and_where_it_leads():
    assert TABLE.sources(Push.BURN) == (Door.SHUT, Door.OPEN)
    assert TABLE.target(Push.BURN) is Door.GONE
    assert TABLE.final == (Door.GONE,)


def test_an_event_that_the_table_does_not_name_is_an_error():
    table = StateTable(Door.SHUT, {(Door.SHUT, Push.PULL): Door.OPEN})
    with pytest.raises(KeyError):
        table.target(Push.BURN)
    assert table.sources(Push.BURN) == ()


def test_an_event_that_leads_to_two_states_is_refused():
    arrows = {(Door.SHUT, Push.PULL): Door.OPEN, (Door.OPEN, Push.PULL): Door.GONE}
    with pytest.raises(ValueError, match="pull leads from open to gone, and from elsewhere to open"):
        StateTable(Door.SHUT, arrows)


def test_it_cannot_be_changed():
    with pytest.raises(AttributeError):
        TABLE.start = Door.OPEN  # type: ignore[misc]


def test_the_drawing():
    assert TABLE.mermaid().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> shut",
        "    shut --> open: pull",
        "    open --> shut: slam",
        "    shut --> gone: burn",
        "    open --> gone: burn",
        "    gone --> [*]",
    ]


@given(st.lists(st.sampled_from(Push), max_size=30))
def test_a_walk_takes_arrows_only(events):
    state = TABLE.start
    for event in events:
        after = TABLE.after(state, event)
        assert (after is TABLE.target(event)) == (state in TABLE.sources(event) or state is TABLE.target(event))
        assert TABLE.allows(state, event) or after is state
        state = after

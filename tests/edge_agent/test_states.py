from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.edge_agent.states import (
    LINK_TABLE,
    TASK_TABLE,
    AssignmentEvent,
    AssignmentState,
    LinkEvent,
    LinkState,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "agent.md"


@given(st.lists(st.sampled_from(LinkEvent)))
def test_the_link_follows_the_last_connection_event(events):
    state = LinkState.OFFLINE
    for event in events:
        state = LINK_TABLE.after(state, event)
        if event is LinkEvent.DISCONNECTED:
            assert state is LinkState.OFFLINE
        if event is LinkEvent.CONNECTED:
            assert state is LinkState.GREETING


@given(st.lists(st.sampled_from(AssignmentEvent)))
def test_a_task_trains_only_after_its_blob_and_always_ends(events):
    state = AssignmentState.IDLE
    for event in events:
        before = state
        state = TASK_TABLE.after(state, event)
        if state is AssignmentState.TRAINING and before is not AssignmentState.TRAINING:
            assert (before, event) == (AssignmentState.FETCHING, AssignmentEvent.FETCHED)
    state = TASK_TABLE.after(state, AssignmentEvent.CANCELLED)
    assert state is AssignmentState.IDLE


def test_no_network_event_reaches_the_task():
    assert not {event.value for event in AssignmentEvent} & {event.value for event in LinkEvent}


@pytest.mark.parametrize(("table", "states"), [(LINK_TABLE, LinkState), (TASK_TABLE, AssignmentState)])
def test_every_state_is_reached_and_left(table, states):
    assert set(table.arrows.values()) == set(states)
    assert {state for state, _ in table.arrows} == set(states)


@pytest.mark.parametrize("table", [LINK_TABLE, TASK_TABLE])
def test_the_document_draws_the_table(table):
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"```mermaid\n{table.mermaid()}\n```" in text


@pytest.mark.parametrize("kind", [LinkState, LinkEvent, AssignmentState, AssignmentEvent])
def test_the_document_names_every_state_and_event(kind):
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [member.value for member in kind if f"| {member.value} |" not in text] == []

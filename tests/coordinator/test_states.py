"""The state tables: total, closed, and final where they say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.coordinator.errors import AlreadyRunning, StoreError, UnknownDevice, UnknownRun
from tinyfleet.coordinator.states import (
    FINAL_TASK_PHASES,
    RUN_TABLE,
    SETTLED_TASK_PHASES,
    STEP_TABLE,
    TASK_TABLE,
    RunEvent,
    RunState,
    StepEvent,
    StepState,
    TaskEvent,
    TaskPhase,
    advance,
    mermaid,
)
from tinyfleet.fedcore.errors import ConfigError, TransportError
from tinyfleet.fedcore.protocol.broker_settings import BrokerSettings

FINAL = {
    RunState: {RunState.FINISHED, RunState.STOPPED, RunState.FAILED},
    StepState: {StepState.FINISHED, StepState.ABANDONED},
    TaskPhase: set(FINAL_TASK_PHASES),
}
TABLES = [
    pytest.param(RUN_TABLE, RunState, RunEvent, RunState.SUBMITTED, id="run"),
    pytest.param(STEP_TABLE, StepState, StepEvent, StepState.OPEN, id="step"),
    pytest.param(TASK_TABLE, TaskPhase, TaskEvent, TaskPhase.OFFERED, id="task"),
]
DOCUMENT = Path(__file__).parents[2] / "docs" / "coordinator.md"


def reachable(table, start, events):
    found, frontier = {start}, [start]
    while frontier:
        state = frontier.pop()
        for event in events:
            after = advance(table, state, event)
            if after not in found:
                found.add(after)
                frontier.append(after)
    return found


@pytest.mark.parametrize(("table", "states", "events", "start"), TABLES)
def test_every_state_is_reachable_and_answers_every_event(table, states, events, start):
    assert reachable(table, start, events) == set(states)
    assert all(isinstance(advance(table, state, event), states) for state in states for event in events)


@pytest.mark.parametrize(("table", "states", "events", "start"), TABLES)
def test_final_states_are_final_and_all_others_can_end(table, states, events, start):
    final = FINAL[states]
    for state in states:
        reached = reachable(table, state, events)
        assert reached == {state} if state in final else reached & final


@pytest.mark.parametrize(("table", "states", "events", "start"), TABLES)
def test_the_table_names_only_its_own_states_and_events(table, states, events, start):
    for (state, event), after in table.items():
        assert isinstance(state, states)
        assert isinstance(event, events)
        assert isinstance(after, states)
    assert {event for _, event in table} == set(events)


@given(st.lists(st.sampled_from(TaskEvent), max_size=40))
def test_a_counted_result_is_never_uncounted(events):
    phase, counted = TaskPhase.OFFERED, 0
    for event in events:
        before, phase = phase, advance(TASK_TABLE, phase, event)
        if phase in (TaskPhase.STORED, TaskPhase.LATE) and before is not phase:
            counted += 1
    assert counted <= 1
    assert counted == (phase in (TaskPhase.STORED, TaskPhase.LATE))


@given(st.lists(st.sampled_from(TaskEvent), max_size=40), st.sampled_from(TaskEvent))
def test_duplicates_of_what_devices_report_change_nothing(events, event):
    phase = TaskPhase.OFFERED
    for earlier in events:
        phase = advance(TASK_TABLE, phase, earlier)
    once = advance(TASK_TABLE, phase, event)
    assert advance(TASK_TABLE, once, event) is once


def test_a_step_can_always_stop_waiting():
    for phase in TaskPhase:
        assert phase in SETTLED_TASK_PHASES or advance(TASK_TABLE, phase, TaskEvent.LOSE) is TaskPhase.LOST


@pytest.mark.parametrize("table", [RUN_TABLE, STEP_TABLE, TASK_TABLE], ids=["run", "step", "task"])
def test_the_document_draws_this_table(table):
    assert f"```mermaid\n{mermaid(table)}\n```" in DOCUMENT.read_text(encoding="utf-8")


def test_the_document_lists_every_exit_code():
    text = DOCUMENT.read_text(encoding="utf-8")
    for error in (ConfigError, TransportError, AlreadyRunning, StoreError, UnknownRun, UnknownDevice):
        assert f"| {error.exit_code} | {error.__name__}:" in text


def test_the_document_lists_every_setting():
    text = DOCUMENT.read_text(encoding="utf-8")
    for kind, prefix in ((CoordinatorConfig, ""), (BrokerSettings, "broker.")):
        for name in kind.__struct_fields__:
            assert name == "broker" or f"`{prefix}{name}`" in text, name

"""The state tables: total, closed, final where they say so, and as the document draws them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.coordinator.states import (
    FINAL_TASK_PHASES,
    RUN_TABLE,
    SETTLED_TASK_PHASES,
    STEP_TABLE,
    TASK_TABLE,
    PhaseEvent,
    RunEvent,
    RunState,
    StepEvent,
    StepState,
    TaskPhase,
)

FINAL = {
    RunState: {RunState.FINISHED, RunState.STOPPED, RunState.FAILED},
    StepState: {StepState.FINISHED, StepState.ABANDONED},
    TaskPhase: {TaskPhase.FAILED, TaskPhase.REFUSED},
}
TABLES = [
    pytest.param(RUN_TABLE, RunState, RunEvent, id="run"),
    pytest.param(STEP_TABLE, StepState, StepEvent, id="step"),
    pytest.param(TASK_TABLE, TaskPhase, PhaseEvent, id="task"),
]
DOCUMENT = Path(__file__).parents[2] / "docs" / "coordinator.md"


def reachable(table, start, events):
    found, frontier = {start}, [start]
    while frontier:
        state = frontier.pop()
        for event in events:
            after = table.after(state, event)
            if after not in found:
                found.add(after)
                frontier.append(after)
    return found


@pytest.mark.parametrize(("table", "states", "events"), TABLES)
def test_every_state_is_reachable_and_answers_every_event(table, states, events):
    assert reachable(table, table.start, events) == set(states)
    assert all(isinstance(table.after(state, event), states) for state in states for event in events)


@pytest.mark.parametrize(("table", "states", "events"), TABLES)
def test_final_states_are_final_and_all_others_can_end(table, states, events):
    assert set(table.final) == FINAL[states]
    for state in states:
        reached = reachable(table, state, events)
        assert reached == {state} if state in table.final else reached & set(table.final)


@pytest.mark.parametrize(("table", "states", "events"), TABLES)
def test_the_table_names_only_its_own_states_and_events(table, states, events):
    for (state, event), after in table.arrows.items():
        assert isinstance(state, states)
        assert isinstance(event, events)
        assert isinstance(after, states)
    assert {event for _, event in table.arrows} == set(events)


@given(st.lists(st.sampled_from(PhaseEvent), max_size=40))
def test_a_counted_result_counts_once_and_only_its_exclusion_ends_that(events):
    phase, counted = TASK_TABLE.start, 0
    for event in events:
        before, phase = phase, TASK_TABLE.after(phase, event)
        if before in (TaskPhase.STORED, TaskPhase.LATE) and event is PhaseEvent.EXCLUDE:
            assert phase is TaskPhase.REFUSED
            return
        if phase in (TaskPhase.STORED, TaskPhase.LATE) and before is not phase:
            counted += 1
    assert counted <= 1
    assert counted == (phase in (TaskPhase.STORED, TaskPhase.LATE))


@given(st.lists(st.sampled_from(PhaseEvent), max_size=40), st.sampled_from(PhaseEvent))
def test_duplicates_of_what_devices_report_change_nothing(events, event):
    phase = TASK_TABLE.start
    for earlier in events:
        phase = TASK_TABLE.after(phase, earlier)
    once = TASK_TABLE.after(phase, event)
    assert TASK_TABLE.after(once, event) is once


def test_a_step_can_always_stop_waiting():
    assert FINAL_TASK_PHASES | {TaskPhase.LOST} == SETTLED_TASK_PHASES
    for phase in TaskPhase:
        assert phase in SETTLED_TASK_PHASES or TASK_TABLE.after(phase, PhaseEvent.LOSE) is TaskPhase.LOST


@pytest.mark.parametrize("table", [RUN_TABLE, STEP_TABLE, TASK_TABLE], ids=["run", "step", "task"])
def test_the_document_draws_this_table(table):
    assert f"```mermaid\n{table.mermaid()}\n```" in DOCUMENT.read_text(encoding="utf-8")

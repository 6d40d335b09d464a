"""Rows follow the state tables, whatever is asked of them in whatever order."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfleet.coordinator.states import (
    RUN_TABLE,
    STEP_TABLE,
    TASK_TABLE,
    PhaseEvent,
    RunEvent,
    StepEvent,
    TaskPhase,
)
from tinyfleet.coordinator.store.records import Choice, Share, StepSummary, TaskNote
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.protocol.messages import Enrolment, Hello, Manifest, ResultOffer
from tinyfleet.fedcore.run_spec import RunSpec

SUMMARY = StepSummary(1.0, 1.0, 0, [], None, None, 1.0)


def opened(store):
    """A run with an open step and one task."""
    store.devices.save_hello("board", Hello("board", "key", "s1", "0", []), Enrolment.ACCEPTED)
    run = store.runs.submit(RunSpec())
    store.open_step(run, 0, "train", 0, "base", Choice((Share("board", chosen=True),)))
    return run


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    yield store
    store.close()


@pytest.fixture
def run(store):
    return opened(store)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(PhaseEvent), max_size=12))
def test_a_row_walks_as_its_table_does(events):
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory))
        run = opened(store)
        phase = TASK_TABLE.start
        for event in events:
            moved = store._db.follow("tasks", TASK_TABLE, event, {"run": run, "device": "board"}, reason=event)
            assert bool(moved) == TASK_TABLE.allows(phase, event)
            phase = TASK_TABLE.after(phase, event)
            (task,) = store.tasks.of(run)
            assert task.state == phase
            assert task.reason == event or not moved
        store.close()


def offer(run, step=0):
    return ResultOffer(run, step, Manifest("0" * 64, 1, 10), 1.0, 1.0, 1, "torch", "0" * 64)


DEEDS = {
    "start": lambda store, run: store.runs.start(run),
    "prepared": lambda store, run: store.runs.prepared(run, "state"),
    "lose": lambda store, run: store.tasks.lose(run, 0, "board", "offline"),
    "back": lambda store, run: store.tasks.offer_again(run, 0, ["board"]),
    "count": lambda store, run: store.tasks.count("board", offer(run), 0),
    "count late": lambda store, run: store.tasks.count("board", offer(run), 1),
    "refuse": lambda store, run: store.tasks.refuse("board", run, 0, "invalid"),
    "abandon": lambda store, run: store.steps.abandon(run),
}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(sorted(DEEDS)), max_size=12))
def test_no_order_of_writes_leaves_the_tables_or_uncounts_a_result(deeds):
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory))
        run = opened(store)
        rows = (lambda: store.runs.get(run), lambda: store.steps.of(run)[0], lambda: store.tasks.of(run)[0])
        tables = (RUN_TABLE, STEP_TABLE, TASK_TABLE)
        counted = None
        for deed in deeds:
            before = [row().state for row in rows]
            DEEDS[deed](store, run)
            for table, was, row in zip(tables, before, rows, strict=True):
                now = row().state
                # ``count`` takes two arrows: the result is here, then it is counted.
                through = {was, *(after for (state, _), after in table.arrows.items() if state == was)}
                reached = through | {after for (state, _), after in table.arrows.items() if state in through}
                assert now in reached, (deed, was, now)
                assert was == now or was not in table.final
            found = [entry.step for step in (0, 1) for entry in store.tasks.counted(run, step)]
            assert len(found) <= 1
            assert counted is None or found == counted, "a result that counted still does"
            counted = found or None
        store.close()


def test_a_step_that_is_over_is_neither_finished_nor_extended(store, run):
    store.steps.abandon(run)
    with pytest.raises(AssertionError, match="is not open: enough means nothing"):
        store.finish_step(run, 0, "state", 1, SUMMARY)
    with pytest.raises(AssertionError, match="is not open: short means nothing"):
        store.extend_step(run, 0, 2, ["board"], Choice(()))
    assert store.runs.get(run).step == 0, "all or nothing"
    assert store.steps.of(run)[0].state == STEP_TABLE.target(StepEvent.ABANDON)


def test_a_run_ends_once(store, run):
    assert store.end_run(run, RunEvent.STOP, "stopped by the operator") == "stopped"
    with pytest.raises(AssertionError, match="is stopped: fail means nothing"):
        store.end_run(run, RunEvent.FAIL, "too late")
    assert store.runs.get(run).reason == "stopped by the operator"


def test_a_note_does_not_bring_an_ended_task_back(store, run):
    store.tasks.count("board", offer(run), 0)
    store.tasks.save(run, 0, TaskNote("board", TaskPhase.RUNNING, "behind", 0, 0, 0, 3, 9))
    assert store.tasks.phase(run, 0, "board") == (TaskPhase.STORED, "")
    store.tasks.save(run, 0, TaskNote("board", TaskPhase.STORED, "", 0, 0, 0, 9, 9))
    assert store.tasks.of(run)[0].local_steps_done == 9


def test_a_late_result_counts_from_lost_alone(store, run):
    store.tasks.count("board", offer(run), 1)
    assert store.tasks.phase(run, 0, "board") == (TaskPhase.OFFERED, "")
    store.tasks.lose(run, 0, "board", "deadline")
    store.tasks.count("board", offer(run), 1)
    assert store.tasks.phase(run, 0, "board") == (TaskPhase.LATE, "")
    assert [entry.step for entry in store.tasks.counted(run, 1)] == [0]

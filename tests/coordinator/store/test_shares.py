"""What selections leave in the store, across restarts and schema versions."""

from __future__ import annotations

import hashlib
import sqlite3

import pytest

from tinyfleet.coordinator.store.database.schema import SCHEMA_VERSION, UPGRADES
from tinyfleet.coordinator.store.records import Choice, Part, Share, StepSummary, TaskTime
from tinyfleet.coordinator.store.store import Store
from tinyfleet.coordinator.store.tasks import REMEMBERED
from tinyfleet.fedcore.protocol.messages import Enrolment, Hello, Manifest, ResultOffer
from tinyfleet.fedcore.run_spec import RunSpec

CHOICE = Choice(
    (
        Share("fast", chosen=True, whole_local_steps=40, predicted_s=3.5, basis="its last task"),
        Share("hot", Part.LEFT_OUT, reason="the temperature is 91 °C, the limit 85"),
        Share("slow", Part.PART, True, 12, 40, 0.5, 60.0, "the board's data sheet", "too long"),
        Share("spare", whole_local_steps=40),
    )
)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path, clock=lambda: 1000.0)
    for device in ("fast", "hot", "slow", "spare"):
        store.devices.save_hello(device, Hello(device, "key", "s1", "0", []), Enrolment.ACCEPTED)
    yield store
    store.close()


@pytest.fixture
def run(store):
    run = store.runs.submit(RunSpec())
    store.runs.start(run)
    store.runs.prepared(run, store.blobs.put(b"initial"))
    return run


def finish(store, run, step, device, train_s, wall_s=None):
    offer = ResultOffer(
        run, step, Manifest(hashlib.sha256(b"x").hexdigest(), 1, 10), train_s, train_s + 1, 1, "torch", "0" * 64
    )
    store.tasks.count(device, offer, step, wall_s)


def test_parts_and_reasons_are_kept(store, run):
    store.open_step(run, 0, "train", 0, "base", CHOICE)
    assert [(t.device, t.local_steps, t.activation_keep, t.state) for t in store.tasks.of(run)] == [
        ("fast", 0, 1.0, "offered"),
        ("slow", 12, 0.5, "offered"),
    ]
    (step,) = store.steps.of(run)
    assert (step.expected, step.left_out) == (2, {"hot": "the temperature is 91 °C, the limit 85"})
    shares = store.shares.latest()
    assert list(shares) == ["fast", "hot", "slow", "spare"]
    assert [(p.part, p.chosen) for p in shares.values()] == [
        ("whole", True), ("left out", False), ("part", True), ("whole", False)
    ]  # fmt: skip
    slow = shares["slow"]
    assert (slow.run, slow.step, slow.local_steps, slow.whole_local_steps, slow.activation_keep) == (
        run,
        0,
        12,
        40,
        0.5,
    )
    assert (slow.predicted_s, slow.basis, slow.reason) == (60.0, "the board's data sheet", "too long")


def test_another_try_adds_devices_and_keeps_the_parts_of_those_that_are_back(store, run):
    store.open_step(run, 0, "train", 0, "base", CHOICE)
    more = Choice((Share("hot", Part.LEFT_OUT, reason="91 °C still"), Share("spare", Part.PART, True, 7, 40)))
    store.extend_step(run, 0, 2, ["slow"], more)
    assert [(t.device, t.local_steps, t.activation_keep) for t in store.tasks.of(run)] == [
        ("fast", 0, 1.0), ("slow", 12, 0.5), ("spare", 7, 1.0)
    ]  # fmt: skip
    (step,) = store.steps.of(run)
    assert (step.attempt, step.expected, step.left_out) == (2, 3, {"hot": "91 °C still"})


def test_a_wait_is_told_although_there_is_no_step(store, run):
    store.note_waiting(run, 4, CHOICE)
    assert store.steps.of(run) == []
    assert store.shares.latest()["hot"].step == 4


def test_the_latest_tasks_of_the_stage_are_remembered(store, run):
    for step in range(REMEMBERED + 3):
        stage = "selection" if step == 0 else "train"
        store.open_step(run, step, stage, 0, "base", CHOICE)
        finish(store, run, step, "fast", 10.0 + step, 20.0 if step % 2 else None)
        lost = [{"device": "slow", "reason": "deadline"}] if step == 2 else []
        store.finish_step(run, step, "base", step, StepSummary(1, 1, 1, lost, None, None, 1.0))
    assert store.tasks.last_chosen(run) == {"fast": REMEMBERED + 2, "slow": REMEMBERED + 2}
    times = store.tasks.times(run, "train", {"fast": 40, "slow": 40}, 600.0)
    assert times[-1] == TaskTime("slow", 600.0, 600.0, 12)  # it missed a deadline: that long at the least
    fast = times[:-1]
    assert [(t.device, t.train_s, t.local_steps) for t in fast] == [
        ("fast", 10.0 + step, 40) for step in range(3, REMEMBERED + 3)
    ]
    assert [t.wall_s for t in fast] == [20.0 if step % 2 else 11.0 + step for step in range(3, REMEMBERED + 3)]
    assert store.tasks.times(run, "train", {}, 600.0) == []
    assert [t.train_s for t in store.tasks.times(run, "selection", {"fast": 1}, 600.0)] == [10.0]


def test_an_older_store_is_upgraded_with_all_that_is_in_it(tmp_path):
    connection = sqlite3.connect(tmp_path / "coordinator.db")
    connection.executescript(UPGRADES[0])
    connection.executescript(
        "INSERT INTO devices VALUES ('a', 'a', 'k', 'accepted', 's', 0, 1.0, '{}', '{}', 5, '[]', 0, 0, 0);"
        "INSERT INTO runs (run, name, method, state, rounds, created, spec)"
        " VALUES ('r', 'r', 'm', 'running', 3, 1.0, '{}');"
        "INSERT INTO steps (run, step, stage, round, state, attempt, base_sha256, started, expected)"
        " VALUES ('r', 0, 'train', 0, 'open', 1, 'x', 1.0, 1);"
        "INSERT INTO tasks (run, step, device, state) VALUES ('r', 0, 'a', 'running');"
        "PRAGMA user_version = 1"
    )
    connection.close()
    store = Store(tmp_path)
    (task,) = store.tasks.of("r")
    assert (task.device, task.state, task.local_steps, task.activation_keep, task.wall_s) == (
        "a",
        "running",
        0,
        1.0,
        None,
    )
    assert store.steps.of("r")[0].left_out == {}
    assert store.shares.latest() == {}
    store.close()
    again = sqlite3.connect(tmp_path / "coordinator.db")
    assert again.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION == len(UPGRADES)
    again.close()

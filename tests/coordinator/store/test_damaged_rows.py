"""Rows that cannot be read cost what they are of, and nobody else."""

from __future__ import annotations

import sqlite3

import pytest

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import Fleet, devices, expected_state
from tinyfleet.coordinator.store.store import Store

DEEP = '{"a":' + "[" * 960 + "]" * 960 + "}"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("profile", DEEP),
        ("profile", "{"),
        ("profile", "[]"),
        ("profile", '{"cores":1' + "0" * 400 + "}"),
        ("health", '{"rss_bytes":null}'),
        ("health", DEEP),
        ("engines", "{}"),
        ("enrolment", "no such word"),
    ],
)
def test_a_damaged_row_of_a_device_is_named_once_and_costs_nobody_else(tmp_path, caplog, column, value):
    fleet = Fleet(tmp_path)
    fleet.hello()
    fleet.sleep(1)
    fleet.vanish()
    with sqlite3.connect(tmp_path / "state" / "coordinator.db") as connection:
        connection.execute(f"UPDATE devices SET {column} = ? WHERE device = 'board-0'", (value,))  # noqa: S608
    fleet.start()
    if column != "enrolment":
        assert list(devices(fleet)) == ["board-1", "board-2"]
    assert list(devices(fleet))[-1] == "board-2"
    assert caplog.text.count("the row of board-0 in devices cannot be read") == 1
    fleet.agents["board-1"].hello()
    fleet.agents["board-2"].hello()
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    fleet.agents["board-0"].silent = True
    fleet.sleep(40)
    assert fleet.state_bytes(run) == expected_state(spec, ["board-1", "board-2"])
    fleet.service.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("lost", "null"),
        ("lost", '["board-0"]'),
        ("lost", '[{"device":"board-0"}]'),
        ("lost", '[{"device":"board-0","reason":null}]'),
        ("left_out", "[]"),
        ("left_out", '{"board-0":null}'),
        ("left_out", DEEP),
    ],
)
def test_a_damaged_row_of_a_step_is_named_and_the_others_are_shown(tmp_path, caplog, column, value):
    fleet = Fleet(tmp_path)
    fleet.hello()
    run = fleet.store.runs.submit(toy_spec(rounds=2))
    fleet.sleep(3)
    assert [row.step for row in fleet.store.steps.of(run)] == [0, 1]
    with sqlite3.connect(tmp_path / "state" / "coordinator.db") as connection:
        connection.execute(f"UPDATE steps SET {column} = ? WHERE step = 0", (value,))  # noqa: S608
    assert [row.step for row in fleet.store.steps.of(run)] == [1]
    assert "in steps cannot be read" in caplog.text
    fleet.service.close()


def test_a_damaged_run_fails_alone_and_can_be_stopped(tmp_path, caplog):
    fleet = Fleet(tmp_path)
    fleet.hello()
    damaged = [fleet.store.runs.submit(toy_spec()) for _ in range(2)]
    with sqlite3.connect(tmp_path / "state" / "coordinator.db") as connection:
        for run in damaged:
            connection.execute("UPDATE runs SET spec = ? WHERE run = ?", (DEEP, run))
    operator = Store(tmp_path / "state")
    operator.runs.request_stop(damaged[1])
    assert operator.runs.names() == damaged
    spec = toy_spec(rounds=1)
    sound = operator.runs.submit(spec)
    fleet.sleep(3)
    assert [operator.runs.state(run) for run in (*damaged, sound)] == ["failed", "stopped", "finished"]
    assert [row.run for row in operator.runs.all()] == [sound]
    assert caplog.text.count(f"the row of {damaged[0]} in runs cannot be read") >= 1
    assert fleet.state_bytes(sound) == expected_state(spec, fleet.agents)
    operator.close()
    fleet.service.close()

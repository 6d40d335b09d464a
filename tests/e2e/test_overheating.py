"""A fleet in the sun: real agents on boards that (their sensors say) overheat in the middle of a round."""

from __future__ import annotations

import time

import pytest

from tests.device_profiles.sensors.trees import ZONE, put
from tests.e2e.conftest import spec_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HEAT = f"{ZONE.format(0)}/temp"


def cpu_seconds(process):
    times = process.cpu_times()
    return times.user + times.system


def test_training_stops_while_boards_are_hot_and_the_round_waits(start, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYFLEET_SYSFS_ROOT", str(tmp_path / "root"))
    put(tmp_path / "root", HEAT, "50000\n")
    # A pause lasts 30 s at the least: without its being put off the deadline would end the round.
    spec = spec_of(2, 1, epochs=60, deadline_s=30.0)
    running = start(spec, 2)
    run = running.store.submit_run(spec)

    def training():
        steps = running.store.steps(run)
        return steps and steps[-1].stage == "train" and running.training_task(run, "agent-1")

    running.until("training", training)
    put(tmp_path / "root", HEAT, "90000\n")

    def paused():
        tasks = [task for task in running.store.tasks(run) if task.state == "running"]
        return len(tasks) == 2 and all("90" in task.reason for task in tasks)

    running.until("both pause", paused, 30.0)
    workers = [running.worker_of(agent) for agent in ("agent-0", "agent-1")]
    before = [cpu_seconds(worker) for worker in workers]
    time.sleep(5.0)
    assert [cpu_seconds(worker) for worker in workers] == before, "a paused worker takes no CPU"
    put(tmp_path / "root", HEAT, "60000\n")
    row = running.until("the run's end", lambda: running.ended(run), 200.0)
    assert (row.state, row.round) == ("finished", 1)
    assert [step.lost for step in running.store.steps(run) if step.stage == "train"] == [[]]
    assert all(task.retries == 0 for task in running.store.tasks(run))

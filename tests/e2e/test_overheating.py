"""A fleet in the sun: real agents on boards that (their sensors say) overheat in the middle of a round."""

from __future__ import annotations

import re
import time

import pytest

from tests.device_profiles.sensors.trees import ZONE, put
from tests.e2e.conftest import spec_of
from tinyfleet.demo.fleet import Fleet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HEAT = f"{ZONE.format(0)}/temp"
PAUSE_S, DEADLINE_S, WAIT_S = 10.0, 180.0, 180.0


def cpu_seconds(process):
    times = process.cpu_times()
    return times.user + times.system


@pytest.fixture
def shorter_pauses(monkeypatch):
    """Half a minute at the least is for boards, whose heat does not go with a file's text."""
    as_shipped = Fleet.agent_toml

    def agent_toml(fleet, name):
        text = as_shipped(fleet, name)
        assert text.count("least_pause_s = 30.0") == text.count("resume_after_s = 10.0") == 1
        text = text.replace("least_pause_s = 30.0", f"least_pause_s = {PAUSE_S}")
        return text.replace("resume_after_s = 10.0", "resume_after_s = 2.0")

    monkeypatch.setattr(Fleet, "agent_toml", agent_toml)


def put_off(running):
    """(device, seconds that the deadline is put off by, seconds left): what the coordinator tells of each pause."""
    told = re.compile(r"(agent-\d), step \d+: goes on .* put off by ([\d.]+) s, ([\d.]+) s are left")
    return [
        (name, float(by), float(left)) for name, by, left in told.findall(running.fleet.tail("coordinator", 200))
    ]


@pytest.mark.usefixtures("shorter_pauses")
def test_training_stops_while_boards_are_hot_and_the_round_waits(start, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYFLEET_SYSFS_ROOT", str(tmp_path / "root"))
    put(tmp_path / "root", HEAT, "50000\n")
    spec = spec_of(2, 1, epochs=40, deadline_s=DEADLINE_S)
    running = start(spec, 2, engine="torch")  # its training lasts long enough to be met
    run = running.store.runs.submit(spec)

    def training():
        steps = running.store.steps.of(run)
        return steps and steps[-1].stage == "train" and running.training_task(run, "agent-1")

    running.until("training", training, WAIT_S)
    put(tmp_path / "root", HEAT, "90000\n")

    def paused():
        tasks = [task for task in running.store.tasks.of(run) if task.state == "running"]
        return len(tasks) == 2 and all("90" in task.reason for task in tasks)

    running.until("both pause", paused, WAIT_S)
    workers = [running.worker_of(agent) for agent in ("agent-0", "agent-1")]
    before = [cpu_seconds(worker) for worker in workers]
    time.sleep(5.0)
    assert [cpu_seconds(worker) for worker in workers] == before, "a paused worker takes no CPU"
    put(tmp_path / "root", HEAT, "60000\n")
    row = running.until("the run's end", lambda: running.ended(run), WAIT_S)
    assert (row.state, row.round) == ("finished", 1)
    (step,) = [step for step in running.store.steps.of(run) if step.stage == "train"]
    assert step.lost == []
    assert all(task.retries == 0 for task in running.store.tasks.of(run))
    told = put_off(running)
    assert {name for name, _, _ in told} == {"agent-0", "agent-1"}
    assert all(PAUSE_S <= by < step.duration_s for _, by, _ in told), "as long as the pause"
    assert all(left > DEADLINE_S + PAUSE_S - step.duration_s for _, _, left in told), "and so much later it is"

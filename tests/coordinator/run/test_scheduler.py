"""The queue of runs: started in order, stopped, failed with a reason."""

from __future__ import annotations

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import Fleet, expected_state, hold_back, seen
from tinyfleet.coordinator.run.scheduler import create_method
from tinyfleet.fedcore.protocol.messages import RunEnded, TaskCancel, TaskState


def test_runs_queue_up(fleet):
    specs = [toy_spec(rounds=1, seed=seed) for seed in (1, 2)]
    runs = [fleet.store.runs.submit(spec) for spec in specs]
    fleet.hello()
    fleet.sleep(2)
    for run, spec in zip(runs, specs, strict=True):
        assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
    first, second = (fleet.store.runs.get(run) for run in runs)
    assert first.finished <= second.started


def test_stopping_a_run(fleet):
    from tinyfleet.coordinator.store.store import Store

    run, queued = fleet.store.runs.submit(toy_spec()), fleet.store.runs.submit(toy_spec())
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    fleet.sleep(1)
    operator = Store(fleet.directory / "state")
    operator.runs.request_stop(queued)
    operator.runs.request_stop(run)
    operator.close()
    fleet.sleep(1)
    assert (fleet.store.runs.get(run).state, fleet.store.runs.get(queued).state) == ("stopped", "stopped")
    for agent in fleet.agents.values():
        assert [message.reason for message in seen(agent, TaskCancel)] == ["run stopped"]
        assert [message.run for message in seen(agent, RunEnded)] == [run]
    assert {task.state for task in fleet.store.tasks.of(run)} == {"lost"}
    agent = fleet.agents["board-0"]
    agent.hello()
    fleet.turn()
    assert seen(agent, RunEnded)[-1].run == run


def test_an_unknown_method_fails_the_run_at_its_start(tmp_path):
    fleet = Fleet(tmp_path, create=create_method)
    spec = toy_spec()
    run = fleet.store.runs.submit(type(spec)(method={"name": "fedtinny"}))
    fleet.sleep(1)
    row = fleet.store.runs.get(run)
    assert (row.state, "fedtiny" in row.reason) == ("failed", True)
    fleet.service.close()


def test_a_failure_to_prepare_fails_the_run(fleet):
    fleet.engine.fail = "no public data"
    run = fleet.store.runs.submit(toy_spec())
    fleet.sleep(1)
    assert (fleet.store.runs.get(run).state, fleet.store.runs.get(run).reason) == ("failed", "no public data")


def test_a_run_that_no_device_can_do_fails_and_the_next_one_starts(fleet):
    def decline(agent, offer, task):
        agent.status(TaskState.DECLINED, offer, "will not fit")
        agent.offer = None

    for agent in fleet.agents.values():
        agent.behaviour = decline
    run = fleet.store.runs.submit(toy_spec(rounds=1, max_retries=1))
    following = fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.hello()
    fleet.sleep(3)
    for agent in fleet.agents.values():
        agent.behaviour = None
    row = fleet.store.runs.get(run)
    assert row.state == "failed"
    assert "0 of 1 needed results" in row.reason
    assert "declined: will not fit" in row.reason
    assert fleet.store.steps.of(run)[0].state == "abandoned"
    fleet.sleep(15)
    assert fleet.store.runs.get(following).state == "finished"

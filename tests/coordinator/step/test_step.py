"""The tasks of one step: lost, found, tried again, given up."""

from __future__ import annotations

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import expected_state, seen
from tinyfleet.fedcore.protocol.messages import TaskOffer, TaskState


def test_a_device_that_lost_its_task_is_offered_it_again(fleet):
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    agent = fleet.agents["board-0"]
    agent.behaviour = lambda agent, offer, task: None
    fleet.hello()
    fleet.sleep(1)
    agent.behaviour = None
    agent.offer = None  # forgotten without a word
    fleet.sleep(5)
    assert fleet.store.runs.get(run).state == "finished"


def test_a_device_that_vanishes_is_lost_after_its_grace(fleet):
    spec = toy_spec(rounds=1, grace_s=20.0)
    gone = fleet.agents["board-2"]
    gone.behaviour = lambda agent, offer, task: None
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    gone.goodbye()
    gone.silent = True
    fleet.sleep(19)
    assert fleet.store.runs.get(run).state == "running"
    fleet.sleep(3)
    assert fleet.store.runs.get(run).state == "finished"
    (step,) = fleet.store.steps.of(run)
    assert (step.results, step.expected) == (2, 3)
    assert step.lost == [{"device": "board-2", "reason": "offline"}]
    assert fleet.state_bytes(run) == expected_state(spec, ["board-0", "board-1"])


def test_silence_is_noticed_without_a_goodbye_and_a_return_within_grace_is_welcome(fleet):
    run = fleet.store.runs.submit(toy_spec(rounds=1, grace_s=30.0))
    agent = fleet.agents["board-0"]
    agent.behaviour = lambda agent, offer, task: None
    fleet.hello()
    agent.silent = True
    fleet.sleep(17)
    assert {d.device: d.online for d in fleet.store.devices.all()} == {
        "board-0": False,
        "board-1": True,
        "board-2": True,
    }
    agent.silent, agent.behaviour = False, None
    agent.restart()
    agent.hello()
    fleet.sleep(1)
    (step,) = fleet.store.steps.of(run)
    assert (step.state, step.results, step.lost) == ("finished", 3, [])


def test_over_budget_is_tried_again_within_the_step(fleet):
    def too_big(agent, offer, task):
        agent.behaviour = None
        agent.status(
            TaskState.OVER_BUDGET, offer, "300 MB at micro-batch 32", micro_batch=16, peak_rss_bytes=310_000_000
        )
        agent.offer = None

    fleet.agents["board-1"].behaviour = too_big
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
    task = fleet.store.tasks.of(run)[1]
    assert (task.device, task.state, task.retries, task.peak_rss_bytes) == ("board-1", "stored", 1, 310_000_000)


def test_a_task_that_always_fails_is_given_up_and_reported(fleet):
    def fail(agent, offer, task):
        agent.status(TaskState.FAILED, offer, "worker died")
        agent.offer = None

    fleet.agents["board-1"].behaviour = fail
    spec = toy_spec(rounds=1, max_retries=2)
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    (step,) = fleet.store.steps.of(run)
    assert step.lost == [{"device": "board-1", "reason": "failed: worker died"}]
    assert len(seen(fleet.agents["board-1"], TaskOffer)) == 3
    task = fleet.store.tasks.of(run)[1]
    assert (task.state, task.retries, task.reason) == ("failed", 2, "failed: worker died")
    assert fleet.state_bytes(run) == expected_state(spec, ["board-0", "board-2"])


def test_the_mask_travels_once(fleet):
    run = fleet.store.runs.submit(toy_spec(width=200))
    fleet.hello()
    fleet.sleep(1)
    for agent in fleet.agents.values():
        sizes = [offer.manifest.size for offer in seen(agent, TaskOffer)]
        assert len(sizes) == 3
        assert sizes[0] - sizes[1] > 3000  # 40,000 mask bits
        assert sizes[0] - sizes[2] > 3000
    assert fleet.store.runs.get(run).state == "finished"


def test_a_device_that_lost_its_mask_is_sent_it_again(fleet):
    def forget_once(agent, offer, task):
        agent.masks.clear()
        agent.behaviour = None
        agent.train(offer, task)

    fleet.agents["board-1"].behaviour = forget_once
    run = fleet.store.runs.submit(toy_spec(width=200))
    fleet.hello()
    fleet.sleep(1)
    offers = seen(fleet.agents["board-1"], TaskOffer)
    assert [offer.step for offer in offers] == [0, 1, 1, 2]
    assert offers[2].manifest.size > offers[1].manifest.size
    assert fleet.store.runs.get(run).state == "finished"
    assert all(task.retries == 0 for task in fleet.store.tasks.of(run))

"""A capability-aware run, from what devices did and said to the parts they are offered."""

from __future__ import annotations

import msgspec
import pytest

from tests.coordinator.toy import NO_DATA, create_toy, toy_spec
from tinyfleet.coordinator.selection.candidates import candidates_of
from tinyfleet.coordinator.store.rows import DeviceRow
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol.messages import TaskOffer
from tinyfleet.fedcore.run_spec import TrainingSettings

SPEC = msgspec.structs.replace(
    toy_spec(selection="capability", round_target_s=20.0), training=TrainingSettings(rounds=3, batch=2)
)
SAMPLES, STEPS = 50, 25  # of the toy's devices, and of their whole job


def takes(seconds_a_step):
    """Behaviour of a board that needs so long, in its own words."""

    def behave(agent, offer, task):
        blob = codec.encode(create_toy(SPEC).answer(task, agent.device), precision="fp32", send_mask=False)
        agent.put_result(offer, blob, train_s=seconds_a_step * (offer.local_steps or STEPS))

    return behave


def offered(agent):
    return [
        (offer.step, offer.local_steps, offer.activation_keep)
        for offer in agent.seen
        if isinstance(offer, TaskOffer)
    ]


def test_a_slow_board_is_given_fewer_steps_once_it_is_known(fleet):
    fleet.agents["board-1"].behaviour = takes(2.0)
    run = fleet.store.runs.submit(SPEC)
    fleet.hello()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    assert offered(fleet.agents["board-0"]) == [(0, 0, 1.0), (1, 0, 1.0), (2, 0, 1.0)]
    assert offered(fleet.agents["board-1"]) == [(0, 0, 1.0), (1, 10, 1.0), (2, 10, 1.0)]
    assert [t.local_steps for t in fleet.store.tasks.of(run) if t.device == "board-1"] == [0, 10, 10]
    share = fleet.store.shares.latest()["board-1"]
    assert (share.part, share.local_steps, share.whole_local_steps, share.predicted_s) == (
        "part",
        10,
        STEPS,
        pytest.approx(20.0),
    )
    assert share.basis == "its last 2 tasks"


def test_a_board_that_is_far_too_slow_is_left_out_with_the_reason(fleet):
    fleet.agents["board-1"].behaviour = takes(100.0)
    run = fleet.store.runs.submit(SPEC)
    fleet.hello()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    assert [step for step, _, _ in offered(fleet.agents["board-1"])] == [0]
    first, second, third = fleet.store.steps.of(run)
    assert (first.left_out, first.expected, second.expected) == ({}, 3, 2)
    reason = "the whole job takes 2500 s here, the round has 20 s, and even 4 of its 25 local steps take 400 s"
    assert second.left_out == third.left_out == {"board-1": reason}


@pytest.mark.parametrize("restarts", [False, True])
def test_after_a_restart_the_part_is_the_same(fleet, restarts):
    slow = fleet.agents["board-1"]

    def hangs_in_step_1(agent, offer, task):
        if offer.step != 1 or len(offered(agent)) > 2:
            takes(2.0)(agent, offer, task)

    slow.behaviour = hangs_in_step_1
    run = fleet.store.runs.submit(SPEC)
    fleet.hello()
    fleet.sleep(2)
    assert offered(slow) == [(0, 0, 1.0), (1, 10, 1.0)]
    fleet.vanish()
    if restarts:
        slow.restart()
    fleet.start()
    fleet.hello()
    fleet.sleep(2)
    part = {t.device: t.local_steps for t in fleet.store.tasks.of(run) if t.step == 1}
    assert part == {"board-0": 0, "board-1": 10, "board-2": 0}
    if restarts:
        assert offered(slow)[2:] == [(1, 10, 1.0), (2, 10, 1.0)]
        assert fleet.store.runs.get(run).state == "finished"
    else:  # it is still at its part: no offer is needed
        assert len(offered(slow)) == 2


def test_a_run_waits_while_everybody_is_too_hot_and_goes_on_when_one_is_not(fleet):
    fleet.hello()
    for agent in fleet.agents.values():
        agent.heartbeat(temperature_c=93.0)
    fleet.turn()
    run = fleet.store.runs.submit(SPEC)
    fleet.turn()
    assert fleet.store.steps.of(run) == []
    shares = fleet.store.shares.latest()
    assert {share.part for share in shares.values()} == {"left out"}
    assert "93 °C" in shares["board-0"].reason
    fleet.sleep(2)  # heartbeats without a temperature
    assert fleet.store.runs.get(run).state == "finished"


class Coming:
    """The first step of a run."""

    step = 0
    spec = SPEC

    def __init__(self, run: str) -> None:
        self.run = run
        self.method: Method = create_toy(SPEC)

    def task(self):
        return self.method.configure_round(self.method.initial_state(None, NO_DATA))


def row(device="a", samples=SAMPLES, memory_limit=0, **health):
    profile = {"cpu": "4x Cortex-A53", "cores": 4, "clock_mhz": 1000}
    return DeviceRow(device, device, "accepted", True, 0.0, profile, health, samples, [], memory_limit, 0, 0)


def test_candidates_know_their_board_and_their_job(fleet):
    coming = Coming("r")
    rows = [row("a", 50), row("b", 100), row("c", 150), row("none", 0)]
    found = {c.device: c for c in candidates_of(fleet.store.tasks, coming, rows)}
    assert [c.whole_local_steps for c in found.values()] == [25, 50, 75, 1]
    assert {c.waited for c in found.values()} == {1}
    seconds = {device: c.forecast.seconds for device, c in found.items() if c.forecast}
    flops = coming.method.cost(coming.task(), 100, 10).flops
    assert seconds["b"] == pytest.approx(flops / 2e9)
    assert seconds["c"] / seconds["a"] == pytest.approx(3.0)
    assert "none" not in seconds


def test_a_stage_without_training_steps_cannot_be_divided(fleet):
    coming = Coming("r")
    task = coming.task()
    task.meta["stage"] = "selection"
    coming.task = lambda: task
    assert [c.whole_local_steps for c in candidates_of(fleet.store.tasks, coming, [row()])] == [0]


def test_room_is_the_least_of_what_is_known(fleet):
    rows = [
        row("a"),
        row("b", memory_limit=300),
        row("c", free_memory_bytes=100.0, worker_rss_bytes=50.0),
        row("d", memory_limit=300, free_memory_bytes=100.0),
    ]
    assert [c.room_bytes for c in candidates_of(fleet.store.tasks, Coming("r"), rows)] == [0, 300, 150, 100]


def test_nobody_is_asked_for_nothing(fleet):
    assert candidates_of(fleet.store.tasks, Coming("r"), []) == []

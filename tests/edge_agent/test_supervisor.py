from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edge_agent.rig import IDENTITY, SPEC, Rig
from tinyfleet.edge_agent.states import Link, Task
from tinyfleet.edge_agent.supervisor import HELLO_REPEAT_S, REOFFER_S
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.messages import (
    ChunkRequest,
    Enrolment,
    Goodbye,
    Heartbeat,
    Hello,
    ResultOffer,
    RunEnded,
    TaskCancel,
    TaskState,
    TaskStatus,
    Verdict,
    encode,
)
from tinyfleet.fedcore.protocol.transport import Received
from tinyfleet.fedcore.run_spec import FleetSettings, RunSpec, TrainingSettings
from tinyfleet.fedcore.training.levers import Levers


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path)
    made.accepted()
    return made


def states(rig, step=None):
    return [status.state for status in rig.coordinator.of(TaskStatus) if step is None or status.step == step]


# -- the link -----------------------------------------------------------------------------------


def test_hello_is_repeated_until_a_welcome_comes(tmp_path):
    rig = Rig(tmp_path)
    rig.settle()
    rig.settle(2 * HELLO_REPEAT_S)
    hellos = rig.coordinator.of(Hello)
    assert len(hellos) == 2
    assert hellos[0] == hellos[1]
    assert (hellos[0].name, hellos[0].public_key, hellos[0].samples) == ("porch", IDENTITY.public_key, 100)
    assert hellos[0].memory_limit_bytes == 100_000_000
    rig.coordinator.welcome()
    rig.settle()
    rig.settle(10 * HELLO_REPEAT_S)
    assert len(rig.coordinator.of(Hello)) == 2
    assert rig.agent.link is Link.ACCEPTED


def test_an_agent_that_is_not_accepted_takes_no_task(tmp_path):
    rig = Rig(tmp_path)
    rig.settle()
    for enrolment in (Enrolment.PENDING, Enrolment.REJECTED):
        rig.coordinator.welcome(enrolment)
        rig.coordinator.offer()
        rig.settle()
        assert rig.coordinator.of(TaskStatus)[-1].state is TaskState.DECLINED
        assert enrolment.value in rig.coordinator.of(TaskStatus)[-1].reason
    assert not rig.workers


def test_a_board_without_an_engine_says_so(tmp_path):
    rig = Rig(tmp_path, engines=())
    rig.accepted()
    rig.coordinator.offer()
    rig.settle()
    assert "no training engine" in rig.coordinator.of(TaskStatus)[-1].reason


def test_heartbeats_keep_the_welcomed_interval_while_training(rig):
    rig.coordinator.welcome(heartbeat_s=2.0)
    rig.training()
    before = len(rig.coordinator.of(Heartbeat))
    for _ in range(10):
        rig.settle(1.0)
    beats = rig.coordinator.of(Heartbeat)[before:]
    assert 4 <= len(beats) <= 6
    assert beats[-1].task == ("r", 0)
    assert beats[-1].health["worker_rss_bytes"] == 77
    assert beats[-1].health["rss_bytes"] > 1_000_000
    assert beats[-1].traffic.sent >= beats[0].traffic.sent


def test_a_stop_says_goodbye_and_ends_the_worker(rig):
    rig.training()
    rig.agent.close()
    rig.coordinator.listen()
    assert rig.coordinator.of(Goodbye)[-1].session == rig.agent.session
    assert rig.worker.closed


# -- one task -------------------------------------------------------------------------------------


def test_a_task_from_offer_to_acknowledgement(rig):
    blob = bytes(range(256)) * 2000  # several chunks
    rig.training(blob=blob)
    command = rig.worker.commands[0]
    assert Path(command["blob"]).read_bytes() == blob
    assert (command["device"], command["first_way"], command["spec"]["name"]) == ("porch", 0, "run")
    assert command["target_bytes"] == 92_000_000
    rig.worker.events.append({"event": "progress", "done": 3, "total": 9, "loss": 0.5})
    rig.settle(1.5)
    running = [status for status in rig.coordinator.of(TaskStatus) if status.local_steps_done == 3]
    assert (running[0].local_steps_total, running[0].loss) == (9, 0.5)
    rig.worker.finish(b"R" * 150_000)
    rig.settle(0.5)
    assert states(rig) == [TaskState.ACCEPTED, TaskState.RUNNING, TaskState.RUNNING, TaskState.FINISHED]
    offer = rig.coordinator.of(ResultOffer)[-1]
    assert (offer.train_s, offer.task_s, offer.peak_rss_bytes, offer.engine) == (1.5, 2.0, 123, "torch")
    rig.coordinator.say(ChunkRequest(offer.manifest.sha256, 0, 8))
    rig.settle()
    assert b"".join(rig.coordinator.chunks[i] for i in sorted(rig.coordinator.chunks)) == b"R" * 150_000
    rig.coordinator.verdict()
    rig.settle()
    last = rig.coordinator.of(TaskStatus)[-1]
    assert last.state is TaskState.ACKNOWLEDGED
    assert rig.outbox.offers() == []
    assert rig.worker.closed, "policy fresh"


def test_traffic_is_charged_to_its_task(rig):
    for step, size in enumerate((400_000, 1000)):
        rig.training(step, blob=bytes([step]) * size)
        rig.worker.finish(bytes([step]) * 2000)
        rig.settle()
        rig.coordinator.verdict(step)
        rig.settle()
    first, second = [status for status in rig.coordinator.of(TaskStatus) if status.state is TaskState.ACKNOWLEDGED]
    assert first.traffic.received >= 400_000
    assert 1000 <= second.traffic.received < 50_000
    total = rig.transport.bytes_received
    assert first.traffic.received + second.traffic.received <= total


def test_progress_goes_out_at_most_once_a_second(rig):
    rig.training()
    for step in range(50):
        rig.worker.events.append({"event": "progress", "done": step, "total": 50, "loss": 1.0})
        rig.settle(0.1, turns=1)
    sent = [status for status in rig.coordinator.of(TaskStatus) if status.local_steps_total == 50]
    assert 4 <= len(sent) <= 6


def test_an_offer_that_is_repeated_starts_nothing_twice(rig):
    rig.training()
    rig.coordinator.offer(0)
    rig.settle()
    assert len(rig.workers) == 1
    assert states(rig)[-1] is TaskState.RUNNING
    rig.worker.finish()
    rig.settle()
    rig.coordinator.offer(0)
    rig.settle()
    assert len(rig.workers) == 1
    assert len(rig.coordinator.of(ResultOffer)) == 2, "the waiting result is offered instead"


def test_busy_is_said(rig):
    rig.training(run="one")
    rig.coordinator.offer(run="two")
    rig.settle()
    last = rig.coordinator.of(TaskStatus)[-1]
    assert (last.run, last.state) == ("two", TaskState.DECLINED)
    assert "busy with run one" in last.reason
    assert not rig.worker.closed


def test_a_newer_step_replaces_a_task_that_became_worthless(rig):
    rig.training(0)
    rig.training(1, blob=b"newer")
    assert rig.workers[0].closed
    assert rig.agent.assignments.state is Task.TRAINING
    tolerant = RunSpec(method=SPEC.method, training=TrainingSettings(batch=8), fleet=FleetSettings(staleness=5))
    rig.coordinator.say(TaskCancel("r", 1))
    rig.settle()
    rig.training(3, spec=tolerant)
    rig.coordinator.offer(4, b"next", spec=tolerant)
    rig.settle()
    assert rig.agent.assignments.key == ("r", 3), "its result still counts"
    assert rig.coordinator.of(TaskStatus)[-1].state is TaskState.DECLINED


def test_cancel_ends_the_worker_and_drops_the_result(rig):
    rig.training(0)
    rig.coordinator.say(TaskCancel("r", 7, "another step"))
    rig.settle()
    assert not rig.worker.closed
    rig.coordinator.say(TaskCancel("r", 0, "the round is over"))
    rig.settle()
    assert rig.worker.closed
    rig.training(1, blob=b"b")
    rig.worker.finish()
    rig.settle()
    assert rig.outbox.offers()
    rig.coordinator.say(TaskCancel("r", 1))
    rig.settle()
    assert rig.outbox.offers() == []


def test_a_run_that_ended_leaves_no_worker_and_no_masks(tmp_path):
    rig = Rig(tmp_path, policy="warm")
    rig.accepted()
    rig.training(0)
    masks = rig.worker.commands[0]["masks"]
    (tmp_path / "masks").mkdir(exist_ok=True)
    Path(masks).mkdir()
    rig.worker.finish()
    rig.settle()
    assert not rig.worker.closed
    rig.training(1, blob=b"second")
    assert len(rig.workers) == 1, "warm: the same process"
    rig.worker.finish()
    rig.settle()
    rig.coordinator.say(RunEnded("r"))
    rig.settle()
    assert rig.worker.closed
    assert not Path(masks).exists()


def test_a_warm_worker_is_not_shared_between_runs_and_not_kept_for_ever(tmp_path):
    rig = Rig(tmp_path, policy="warm")
    rig.accepted()
    rig.training(0)
    rig.worker.finish()
    rig.settle()
    rig.training(0, run="other")
    assert [worker.closed for worker in rig.workers] == [True, False]
    rig.worker.finish()
    rig.settle()
    rig.settle(599.0)
    assert not rig.worker.closed
    rig.settle(2.0)
    assert rig.worker.closed


def test_a_warm_worker_that_dies_idle_costs_nothing(tmp_path):
    rig = Rig(tmp_path, policy="warm")
    rig.accepted()
    rig.training(0)
    rig.worker.finish()
    rig.settle()
    rig.worker.events.append({"event": "failed", "kind": "WorkerDied", "reason": "SIGKILL"})
    rig.settle()
    rig.training(1, blob=b"next")
    assert len(rig.workers) == 2


# -- what goes wrong --------------------------------------------------------------------------------


def planned(index: int, micro_batch: int, name: str = "planned", keep: float = 1.0) -> dict[str, object]:
    way = {"levers": msgspec.to_builtins(Levers(micro_batch, keep)), "roomy": False}
    return {"event": name, "index": index, "ways": 4, "way": way, "peak_bytes": 90_000_000, "round_seconds": 1.0}


def test_over_budget_then_the_next_smaller_micro_batch(rig):
    expected = [0, 4, 2, 1]
    for attempt, micro_batch in enumerate(expected):
        rig.training(0)
        assert rig.worker.commands[0]["first_way"] == attempt
        rig.worker.events += [
            planned(attempt, micro_batch),
            {"event": "training", "engine": "torch"},
            {"event": "over_budget", "reason": "killed by the kernel"},
        ]
        rig.settle()
        status = rig.coordinator.of(TaskStatus)[-1]
        assert status.state is TaskState.OVER_BUDGET
        assert status.peak_rss_bytes == 99
        assert status.micro_batch == micro_batch
        assert ("the next try takes less" in status.reason) == (attempt < 3)
        assert rig.worker.closed
    rig.coordinator.offer(0)
    rig.settle()
    assert rig.coordinator.of(TaskStatus)[-1].state is TaskState.DECLINED
    assert "4 tries" in rig.coordinator.of(TaskStatus)[-1].reason
    assert len(rig.workers) == 4


def test_near_its_limit_a_worker_is_asked_for_less_and_goes_on(rig):
    rig.training(0)
    rig.worker.events += [planned(0, 8), {"event": "near_limit", "rss_bytes": 95_000_000}]
    rig.settle()
    assert len(rig.worker.commands) == 1  # not before it trains: nothing could get smaller
    rig.worker.events += [
        {"event": "training", "engine": "torch"},
        {"event": "near_limit", "rss_bytes": 95_000_000},
    ]
    rig.settle()
    assert rig.worker.commands[1:] == [{"cmd": "tighten"}]
    rig.worker.events += [
        planned(2, 4, "tightened", 0.5),
        {"event": "progress", "done": 3, "total": 9, "loss": 1.0},
    ]
    rig.clock.now += 5.0
    rig.settle()
    assert rig.coordinator.of(TaskStatus)[-1].micro_batch == 4
    assert rig.governor.limits(SPEC).first_way == 2  # the next task begins there
    assert not rig.worker.closed


def test_what_a_run_suffers_for_want_of_memory_is_said_once_and_told_with_each_task(rig, caplog):
    with caplog.at_level(logging.INFO):
        for step in range(3):
            rig.training(step, blob=b"task %d" % step)
            rig.worker.events.append(planned(1, 4, keep=0.5))
            rig.worker.finish()
            rig.settle()
            rig.coordinator.verdict(step)
            rig.settle()
    words = "micro-batch 4, 50% of activations kept in fp32"
    (said,) = [record.getMessage() for record in caplog.records if words in record.getMessage()]
    assert said == f"run r step 0: {words}, for this board has no memory for more"
    results = rig.coordinator.of(ResultOffer)
    assert {offer.step for offer in results} == {0, 1, 2}
    assert {offer.levers for offer in results} == {words}


def test_a_plan_that_gives_nothing_up_says_so(rig):
    rig.training(0)
    rig.worker.events.append(planned(0, 0))
    rig.worker.finish()
    rig.settle()
    assert {offer.levers for offer in rig.coordinator.of(ResultOffer)} == {""}


def test_a_task_that_cannot_fit_is_declined_by_the_workers_plan(rig):
    rig.training(0)
    rig.worker.events.append({"event": "declined", "reason": "needs 400M"})
    rig.settle()
    assert rig.coordinator.of(TaskStatus)[-1].state is TaskState.DECLINED
    assert "400M" in rig.coordinator.of(TaskStatus)[-1].reason
    rig.coordinator.offer(0)
    rig.settle()
    assert len(rig.workers) == 1
    assert rig.coordinator.of(TaskStatus)[-1].state is TaskState.DECLINED


def test_a_board_that_lacks_the_runs_method_declines_and_takes_the_next_run(rig):
    rig.training(0)
    rig.worker.events.append({"event": "unavailable", "reason": "method 'acme' is unknown; install that one"})
    rig.settle()
    status = rig.coordinator.of(TaskStatus)[-1]
    assert (status.state, status.reason) == (TaskState.DECLINED, "method 'acme' is unknown; install that one")
    assert not rig.governor.plan(SPEC).refusal, "nothing was learned about memory"
    rig.training(0, run="another")
    assert states(rig)[-1] is TaskState.RUNNING


def test_a_failed_worker_is_told_and_the_agent_lives_on(rig):
    rig.training(0)
    rig.worker.events.append({"event": "failed", "kind": "WorkerDied", "reason": "ended by SIGSEGV"})
    rig.settle()
    status = rig.coordinator.of(TaskStatus)[-1]
    assert (status.state, status.reason) == (TaskState.FAILED, "WorkerDied: ended by SIGSEGV")
    rig.training(0)
    assert len(rig.workers) == 2


def test_a_mask_that_is_not_held_is_asked_for(rig):
    rig.training(0, blob=b"refers")
    rig.worker.events.append({"event": "needs_mask", "digest": "x", "reason": "mask x is not held here"})
    rig.settle()
    assert states(rig)[-1] is TaskState.NEEDS_MASK
    rig.training(0, blob=b"carries")
    assert len(rig.workers) == 2


def test_a_lease_that_runs_out_while_fetching(rig):
    rig.coordinator.serving = False
    rig.coordinator.offer(lease_s=20.0)
    rig.settle()
    requests = len(rig.coordinator.of(ChunkRequest))
    rig.settle(10.0)
    assert len(rig.coordinator.of(ChunkRequest)) > requests, "asked again after a silence"
    rig.settle(11.0)
    assert states(rig)[-1] is TaskState.FAILED
    assert "lease" in rig.coordinator.of(TaskStatus)[-1].reason
    rig.coordinator.serving = True
    rig.training(1)


def test_a_spec_that_is_none_is_declined(rig):
    offer = rig.coordinator.offer(0)
    rig.settle()
    rig.coordinator.say(TaskCancel("r", 0))
    rig.settle()
    rig.coordinator.say(msgspec.structs.replace(offer, spec={"seeds": 3}))
    rig.settle()
    last = rig.coordinator.of(TaskStatus)[-1]
    assert last.state is TaskState.DECLINED
    assert "seed" in last.reason


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"\xff\x00", b'{"type":"welcome"}', b'{"type":"hello"}', b"[" * 90000]
)
def test_garbage_is_dropped(rig, payload):
    rig.coordinator.transport.publish(topics.down("porch"), payload)
    rig.coordinator.transport.publish(topics.down_chunk("porch"), payload)
    rig.settle()
    rig.training()


def test_topics_of_others_are_ignored(rig):
    """A broker without access rules, or one that leaks, may deliver anything."""
    rig.agent._handle(Received(topics.down("other"), encode(TaskCancel("r", 0))))
    rig.training()
    rig.agent._handle(Received(topics.down("other"), encode(TaskCancel("r", 0))))
    rig.agent._handle(Received(topics.up("porch"), encode(TaskCancel("r", 0))))
    assert not rig.worker.closed


# -- network losses and restarts -----------------------------------------------------------------------


def test_losing_the_network_never_stops_training(rig):
    rig.training()
    rig.broker.drop(IDENTITY.client_id)
    rig.settle()
    assert rig.agent.link is Link.OFFLINE
    rig.worker.finish()
    rig.settle(5.0)
    assert not rig.coordinator.of(ResultOffer)
    assert len(rig.outbox.offers()) == 1
    rig.broker.restore(IDENTITY.client_id)
    rig.settle()
    hello = rig.coordinator.of(Hello)[-1]
    assert hello.task == ("r", 0)
    assert len(rig.coordinator.of(ResultOffer)) == 1


def test_results_are_offered_until_a_verdict_comes(rig):
    rig.training()
    rig.worker.finish()
    rig.settle()
    for _ in range(3):
        rig.settle(REOFFER_S + 0.1)
    assert len(rig.coordinator.of(ResultOffer)) == 4
    rig.coordinator.verdict(verdict=Verdict.REFUSED)
    rig.settle()
    rig.settle(REOFFER_S + 0.1)
    assert len(rig.coordinator.of(ResultOffer)) == 4
    assert TaskState.ACKNOWLEDGED not in states(rig)


def test_a_result_outlives_the_agent(rig):
    rig.training()
    rig.worker.finish()
    rig.settle()
    first = rig.agent.session
    rig.transport.close()  # kill -9: no goodbye
    rig.start()
    rig.settle()
    hello = rig.coordinator.of(Hello)[-1]
    assert hello.session != first
    assert hello.task == ("r", 0)
    assert rig.coordinator.of(ResultOffer)[-1].step == 0


def test_a_verdict_that_comes_twice_is_nothing(rig):
    rig.training()
    rig.worker.finish()
    rig.settle()
    rig.coordinator.verdict()
    rig.coordinator.verdict(verdict=Verdict.DUPLICATE)
    rig.coordinator.verdict(step=9)
    rig.settle()
    assert states(rig).count(TaskState.ACKNOWLEDGED) == 1


# -- any order of events -----------------------------------------------------------------------------------

ACTIONS = st.sampled_from(
    [
        "offer 0", "offer 1", "offer 2", "other run", "cancel 0", "cancel 1", "ended", "verdict 0", "verdict 1",
        "refused 0", "drop", "restore", "done", "failed", "over_budget", "needs_mask", "progress", "second",
        "minute", "silence", "speak", "pending", "accepted", "chunks 0", "restart",
    ]
)  # fmt: skip


def act(rig: Rig, action: str) -> None:
    coordinator, worker = rig.coordinator, rig.workers[-1] if rig.workers else None
    busy = rig.agent.assignments.state is Task.TRAINING
    match action.split():
        case ["offer", step]:
            coordinator.offer(int(step), f"blob {step}".encode())
        case ["other", "run"]:
            coordinator.offer(0, run="q")
        case ["cancel", step]:
            coordinator.say(TaskCancel("r", int(step)))
        case ["ended"]:
            coordinator.say(RunEnded("r"))
        case ["verdict", step]:
            coordinator.verdict(int(step))
        case ["refused", step]:
            coordinator.verdict(int(step), Verdict.REFUSED)
        case ["drop"]:
            rig.broker.drop(IDENTITY.client_id)
        case ["restore"]:
            rig.broker.restore(IDENTITY.client_id)
        case ["done"] if busy:
            worker.finish()
        case ["failed" | "over_budget" | "needs_mask" as event] if busy:
            worker.events.append({"event": event, "reason": "because", "kind": "Error"})
        case ["progress"] if busy:
            worker.events.append({"event": "progress", "done": 1, "total": 2, "loss": 0.1})
        case ["second"]:
            rig.clock.now += 1.0
        case ["minute"]:
            rig.clock.now += 60.0
        case ["silence"]:
            coordinator.serving = False
        case ["speak"]:
            coordinator.serving = True
        case ["pending" | "accepted" as enrolment]:
            coordinator.welcome(Enrolment(enrolment))
        case ["chunks", _]:
            for offer in rig.outbox.offers():
                coordinator.say(ChunkRequest(offer.manifest.sha256, 0, 8))
        case ["restart"]:
            rig.transport.close()
            rig.agent.assignments.stop()
            rig.start()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, max_size=25))
def test_any_order_of_events_keeps_the_invariants(tmp_path_factory, actions):
    rig = Rig(tmp_path_factory.mktemp("rig"), policy="warm")
    rig.accepted()
    for action in actions:
        act(rig, action)
        rig.settle(turns=2)
        tasks = rig.agent.assignments
        assert (tasks.state is Task.IDLE) == (tasks.key is None)
        alive = [worker for worker in rig.workers if not worker.closed]
        assert len(alive) <= 1, "one worker at most"
        if tasks.state is Task.TRAINING:
            assert len(alive) == 1
            assert alive[0].commands
        keys = [(offer.run, offer.step) for offer in rig.outbox.offers()]
        assert len(keys) == len(set(keys))
        assert tasks.key is None or tasks.key not in keys, "a finished task is not trained again"
    rig.broker.restore(IDENTITY.client_id)
    rig.coordinator.serving = True
    rig.settle(100.0)
    rig.coordinator.welcome()
    rig.coordinator.say(RunEnded("r"))
    rig.coordinator.say(TaskCancel("q", 0))
    rig.settle()
    for step in (0, 1, 2):
        rig.coordinator.verdict(step)
    rig.settle()
    assert rig.agent.assignments.state is Task.IDLE
    assert rig.outbox.offers() == []

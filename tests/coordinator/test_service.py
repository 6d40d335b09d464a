"""Whole runs over the loop transport, with real messages and payloads, driven by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.coordinator.toy import NO_DATA, Fleet, create_toy, toy_spec
from tinyfleet.coordinator.states import TaskPhase
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol.messages import (
    Enrolment,
    ResultOffer,
    ResultVerdict,
    RunEnded,
    TaskCancel,
    TaskOffer,
    TaskState,
    Verdict,
    Welcome,
)


@pytest.fixture
def fleet(tmp_path):
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.service.close()


def expected_state(spec, devices, rounds=None) -> bytes:
    """The same run, computed without any of the coordinator."""
    method = create_toy(spec)
    state = method.initial_state(None, NO_DATA)
    for _ in range(spec.training.rounds if rounds is None else rounds):
        task, fold = method.configure_round(state), method.begin_fold(state)
        for device in devices:
            method.fold(fold, method.answer(task, device))
        state = method.finish_round(state, fold)
    return codec.encode(state, precision="fp32")


def seen(agent, kind):
    return [message for message in agent.seen if isinstance(message, kind)]


def hold_back(fleet, *names):
    for name in names:
        fleet.agents[name].holds_results = True


def test_a_run_from_submission_to_its_end(fleet):
    spec = toy_spec()
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    row = fleet.store.runs.get(run)
    assert (row.state, row.step, row.round, row.rounds) == ("finished", 3, 3, 3)
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
    steps = fleet.store.steps.of(run)
    assert [(s.step, s.stage, s.state, s.expected, s.results, s.lost) for s in steps] == [
        (step, "train", "finished", 3, 3, []) for step in range(3)
    ]
    assert all(step.loss == pytest.approx(0.5) and step.density == pytest.approx(0.3, abs=1e-3) for step in steps)
    assert [step.test_accuracy for step in steps] == [0.9] * 3
    assert fleet.engine.evaluated == [0, 1, 2]
    assert [(s.bytes_up, s.bytes_down) for s in steps] == [(1000.0, 2000.0)] * 3
    tasks = fleet.store.tasks.of(run)
    assert {(t.state, t.train_s, t.peak_rss_bytes, t.engine) for t in tasks} == {
        ("stored", 0.5, 50_000_000, "torch")
    }
    for agent in fleet.agents.values():
        assert [message.run for message in seen(agent, RunEnded)] == [run]
        assert {message.verdict for message in seen(agent, ResultVerdict)} == {Verdict.STORED}


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


@pytest.mark.parametrize("order", list(itertools.permutations(["board-0", "board-1", "board-2"])))
def test_any_order_of_arrival_gives_the_same_bytes(fleet, order):
    spec = toy_spec(rounds=1)
    hold_back(fleet, *order)
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    for name in order:
        fleet.agents[name].offer_results()
        fleet.turn()
    fleet.sleep(1)
    assert fleet.state_bytes(run) == expected_state(spec, order)


def test_a_restart_between_steps_changes_nothing(fleet):
    spec = toy_spec()
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    for step in range(3):
        fleet.sleep(1)
        assert fleet.store.runs.get(run).step == step
        for agent in fleet.agents.values():
            agent.offer_results()
        fleet.turn()
        fleet.vanish()
        fleet.start()
        fleet.sleep(6)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_a_restart_in_the_middle_of_a_step_changes_nothing(fleet):
    spec = toy_spec()
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, "board-1", "board-2")
    fleet.hello()
    fleet.sleep(1)
    assert [task.state for task in fleet.store.tasks.of(run)].count("stored") == 1
    fleet.vanish()
    fleet.start()
    assert fleet.service._scheduler.open_step.fold.results == 1  # folded again from the disk
    fleet.agents["board-2"].offer_results()
    fleet.sleep(1)
    assert fleet.service._scheduler.open_step.fold.results == 2
    fleet.vanish()
    fleet.start()
    for name in ("board-1", "board-2"):
        fleet.agents[name].holds_results = False
    fleet.agents["board-1"].offer_results()
    fleet.sleep(6)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
    assert [step.results for step in fleet.store.steps.of(run)] == [3, 3, 3]


def test_devices_that_restarted_with_the_coordinator_get_their_offers_again(fleet):
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    for agent in fleet.agents.values():
        agent.behaviour = lambda agent, offer, task: None  # never answers
    fleet.hello()
    fleet.sleep(1)
    fleet.vanish()
    for agent in fleet.agents.values():
        agent.behaviour = None
        agent.restart()
    fleet.start()
    fleet.hello()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"


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


def test_too_few_results_at_the_deadline_are_kept_and_the_step_is_tried_again(fleet):
    spec = toy_spec(rounds=1, min_results=3, deadline_s=20.0)
    run = fleet.store.runs.submit(spec)
    slow = fleet.agents["board-2"]
    slow.holds_results = True
    fleet.hello()
    fleet.sleep(25)
    (step,) = fleet.store.steps.of(run)
    assert (step.state, step.attempt) == ("open", 2)
    assert not seen(slow, TaskCancel)
    slow.offer_results()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_a_step_that_never_gets_enough_fails_the_run(tmp_path):
    fleet = Fleet(tmp_path, step_attempts=2)
    run = fleet.store.runs.submit(toy_spec(rounds=1, min_results=3, deadline_s=10.0))
    hold_back(fleet, "board-2")
    fleet.hello()
    fleet.sleep(25)
    row = fleet.store.runs.get(run)
    assert (row.state, "2 of 3 needed results" in row.reason, "in 2 tries" in row.reason) == ("failed", True, True)
    fleet.service.close()


def test_the_deadline_closes_a_step_with_those_who_answered(fleet):
    spec = toy_spec(rounds=1, min_results=2, deadline_s=20.0)
    run = fleet.store.runs.submit(spec)
    late = fleet.agents["board-0"]
    late.holds_results = True
    fleet.hello()
    held = dict(late.outbox)
    fleet.sleep(21)
    (step,) = fleet.store.steps.of(run)
    assert (step.state, step.lost) == ("finished", [{"device": "board-0", "reason": "deadline"}])
    assert [(message.step, message.reason) for message in seen(late, TaskCancel)] == [(0, "the step is over")]
    late.outbox = held  # it had been sent already
    late.offer_results()
    fleet.turn()
    verdict = seen(late, ResultVerdict)[-1]
    assert verdict.verdict is Verdict.REFUSED
    assert "too late" in verdict.reason
    assert fleet.state_bytes(run) == expected_state(spec, ["board-1", "board-2"])


def test_a_late_result_within_the_staleness_window_counts_in_a_later_step(fleet):
    spec = toy_spec(rounds=2, staleness=1, deadline_s=20.0)
    run = fleet.store.runs.submit(spec)
    late = fleet.agents["board-0"]
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    for name in ("board-1", "board-2"):
        fleet.agents[name].offer_results()
    fleet.sleep(21)
    assert fleet.store.runs.get(run).step == 1
    assert not seen(late, TaskCancel)
    assert [task.device for task in fleet.store.tasks.of(run) if task.step == 1] == [
        "board-1",
        "board-2",
    ]  # it is busy
    for agent in fleet.agents.values():
        agent.offer_results()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    assert {(t.device, t.step): t.state for t in fleet.store.tasks.of(run)}["board-0", 0] == TaskPhase.LATE
    assert [step.results for step in fleet.store.steps.of(run)] == [2, 3]
    method = create_toy(spec)
    before = codec.decode(expected_state(spec, ["board-1", "board-2"], rounds=1))
    fold = method.begin_fold(before)
    task = method.configure_round(before)
    for device in ("board-1", "board-2"):
        method.fold(fold, method.answer(task, device))
    method.fold(fold, method.answer(method.configure_round(method.initial_state(None, NO_DATA)), "board-0"))
    assert fleet.state_bytes(run) == codec.encode(method.finish_round(before, fold), precision="fp32")


def test_a_rejected_device_takes_no_part(fleet):
    fleet.hello()
    fleet.store.devices.set_enrolment("board-0", Enrolment.REJECTED)
    fleet.vanish()
    fleet.start()
    fleet.hello()
    assert seen(fleet.agents["board-0"], Welcome)[-1].enrolment is Enrolment.REJECTED
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.sleep(6)
    assert fleet.store.runs.get(run).state == "finished"
    assert [task.device for task in fleet.store.tasks.of(run)] == ["board-1", "board-2"]
    assert not seen(fleet.agents["board-0"], TaskOffer)


def test_a_device_that_is_rejected_in_a_step_is_told_and_lost(fleet):
    from tinyfleet.coordinator.store.store import Store

    run = fleet.store.runs.submit(toy_spec(rounds=1))
    agent = fleet.agents["board-0"]
    agent.holds_results = True
    fleet.hello()
    other = Store(fleet.directory / "state")
    other.devices.set_enrolment("board-0", Enrolment.REJECTED)
    other.close()
    held = dict(agent.outbox)
    fleet.sleep(1)
    assert fleet.store.steps.of(run)[0].lost == [{"device": "board-0", "reason": "rejected by the operator"}]
    assert seen(agent, TaskCancel)
    agent.outbox = held
    agent.offer_results()
    fleet.turn()
    assert seen(agent, ResultVerdict)[-1].verdict is Verdict.REFUSED


def test_pending_until_the_operator_decides(tmp_path):
    from tinyfleet.coordinator.store.store import Store

    fleet = Fleet(tmp_path, devices=1, auto_accept=False)
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.hello()
    fleet.sleep(2)
    agent = fleet.agents["board-0"]
    assert [message.enrolment for message in seen(agent, Welcome)] == [Enrolment.PENDING]
    assert fleet.store.runs.get(run).step == 0
    operator = Store(tmp_path / "state")
    operator.devices.set_enrolment("board-0", Enrolment.ACCEPTED)
    operator.close()
    fleet.sleep(2)
    assert seen(agent, Welcome)[-1].enrolment is Enrolment.ACCEPTED
    assert fleet.store.runs.get(run).state == "finished"
    fleet.service.close()


def test_another_key_under_a_known_name_is_refused(fleet):
    agent = fleet.agents["board-0"]
    fleet.hello()
    agent.goodbye()
    agent.key, agent.session = "another key", "s9"
    agent.hello()
    fleet.turn()
    welcome = seen(agent, Welcome)[-1]
    assert welcome.enrolment is Enrolment.REJECTED
    assert "another public key" in welcome.reason
    agent.heartbeat()
    fleet.turn()
    assert not fleet.service._registry.online("board-0")
    pin = fleet.store.devices.pins()[0]
    assert (pin.device, pin.public_key, pin.session) == ("board-0", "key-of-board-0", "s1")


def bad_results(task, device):
    """What a broken or hostile device may send, and what the refusal says."""
    spec = toy_spec()
    good = create_toy(spec).answer(task, device)

    def variant(**meta):
        return codec.encode(
            Payload({**good.meta, **meta}, good.params, good.mask), precision="fp32", send_mask=False
        )

    def params(**changed):
        return codec.encode(Payload(good.meta, {**good.params, **changed}, {}), precision="fp32")

    yield b"no blob at all", "cannot be decoded"
    yield variant()[:-40], "cannot be decoded"
    yield variant(step=99), "step 99"
    yield variant(samples=0), "samples"
    yield variant(loss="high"), "loss"
    yield params(extra=np.zeros(3, np.float32)), "wrong arrays"
    yield params(**{"first.weight": np.zeros((2, 2), np.float32)}), "shape"
    yield params(**{"first.weight": np.full_like(good.params["first.weight"], np.float32(1e30))}), "overflows"


@pytest.mark.parametrize("case", range(8))
def test_a_bad_result_is_refused_with_a_reason_and_changes_nothing(fleet, case):
    told = {}

    def misbehave(agent, offer, task):
        blob, told["reason"] = list(bad_results(task, agent.device))[case]
        agent.put_result(offer, blob)

    fleet.agents["board-1"].behaviour = misbehave
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    verdict = seen(fleet.agents["board-1"], ResultVerdict)[-1]
    assert verdict.verdict is Verdict.REFUSED
    assert told["reason"] in verdict.reason
    (step,) = fleet.store.steps.of(run)
    assert step.lost[0]["device"] == "board-1"
    assert told["reason"] in step.lost[0]["reason"]
    assert fleet.store.tasks.of(run)[1].state == "refused"
    assert fleet.state_bytes(run) == expected_state(spec, ["board-0", "board-2"])


def test_a_result_that_is_offered_twice_counts_once(fleet):
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    fleet.sleep(1)
    agent = fleet.agents["board-0"]
    held = dict(agent.outbox)
    agent.offer_results()
    agent.offer_results()
    fleet.turn()
    agent.outbox = held
    agent.offer_results()
    fleet.turn()
    assert [m.verdict for m in seen(agent, ResultVerdict)] == [Verdict.STORED, Verdict.DUPLICATE]
    assert fleet.service._scheduler.open_step.fold.results == 1
    for name in ("board-1", "board-2"):
        fleet.agents[name].offer_results()
    fleet.sleep(1)
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_a_result_nobody_asked_for_is_refused(fleet):
    fleet.hello()
    agent = fleet.agents["board-0"]
    path = fleet.directory / "x"
    path.write_bytes(b"x")
    from tinyfleet.fedcore.protocol.chunks import manifest_of

    agent.say(ResultOffer("no-such-run", 0, manifest_of(path, 1000), 1.0, 1.0, 1, "torch"))
    fleet.turn()
    assert seen(agent, ResultVerdict)[-1].verdict is Verdict.REFUSED


def test_an_oversized_result_is_refused_unread(tmp_path):
    fleet = Fleet(tmp_path, max_result_bytes=1000)
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.hello()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "failed"
    assert {task.state for task in fleet.store.tasks.of(run)} == {"refused"}
    assert "at most 1000" in fleet.store.tasks.of(run)[0].reason
    fleet.service.close()


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


def test_runs_queue_up(fleet):
    specs = [toy_spec(rounds=1, seed=seed) for seed in (1, 2)]
    runs = [fleet.store.runs.submit(spec) for spec in specs]
    fleet.hello()
    fleet.sleep(2)
    for run, spec in zip(runs, specs, strict=True):
        assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
    first, second = (fleet.store.runs.get(run) for run in runs)
    assert first.finished <= second.started


def test_a_run_waits_for_enough_devices(fleet):
    run = fleet.store.runs.submit(toy_spec(rounds=1, min_devices=3))
    fleet.agents["board-0"].hello()
    fleet.agents["board-1"].hello()
    fleet.sleep(3)
    assert fleet.store.steps.of(run) == []
    fleet.agents["board-2"].hello()
    fleet.sleep(1)
    assert fleet.store.steps.of(run)[0].expected == 3


def test_a_cohort_is_drawn_anew_for_every_step(fleet):
    run = fleet.store.runs.submit(toy_spec(rounds=8, cohort=1))
    fleet.hello()
    fleet.sleep(1)
    tasks = fleet.store.tasks.of(run)
    assert [task.step for task in tasks] == list(range(8))
    assert len({task.device for task in tasks}) > 1


def test_an_unknown_method_fails_the_run_at_its_start(fleet, tmp_path):
    from tinyfleet.coordinator.run.scheduler import create_method

    fleet.service._scheduler._create = create_method
    spec = toy_spec()
    run = fleet.store.runs.submit(type(spec)(method={"name": "fedtinny"}))
    fleet.sleep(1)
    row = fleet.store.runs.get(run)
    assert (row.state, "fedtiny" in row.reason) == ("failed", True)


def test_a_failure_to_prepare_fails_the_run(fleet):
    fleet.engine.fail = "no public data"
    run = fleet.store.runs.submit(toy_spec())
    fleet.sleep(1)
    assert (fleet.store.runs.get(run).state, fleet.store.runs.get(run).reason) == ("failed", "no public data")


def test_the_broker_goes_away_and_comes_back(fleet):
    spec = toy_spec(rounds=2)
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    fleet.sleep(1)
    fleet.broker.stop()
    for agent in fleet.agents.values():
        agent.silent = True
    fleet.sleep(40)  # longer than heartbeats and grace: nobody is to blame
    assert fleet.store.runs.get(run).state == "running"
    fleet.broker.start()
    for agent in fleet.agents.values():
        agent.silent = agent.holds_results = False
        agent.hello()
        agent.offer_results()
    fleet.sleep(2)
    assert fleet.store.runs.get(run).state == "finished"
    assert [step.lost for step in fleet.store.steps.of(run)] == [[], []]
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_lost_chunks_are_asked_for_again(fleet):
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    dropped = itertools.count()
    original = fleet.agents["board-0"].transport.publish

    def drop_some(topic, payload, timeout=30.0):
        if topic.endswith("/chunk") and next(dropped) % 3 == 0:
            return
        original(topic, payload, timeout)

    fleet.agents["board-0"].transport.publish = drop_some
    fleet.hello()
    fleet.sleep(60)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_noise_on_the_wire_is_ignored(fleet):
    from tinyfleet.fedcore.protocol import topics

    spec = toy_spec(rounds=1)
    agent = fleet.agents["board-0"]
    for payload in (b"", b"{", b"[]", b'{"type": "hello"}', b"\xff" * 100, b"x" * 70000):
        for topic in (topics.up("board-0"), topics.up_chunk("board-0"), topics.up("stranger")):
            agent.transport.publish(topic, payload)
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_the_disk_stays_bounded(fleet):
    run = fleet.store.runs.submit(toy_spec(rounds=12))
    fleet.hello()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    blobs = [path for path in fleet.store.blobs.directory.rglob("*") if path.is_file()]
    assert blobs == [fleet.store.state_blob(run)]
    assert not [path for path in fleet.store.incoming.rglob("*") if path.is_file()]
    assert not list(fleet.store.directory.glob("initial-*"))


def test_overhead_is_wall_time_without_the_slowest_training(fleet):
    def slow(agent, offer, task):
        fleet.clock.now += 4.0
        result = create_toy(toy_spec()).answer(task, agent.device)
        blob = codec.encode(result, precision="fp32", send_mask=False)
        agent.put_result(offer, blob, train_s=3.0)

    fleet.agents["board-0"].behaviour = slow
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.hello()
    fleet.sleep(1)
    (step,) = fleet.store.steps.of(run)
    assert step.duration_s == pytest.approx(4.0)
    assert step.overhead_s == pytest.approx(1.0)

"""A run's steps: whom they wait for, when they close, when they are tried again."""

from __future__ import annotations

from tests.coordinator.toy import NO_DATA, create_toy, toy_spec
from tests.coordinator.toy_fleet import Fleet, expected_state, hold_back, seen
from tinyfleet.coordinator.states import TaskPhase
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol.messages import ResultVerdict, TaskCancel, Verdict


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

"""One damaged file costs one thing: a result, a step, or at worst its run; the coordinator always starts."""

from __future__ import annotations

import msgspec
import pytest

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import expected_state, hold_back, seen
from tinyfleet.coordinator.store.blobs import BlobStore
from tinyfleet.fedcore.protocol.messages import RunEnded, TaskCancel, TaskOffer


def damage(path):
    """One bit of the file turns over."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def answer_each(fleet, run, step):
    """Let every device hand in what it holds back, until the run is at ``step``."""
    while fleet.store.runs.get(run).step < step:
        fleet.sleep(1)
        for agent in fleet.agents.values():
            agent.offer_results()
        fleet.turn()


@pytest.mark.parametrize("hurt", [damage, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_damaged_result_is_counted_no_more_and_asked_for_again(fleet, hurt):
    spec = toy_spec()
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, "board-1", "board-2")
    fleet.hello()
    fleet.sleep(1)
    (entry,) = fleet.store.tasks.counted(run, 0)
    fleet.vanish()
    hurt(fleet.store.blobs.path(entry.sha256))
    fleet.start()
    assert fleet.counted() == 0
    assert fleet.store.tasks.phase(run, 0, "board-0") == ("offered", "its stored result was damaged")
    for agent in fleet.agents.values():
        agent.holds_results = False
        agent.offer_results()
    fleet.sleep(6)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents), "recomputed bit for bit"
    assert [step.results for step in fleet.store.steps.of(run)] == [3, 3, 3]


def test_a_fold_that_is_made_again_asks_for_a_damaged_result_while_the_step_is_open(fleet):
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, "board-1", "board-2")
    fleet.hello()
    fleet.sleep(1)
    (entry,) = fleet.store.tasks.counted(run, 0)
    damage(fleet.store.blobs.path(entry.sha256))
    fleet.service._scheduler._run._open._fold._rebuild()  # what a result that breaks the fold brings about
    assert fleet.counted() == 0
    for agent in fleet.agents.values():
        agent.holds_results = False
        agent.offer_results()
    fleet.sleep(6)
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_a_damaged_state_goes_back_one_kept_state_and_the_steps_are_done_again(fleet, caplog):
    spec = toy_spec(rounds=4)
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    answer_each(fleet, run, 2)
    fleet.sleep(1)  # the devices hold results of step 2
    path = fleet.store.state_blob(run)
    fleet.vanish()
    damage(path)
    fleet.start()
    row = fleet.store.runs.get(run)
    assert (row.state, row.step, row.round) == ("running", 1, 1)
    assert row.reason == "the state of step 2 is damaged; done again from step 1"
    assert "done again from step 1" in caplog.text
    fleet.sleep(1)
    assert TaskCancel(run, 2, "the run went back to step 1") in seen(fleet.agents["board-0"], TaskCancel)
    answer_each(fleet, run, 4)
    fleet.sleep(2)
    row = fleet.store.runs.get(run)
    assert (row.state, row.reason) == ("finished", "")
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
    assert [step.step for step in fleet.store.steps.of(run)] == [0, 1, 2, 3]


def test_without_a_sound_state_that_run_alone_fails(fleet):
    first, second = fleet.store.runs.submit(toy_spec()), fleet.store.runs.submit(toy_spec(rounds=1))
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    answer_each(fleet, first, 1)
    fleet.vanish()
    for path in fleet.store.blobs.directory.glob("*/*"):
        damage(path)
    fleet.start()
    row = fleet.store.runs.get(first)
    assert row.state == "failed"
    assert "is damaged on disk; restore it from a backup" in row.reason
    answer_each(fleet, second, 1)
    fleet.sleep(2)
    assert fleet.store.runs.get(second).state == "finished"


def test_a_run_with_a_damaged_state_can_be_stopped(fleet):
    run = fleet.store.runs.submit(toy_spec())
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    answer_each(fleet, run, 2)
    path = fleet.store.state_blob(run)
    fleet.vanish()
    damage(path)
    fleet.start()
    fleet.store.runs.request_stop(run)
    fleet.vanish()
    fleet.start()
    assert fleet.store.runs.get(run).state == "stopped"


def test_a_task_blob_that_is_damaged_on_offer_is_made_again(fleet, caplog):
    spec = toy_spec(rounds=1, width=300)  # several chunks
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    offer = seen(fleet.agents["board-0"], TaskOffer)[0].manifest
    assert offer.count > 1
    damage(fleet.store.blobs.path(offer.sha256))
    late = fleet.agents["board-2"]
    late.restart()
    late.outbox.clear()
    late.hello()
    fleet.sleep(1)
    assert "is damaged on disk; it is made again" in caplog.text
    for agent in fleet.agents.values():
        agent.offer_results()
    fleet.sleep(2)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_a_task_blob_that_is_damaged_before_it_is_offered_is_offered_by_its_own_hash(fleet, monkeypatch):
    spec = toy_spec(rounds=1)
    put = BlobStore.put

    def put_and_lost(blobs, data):
        sha256 = put(blobs, data)
        blobs.path(sha256).write_bytes(b"")
        monkeypatch.undo()
        return sha256

    hold_back(fleet, *fleet.agents)
    run = fleet.store.runs.submit(spec)
    fleet.service.poll(0)
    fleet.service.poll(0)
    assert fleet.store.runs.get(run).state == "running"
    monkeypatch.setattr(BlobStore, "put", put_and_lost)
    fleet.hello()
    fleet.sleep(1)
    answer_each(fleet, run, 1)
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_a_damaged_copy_is_not_taken_for_a_blob_that_is_there(fleet):
    sha256 = fleet.store.blobs.put(b"content")
    damage(fleet.store.blobs.path(sha256))
    assert fleet.store.blobs.put(b"content") == sha256
    assert fleet.store.blobs.read(sha256) == b"content"


def test_a_method_that_breaks_fails_its_own_run(fleet):
    first, second = fleet.store.runs.submit(toy_spec()), fleet.store.runs.submit(toy_spec(rounds=1))
    create = fleet.create

    class Broken(type(create(toy_spec()))):
        def finish_round(self, state, fold):
            raise ZeroDivisionError("no samples")

    def created(spec):
        method = create(spec)
        if spec.training.rounds == 3:
            method.__class__ = Broken
        return method

    fleet.vanish()
    fleet.create = created
    fleet.start()
    fleet.hello()
    fleet.sleep(6)
    assert fleet.store.runs.get(first).reason == "ZeroDivisionError: no samples"
    assert fleet.store.runs.get(second).state == "finished"


def test_who_was_not_there_hears_of_a_runs_end_with_its_next_heartbeat(fleet):
    run = fleet.store.runs.submit(toy_spec())
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    fleet.sleep(1)
    fleet.store.runs.request_stop(run)
    fleet.transport.close()  # the coordinator's own link is gone as the run ends
    fleet.service._scheduler.check_stop()
    assert fleet.store.runs.get(run).state == "stopped"
    fleet.vanish()
    fleet.start()
    fleet.agents["board-1"].outbox.clear()
    fleet.agents["board-1"].offer = msgspec.structs.replace(
        seen(fleet.agents["board-1"], TaskOffer)[0], run="somebody-elses"
    )
    before = len(seen(fleet.agents["board-1"], RunEnded))
    fleet.agents["board-0"].heartbeat()
    fleet.turn()
    ended = seen(fleet.agents["board-0"], RunEnded)
    assert RunEnded(run) in ended
    for _ in range(3):
        fleet.agents["board-1"].heartbeat()
        fleet.turn()
    assert seen(fleet.agents["board-1"], RunEnded)[before:] == [RunEnded(run)], (
        "once, and nothing of an unknown run"
    )


def test_states_that_waited_to_be_measured_are_measured_after_a_restart(fleet):
    run = fleet.store.runs.submit(toy_spec(rounds=4))
    hold_back(fleet, *fleet.agents)
    fleet.engine.evaluate = lambda spec, step, state, *, validate=False: None  # it hangs
    fleet.hello()
    answer_each(fleet, run, 3)
    assert [step.test_accuracy for step in fleet.store.steps.of(run)[:3]] == [None] * 3
    fleet.vanish()
    fleet.start()
    fleet.turn()
    assert [step.test_accuracy for step in fleet.store.steps.of(run)[:3]] == [0.9] * 3


def test_what_an_earlier_process_left_is_swept_at_start(fleet):
    run = fleet.store.runs.submit(toy_spec())
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    fleet.sleep(1)
    fleet.vanish()
    state = fleet.store.directory
    orphan = fleet.store.blobs.put(b"nobody's")
    (state / "incoming" / "board-0").mkdir(parents=True, exist_ok=True)
    left = [
        state / "initial-toy-1.blob",
        state / ".initial-toy-1.blob.x1.tmp",
        state / "incoming" / "board-0" / ("0" * 64),
        fleet.store.blobs.path(orphan),
    ]
    for path in left:
        path.write_bytes(b"x")
    fleet.start()
    assert [path for path in left if path.exists()] == []
    assert fleet.store.state_blob(run).exists()


def test_states_that_are_skipped_say_why(fleet):
    run = fleet.store.runs.submit(toy_spec(rounds=8))
    hold_back(fleet, *fleet.agents)
    fleet.engine.evaluate = lambda spec, step, state, *, validate=False: None  # it hangs
    fleet.hello()
    answer_each(fleet, run, 8)
    reasons = [step.evaluation for step in fleet.store.steps.of(run)]
    behind = "the engine process fell behind"
    assert reasons == ["", behind, behind, behind, "", "", "", ""], "the first is with it, the last four wait"


def test_what_a_killed_engine_process_left_goes_with_its_run(fleet):
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    fleet.sleep(1)
    left = fleet.store.directory / f".initial-{run}.blob.x1.tmp"
    left.write_bytes(b"x")
    answer_each(fleet, run, 1)
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    assert not left.exists()

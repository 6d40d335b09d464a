"""The store: durable, shared between processes, bounded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from tinyfleet.coordinator.cli import main
from tinyfleet.coordinator.errors import DamagedBlob, StoreError, UnknownDevice, UnknownRun
from tinyfleet.coordinator.states import RunEvent, TaskPhase
from tinyfleet.coordinator.store.blobs import BlobStore
from tinyfleet.coordinator.store.records import Choice, Presence, Share, StepSummary, TaskNote
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.protocol.messages import Enrolment, Hello, Manifest, ResultOffer, Traffic
from tinyfleet.fedcore.run_spec import RunSpec

HELLO = Hello("board-1", "key", "s1", "0.1", ["torch"], {"board": "pi4"}, 500, 300_000_000)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path, clock=lambda: 1000.0)
    yield store
    store.close()


def everybody(*devices):
    return Choice(tuple(Share(device, chosen=True) for device in devices))


def started(store, devices=("board-1", "board-2")):
    for device in devices:
        store.devices.save_hello(device, HELLO, Enrolment.ACCEPTED)
    run = store.runs.submit(RunSpec(name="My Run!"))
    store.runs.start(run)
    base = store.blobs.put(b"initial")
    store.runs.prepared(run, base)
    store.open_step(run, 0, "train", 0, base, everybody(*devices))
    return run


def offer_of(run, blob, step=0, train_s=2.0):
    manifest = Manifest(hashlib.sha256(blob).hexdigest(), len(blob), 1000)
    return ResultOffer(run, step, manifest, train_s, 3.0, 77, "torch", "0" * 64, 16)


def test_a_submitted_run_reads_back_as_plain_data(store):
    spec = RunSpec(name="My Run!", seed=3)
    run = store.runs.submit(spec)
    row = store.runs.get(run)
    assert row.run.startswith("my-run-")
    assert (row.state, row.method, row.rounds, row.spec["seed"]) == ("submitted", "tinyfleet", 20, 3)
    assert json.loads(json.dumps(dataclasses.asdict(row)))["name"] == "My Run!"
    assert store.state_blob(run) is None
    assert store.runs.submit(spec) != run


def test_unknown_names_are_errors_that_say_what_to_do(store):
    with pytest.raises(UnknownRun, match="run list"):
        store.runs.get("nothing")
    with pytest.raises(UnknownRun):
        store.runs.request_stop("nothing")
    with pytest.raises(UnknownRun):
        store.state_blob("nothing")
    with pytest.raises(UnknownDevice, match="devices list"):
        store.devices.set_enrolment("nobody", Enrolment.ACCEPTED)


def test_the_queue_is_first_come_first_served_and_an_open_run_comes_first(store):
    first, second = store.runs.submit(RunSpec()), store.runs.submit(RunSpec())
    assert store.runs.next() == first
    store.runs.start(second)
    assert store.runs.next() == second
    assert store.end_run(second, RunEvent.FAIL, "no data") == "failed"
    assert store.end_run(first, RunEvent.STOP) == "stopped"
    assert store.runs.next() is None


def test_a_step_lives_from_open_to_finished(store):
    run = started(store)
    blob = b"result"
    store.blobs.put(blob)
    store.tasks.save(run, 0, TaskNote("board-2", TaskPhase.OFFERED, "over_budget: 300 MB", 1, 8, 99, 5, 10))
    store.tasks.count("board-1", offer_of(run, blob), 0)
    store.tasks.note_traffic("board-1", run, 0, Traffic(1200, 3400))
    assert [(r.device, r.train_s) for r in store.tasks.counted(run, 0)] == [("board-1", 2.0)]
    after = store.blobs.put(b"after")
    lost = [{"device": "board-2", "reason": "offline"}]
    store.finish_step(run, 0, after, 1, StepSummary(3.0, 1.0, 1, lost, 0.5, None, 0.05))
    store.steps.save_evaluation(run, 0, 0.4, 0.9)
    (step,) = store.steps.of(run)
    assert (step.state, step.expected, step.results, step.lost) == ("finished", 2, 1, lost)
    assert (step.duration_s, step.overhead_s, step.loss, step.accuracy) == (3.0, 1.0, 0.5, None)
    assert (step.test_loss, step.test_accuracy, step.density) == (0.4, 0.9, 0.05)
    assert (step.bytes_up, step.bytes_down) == (1200.0, 3400.0)
    one, two = store.tasks.of(run)
    assert (one.state, one.train_s, one.engine, one.bytes_up) == ("stored", 2.0, "torch", 1200)
    assert (two.state, two.reason, two.retries, two.micro_batch) == ("lost", "offline", 1, 8)
    assert (store.runs.get(run).step, store.runs.get(run).round) == (1, 1)
    assert store.state_blob(run).read_bytes() == b"after"


def test_a_result_counts_once(store):
    run = started(store)
    store.tasks.count("board-1", offer_of(run, b"first", train_s=2.0), 0)
    store.tasks.count("board-1", offer_of(run, b"second", train_s=9.0), 1)
    assert [(r.sha256, r.train_s) for r in store.tasks.counted(run, 0)] == [
        (hashlib.sha256(b"first").hexdigest(), 2.0)
    ]
    assert store.tasks.counted(run, 1) == []


def test_ending_a_run_abandons_what_is_open(store):
    run = started(store)
    store.tasks.count("board-1", offer_of(run, b"x"), 0)
    store.end_run(run, RunEvent.STOP, "stopped by the operator")
    assert [task.state for task in store.tasks.of(run)] == ["stored", "lost"]
    assert store.steps.of(run)[0].state == "abandoned"
    assert (store.runs.get(run).state, store.runs.get(run).reason) == ("stopped", "stopped by the operator")


def test_presence_adds_up(store):
    store.devices.save_hello("board-1", HELLO, Enrolment.PENDING)
    store.devices.note_presence([Presence("board-1", "s1", True, {"rss_bytes": 1.0}, 21, 80)])
    store.devices.note_presence([Presence("board-1", "s1", False, None, 0, 60)])
    (row,) = store.devices.all()
    assert (row.online, row.health, row.idle_rss_bytes, row.peak_rss_bytes) == (False, {"rss_bytes": 1.0}, 21, 80)
    assert (row.profile, row.samples, row.engines) == ({"board": "pi4"}, 500, ["torch"])
    assert row.memory_limit_bytes == 300_000_000


def test_a_second_hello_keeps_key_and_enrolment(store):
    store.devices.save_hello("board-1", HELLO, Enrolment.PENDING)
    store.devices.set_enrolment("board-1", Enrolment.REJECTED)
    store.devices.save_hello("board-1", HELLO, Enrolment.ACCEPTED)
    (pin,) = store.devices.pins()
    assert (pin.enrolment, pin.public_key) == (Enrolment.REJECTED, "key")


def test_another_process_sees_writes_and_is_seen(store, tmp_path):
    store.runs.submit(RunSpec())
    before = store.changed()
    code = (
        "import sys; from pathlib import Path\n"
        "from tinyfleet.coordinator.store.store import Store; from tinyfleet.fedcore.run_spec import RunSpec\n"
        "store = Store(Path(sys.argv[1])); print(len(store.runs.all())); store.runs.submit(RunSpec(name='other'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert store.changed() != before
    assert [row.name for row in store.runs.all()] == ["run", "other"]
    settled = store.changed()
    store.runs.submit(RunSpec())
    assert store.changed() == settled  # one's own writes are no news


def test_garbage_goes_and_what_is_needed_stays(store):
    run = started(store)
    states = [store.runs.state_sha256(run)]
    for step in range(5):
        result, junk = store.blobs.put(b"result %d" % step), store.blobs.put(b"task %d" % step)
        store.tasks.count("board-1", offer_of(run, b"result %d" % step, step), step)
        store.collect_garbage(keep_steps=2, keep=[junk])
        assert store.blobs.path(result).exists()  # its step is open
        assert store.blobs.path(junk).exists()
        states.append(store.blobs.put(b"state %d" % step))
        store.finish_step(run, step, states[-1], step + 1, StepSummary(1, 1, 1, [], None, None, 1.0))
        store.open_step(run, step + 1, "train", step + 1, states[-1], everybody("board-1"))
        store.collect_garbage(keep_steps=2)
        assert not store.blobs.path(result).exists()
        assert not store.blobs.path(junk).exists()
    assert [store.blobs.path(sha).exists() for sha in states] == [False, False, False, False, True, True]
    store.end_run(run, RunEvent.COMPLETE)
    store.collect_garbage(keep_steps=0)
    assert [path for path in store.blobs.directory.rglob("*") if path.is_file()] == [store.state_blob(run)]


def test_blobs_are_found_by_content_and_damage_is_found_out(tmp_path):
    blobs = BlobStore(tmp_path / "blobs")
    sha256 = blobs.put(b"content")
    assert blobs.put(b"content") == sha256
    assert blobs.path(sha256) == tmp_path / "blobs" / sha256[:2] / sha256
    assert blobs.read(sha256) == b"content"
    blobs.path(sha256).write_bytes(b"contend")
    with pytest.raises(DamagedBlob, match="damaged"):
        blobs.read(sha256)
    blobs.path(sha256).unlink()
    with pytest.raises(DamagedBlob, match="cannot be read"):
        blobs.read(sha256)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "coordinator.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"coordinator\.db"):
        Store(tmp_path)


def test_a_newer_schema_is_refused(tmp_path):
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "coordinator.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="schema version 99"):
        Store(tmp_path)


WRITER = """
import hashlib, itertools, sys
from pathlib import Path
from tinyfleet.coordinator.store.store import Store
from tinyfleet.coordinator.store.records import Choice, Share, StepSummary
from tinyfleet.fedcore.protocol.messages import Enrolment, Hello, Manifest, ResultOffer
from tinyfleet.fedcore.run_spec import RunSpec
store = Store(Path(sys.argv[1]))
store.devices.save_hello("b", Hello("b", "k", "s", "0", []), Enrolment.ACCEPTED)
run = store.runs.submit(RunSpec())
store.runs.start(run)
base = store.blobs.put(b"0")
store.runs.prepared(run, base)
for step in itertools.count():
    store.open_step(run, step, "train", step, base, Choice((Share("b", chosen=True),)))
    blob = b"result %d" % step * 5000
    sha = store.blobs.put(blob)
    offer = ResultOffer(run, step, Manifest(sha, len(blob), 1000), 1.0, 1.0, 1, "torch", "0" * 64)
    store.tasks.count("b", offer, step)
    base = store.blobs.put(b"state %d" % step * 5000)
    store.finish_step(run, step, base, step + 1, StepSummary(1, 1, 1, [], None, None, 1.0))
    store.collect_garbage(keep_steps=1)
    sys.stdout.write(f"{step}\\n"); sys.stdout.flush()
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.011, 0.02])
def test_a_killed_writer_leaves_a_consistent_store(tmp_path, delay_s):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(10):
        announced = int(writer.stdout.readline())
    time.sleep(delay_s)
    writer.send_signal(signal.SIGKILL)
    announced = max([announced, *map(int, writer.stdout.read().split())])
    writer.wait()
    writer.stdout.close()
    store = Store(tmp_path)
    (row,) = store.runs.all()
    finished = [step for step in store.steps.of(row.run) if step.state == "finished"]
    assert row.step == row.round == len(finished) > announced  # nothing that was announced is lost
    assert store.blobs.read(store.runs.state_sha256(row.run))  # the state is there, and whole
    found = store.steps.opened(row.run)
    if found is not None:
        assert found.step == row.step
        for entry in store.tasks.counted(row.run, row.step):
            assert store.blobs.read(entry.sha256)
    assert store._db.read("PRAGMA integrity_check")[0][0] == "ok"
    assert store._db.read("PRAGMA foreign_key_check") == []
    store.collect_garbage(keep_steps=1)
    assert not list(store.blobs.directory.rglob(".new-*"))
    store.close()


def test_blobs_without_a_run_that_has_started_are_no_empty_store(tmp_path, capsys):
    store = Store(tmp_path)
    store.check_whole()
    run = store.runs.submit(RunSpec())
    store.check_whole()
    store.blobs.put(b"a state of the database that is gone")
    with pytest.raises(StoreError, match=r"there are blobs, but .* knows no run that has started"):
        store.check_whole()
    with pytest.raises(SystemExit) as ended:
        main(["run", "--state", str(tmp_path)])
    assert ended.value.code == StoreError.exit_code
    assert "restore it from a backup, or start with --empty" in capsys.readouterr().err
    store.runs.start(run)
    store.check_whole()
    store.close()

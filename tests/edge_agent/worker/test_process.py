"""Real workers under real limits."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("torch", reason="the worker needs an engine")

from tests.edge_agent.runs import command, first_state, spec_of, task_blob, write_data
from tests.patience import PATIENCE_S
from tinyfleet.device_profiles.cpu import CpuLimits
from tinyfleet.device_profiles.limits import DataLimit, choose_limit
from tinyfleet.edge_agent.worker import process as enforcement
from tinyfleet.edge_agent.worker.budget import TaskLimits
from tinyfleet.edge_agent.worker.process import WorkerProcess
from tinyfleet.edge_agent.worker.procfs import memory_of
from tinyfleet.fedcore.protocol.codec import decode
from tinyfleet.fedcore.rss import status_bytes

# The activations of one whole batch of this task need some 230 MB more than those of one sample.
SHAPE, BATCH = (3, 96, 96), 128


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a worker; its hard limit is RLIMIT_DATA and the watcher stays out of it unless asked for."""
    workers = []

    def make(limit, *, hard=True, policy="fresh"):
        if hard:
            monkeypatch.setattr(enforcement, "choose_limit", lambda size, name: DataLimit(size))
            monkeypatch.setattr(WorkerProcess, "_look", _look_at_data_only)
        else:
            monkeypatch.setattr(enforcement, "choose_limit", lambda size, name: DataLimit(1 << 40))
        workers.append(WorkerProcess("r", TaskLimits(1, policy, limit), "test", tmp_path / "worker.log"))
        return workers[-1]

    original = WorkerProcess._look

    def _look_at_data_only(self):
        original(self)
        self.rss_bytes = 0

    yield make
    for worker in workers:
        worker.close()


@pytest.fixture(scope="module")
def order(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    spec = spec_of(batch=BATCH, shape=SHAPE)
    source = write_data(directory / "data.npz", samples=BATCH, shape=SHAPE)
    return command(directory, spec, task_blob(spec, first_state(spec)), source)


GENTLEST = {"target_bytes": 1 << 40}
TIGHTEST = {
    "target_bytes": 1 << 40,
    "first_way": 99,
}  # the last way: passes of four samples, pruned caches


def every_event(worker, timeout=PATIENCE_S):
    """Events as they come, until the task has ended."""
    deadline, events = time.monotonic() + timeout, []
    while time.monotonic() < deadline:
        event = worker.poll(time.monotonic())
        if event is None:
            time.sleep(0.005)
            continue
        events.append(event)
        yield event
        if event["event"] in ("done", "over_budget", "failed", "needs_mask"):
            return
    raise AssertionError(f"nothing but {events}")


def last_event(worker):
    return list(every_event(worker))


@pytest.fixture(scope="module")
def small_passes(order, tmp_path_factory):
    """(reserved, resident) bytes of a worker that trains a few samples at a time, the engine's own included."""
    log = tmp_path_factory.mktemp("small") / "worker.log"
    worker = WorkerProcess("r", TaskLimits(1, "fresh", 0), "test", log)
    try:
        worker.send({**order, **TIGHTEST})
        done = last_event(worker)[-1]
        assert done["event"] == "done", done
        return worker._peak_data_bytes, done["peak_rss_bytes"]
    finally:
        worker.close()


def test_the_hard_limit_stops_a_whole_batch_and_lets_small_passes_go(start, order, small_passes):
    limit = small_passes[0] + 60_000_000
    whole = start(limit)
    whole.send({**order, **GENTLEST})
    events = last_event(whole)
    assert events[-1]["event"] == "over_budget", events
    assert [event["event"] for event in events[:2]] == ["planned", "training"], "it came as far as training"
    small = start(limit)
    small.send({**order, **TIGHTEST})
    done = last_event(small)[-1]
    assert done["event"] == "done", done
    assert small.rss_bytes == 0


def test_a_running_task_goes_on_with_less_when_it_is_asked_to(start, order):
    """The peak falls with the next step, and no step is lost."""
    spec = {**order["spec"], "training": {**order["spec"]["training"], "local_epochs": 12}}
    worker = start(1 << 40, hard=False)
    worker.send({**order, **GENTLEST, "spec": spec})
    peaks, way, steps = {}, 0, []
    status = Path(f"/proc/{worker._child.pid}/status")
    for event in every_event(worker):
        match event["event"]:
            case "progress":
                peaks[way] = status_bytes("VmHWM", status)
                status.with_name("clear_refs").write_text("5")
                steps.append(event["done"])
                if event["done"] % 3 == 0:
                    worker.send({"cmd": "tighten"})
            case "tightened":
                way = event["index"]
    assert event["event"] == "done", event
    assert steps[-1] == 12
    assert len(peaks) == 4, peaks
    assert min(peaks.values()) < 0.8 * peaks[0], peaks


def test_a_task_that_cannot_take_less_ends_with_what_is_done(start, order):
    spec = {**order["spec"], "training": {**order["spec"]["training"], "local_epochs": 50}}
    worker = start(1 << 40, hard=False)
    worker.send({**order, **TIGHTEST, "spec": spec})
    events = []
    for event in every_event(worker):
        if event.get("done") == 1:
            worker.send({"cmd": "tighten"})
        events.append(event)
    names = [event["event"] for event in events]
    assert "ending" in names
    assert names[-1] == "done"
    done = max(event["done"] for event in events if event["event"] == "progress")
    assert done < 50
    assert decode(Path(order["result"]).read_bytes()).meta["samples"] == max(1, BATCH * done // 50)


def test_an_engine_that_does_not_fit_is_over_budget_before_training(start, order):
    worker = start(40_000_000)
    worker.send(order)
    events = last_event(worker)
    assert [event["event"] for event in events if event["event"] != "planned"] == ["over_budget"], events


def test_a_step_that_does_not_fit_is_over_budget(start, order):
    worker = start(100_000_000)
    worker.send({**order, **GENTLEST})
    assert last_event(worker)[-1]["event"] == "over_budget"


def test_the_watcher_stops_what_the_hard_limit_lets_pass(start, order):
    worker = start(150_000_000, hard=False)
    worker.send(order)
    event = last_event(worker)[-1]
    assert event["event"] == "over_budget"
    assert "watcher" in event["reason"]
    assert worker.peak_rss_bytes > 150_000_000


def test_the_worker_holds_itself_to_what_may_be_resident(start, order, small_passes):
    """Where RLIMIT_DATA is all that holds it, which alone would let 100 MB more pass."""
    limit = small_passes[1] + 60_000_000
    held = start(1 << 40, hard=False)
    held.send({**order, **TIGHTEST, "memory_limit_bytes": limit})
    assert last_event(held)[-1]["event"] == "done"
    whole = start(1 << 40, hard=False)
    whole.send({**order, **GENTLEST, "memory_limit_bytes": limit})
    events = last_event(whole)
    assert events[-1]["event"] == "over_budget", events
    assert "training" in [event["event"] for event in events]
    assert 0 < whole.peak_rss_bytes < 1.02 * limit


@pytest.mark.parametrize(("above", "event"), [(1.02, "over_budget"), (2.0, "failed")])
def test_a_death_near_the_worker_s_own_limit_is_the_limit_s(start, above, event):
    worker = start(1 << 40)
    pid = worker._child.pid
    while memory_of(pid)[1] < 5_000_000:
        time.sleep(0.01)
    worker.pause()
    data = memory_of(pid)[1]
    resource.prlimit(pid, resource.RLIMIT_DATA, (int(above * data), 1 << 40))
    worker._look()
    os.kill(pid, signal.SIGSEGV)
    worker.resume()
    assert last_event(worker)[-1]["event"] == event


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_another_death_is_told_by_its_signal(start, order, number):
    worker = start(1 << 40)
    os.kill(worker._child.pid, number)
    event = last_event(worker)[-1]
    assert event["event"] == "failed"
    assert number.name in event["reason"]


def test_a_kernel_kill_with_the_cgroup_as_witness_is_over_budget(start, monkeypatch):
    worker = start(1 << 40)
    monkeypatch.setattr(worker._limit, "oom_kills", lambda: 1)
    os.kill(worker._child.pid, signal.SIGKILL)
    event = last_event(worker)[-1]
    assert event["event"] == "over_budget"
    assert "kernel" in event["reason"]


def test_the_worker_says_what_holds_it_and_how_it_yields(tmp_path):
    core, nice = min(os.sched_getaffinity(0)), min(19, os.nice(0) + 4)
    cpu = CpuLimits(cores=(core,), nice=4, io_priority="idle")
    worker = WorkerProcess("r", TaskLimits(1, "fresh", 0), "test", tmp_path / "worker.log", cpu)
    try:
        assert worker.held_by == f"memory: none, cpu: 1 of {os.cpu_count()} cores, nice {nice}, io idle"
        process = psutil.Process(worker._child.pid)
        assert (process.cpu_affinity(), process.nice()) == ([core], nice)
        assert process.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
    finally:
        worker.close()


@pytest.mark.root
def test_the_share_of_a_worker_ends_with_it(tmp_path):
    worker = WorkerProcess(
        "r", TaskLimits(1, "fresh", 1 << 40), "test", tmp_path / "worker.log", CpuLimits(share=0.5)
    )
    quota = worker._cpu._quota
    try:
        if quota is None:
            pytest.skip("no CPU quota can be set here")
        assert f", 50 % by {quota.kind}, nice" in worker.held_by
        assert worker.held_by.startswith(f"memory: {worker.kind}, cpu: ")
    finally:
        worker.close()
    assert not quota._folder.exists()


def test_the_log_is_cut_short(start, order, tmp_path):
    worker = start(0, policy="warm")
    log = tmp_path / "worker.log"
    log.write_bytes(b"x" * (enforcement._LOG_LIMIT_BYTES + 1))
    worker.send({**order, **GENTLEST})
    assert log.stat().st_size < 1000
    assert last_event(worker)[-1]["event"] == "done"


def test_a_cgroup_that_cannot_be_entered_gives_way_to_rlimit_data(order, tmp_path, monkeypatch):
    class Closed(DataLimit):
        kind = "cgroup v2"
        closed = False

        def before_exec(self):
            raise PermissionError("cgroup.procs")

        def close(self):
            Closed.closed = True

    monkeypatch.setattr(enforcement, "choose_limit", lambda size, name: Closed(size))
    worker = WorkerProcess("r", TaskLimits(1, "fresh", 1 << 40), "test", tmp_path / "worker.log")
    try:
        assert worker.kind == "RLIMIT_DATA"
        assert Closed.closed
        worker.send(order)
        assert last_event(worker)[-1]["event"] == "done"
    finally:
        worker.close()


@pytest.mark.root
def test_the_kernel_kills_at_the_cgroup_limit(order, tmp_path, monkeypatch):
    probe = choose_limit(1 << 30, "probe")
    probe.close()
    if not probe.kind.startswith("cgroup"):
        pytest.skip(f"no memory cgroup can be made here ({probe.kind})")
    original = WorkerProcess._look
    monkeypatch.setattr(WorkerProcess, "_look", lambda self: (original(self), setattr(self, "rss_bytes", 0)))
    worker = WorkerProcess("r", TaskLimits(1, "fresh", 120_000_000), "test", tmp_path / "worker.log")
    try:
        worker.send(order)
        event = last_event(worker)[-1]
        assert event["event"] == "over_budget", event
        assert "killed by the kernel" in event["reason"]
    finally:
        worker.close()

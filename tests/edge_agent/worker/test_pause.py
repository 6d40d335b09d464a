"""A real worker that is stopped in the middle of its task: no progress, no CPU, no loss."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import SimpleNamespace

import psutil
import pytest

from tests.edge_agent.runs import command, first_state, spec_of, task_blob, write_data
from tests.patience import PATIENCE_S
from tinyfleet.edge_agent.worker.commands import DescribeCommand, OverBudget, TaskDone, TaskFailed, TrainingBegan
from tinyfleet.edge_agent.worker.process import WorkerProcess


def worker_under(policy, tmp_path):
    # What a process needs of its limits.
    limits = SimpleNamespace(threads=1, policy=policy, memory_limit_bytes=0)
    return WorkerProcess("r", limits, "test", tmp_path / "worker.log")


@pytest.fixture
def start(tmp_path):
    workers = []

    def make(policy="fresh"):
        workers.append(worker_under(policy, tmp_path))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


@pytest.fixture
def order(tmp_path):
    spec = spec_of(local_epochs=8)
    return command(tmp_path, spec, task_blob(spec, first_state(spec)), write_data(tmp_path / "data.npz"))


def until(worker, kind):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        event = worker.poll(time.monotonic())
        if event is None:
            time.sleep(0.002)
        elif isinstance(event, kind):
            return event
        else:
            assert not isinstance(event, TaskFailed | OverBudget), event
    raise AssertionError(f"no {kind}")


def pause(worker):
    """Pause it, and wait for the kernel to have done so."""
    worker.pause()
    process, deadline = psutil.Process(worker.pid), time.monotonic() + PATIENCE_S
    while process.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline, process.status()
        time.sleep(0.002)
    return process


def test_a_paused_worker_makes_no_progress_and_ends_with_the_same_result(start, order, tmp_path):
    pytest.importorskip("torch", reason="the worker needs an engine")
    worker = start("warm")
    worker.send(order)
    train_s = until(worker, TaskDone).train_s
    expected = (tmp_path / "result").read_bytes()
    (tmp_path / "result").unlink()

    worker.send(order)
    until(worker, TrainingBegan)
    process = pause(worker)
    before, memory = process.cpu_times(), process.memory_info().rss
    time.sleep(0.3)
    while worker.poll(time.monotonic()) is not None:
        pass  # what it said before it stopped
    # Three times what the whole training takes: one that went on would be done.
    end = time.monotonic() + max(0.5, 3.0 * train_s)
    while time.monotonic() < end:
        assert worker.poll(time.monotonic()) is None, "neither done nor taken for dead"
        time.sleep(0.02)
    after = process.cpu_times()
    assert (after.user, after.system) == (before.user, before.system)
    assert not (tmp_path / "result").exists()
    assert process.memory_info().rss > memory // 2, "it stays in memory"
    assert worker.rss_bytes > memory // 2

    worker.resume()
    until(worker, TaskDone)
    assert (tmp_path / "result").read_bytes() == expected
    worker.resume()  # running already
    assert process.is_running()


def test_a_paused_worker_can_be_closed(start):
    worker = start()
    process = pause(worker)
    worker.close()
    assert not process.is_running()
    worker.pause()
    worker.resume()


def test_a_worker_killed_while_paused_is_told_as_dead(start):
    worker = start()
    pause(worker)
    os.kill(worker.pid, signal.SIGKILL)
    deadline, event = time.monotonic() + PATIENCE_S, None
    while event is None and time.monotonic() < deadline:
        time.sleep(0.01)
        event = worker.poll(time.monotonic())
    assert event == TaskFailed("WorkerDied", "worker was ended by SIGKILL")


@pytest.mark.slow
def test_a_paused_worker_dies_with_its_supervisor(tmp_path):
    read, write = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        with contextlib.suppress(BaseException):
            worker = worker_under("warm", tmp_path)
            events = time.monotonic() + PATIENCE_S
            worker.send(DescribeCommand("porch", {"source": "arrays:none.npz"}))
            while worker.poll(time.monotonic()) is None and time.monotonic() < events:
                time.sleep(0.002)  # its first answer: it has asked the kernel to die with this process
            worker.pause()
            os.write(write, f"{worker.pid}\n".encode())
            signal.pause()
        os._exit(1)
    os.close(write)
    with os.fdopen(read) as pipe:
        process = psutil.Process(int(pipe.readline()))
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    gone, _ = psutil.wait_procs([process], timeout=PATIENCE_S)
    assert gone or process.status() == psutil.STATUS_ZOMBIE

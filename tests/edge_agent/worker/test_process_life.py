"""How a worker process starts, and what its death means."""

from __future__ import annotations

import os
import resource
import signal
import time

import psutil
import pytest
from msgspec.structs import replace

pytest.importorskip("torch", reason="the worker needs an engine")

from tests.edge_agent.runs import events_of
from tinyfleet.device_profiles.cpu import CpuLimits
from tinyfleet.device_profiles.limits import DataLimit
from tinyfleet.edge_agent.worker import process as enforcement
from tinyfleet.edge_agent.worker.budget import TaskLimits
from tinyfleet.edge_agent.worker.commands import (
    OverBudget,
    TaskDone,
    TaskFailed,
)
from tinyfleet.edge_agent.worker.memory_limit.procfs import memory_of
from tinyfleet.edge_agent.worker.process import WorkerProcess


def test_the_worker_says_what_holds_it_and_how_it_yields(tmp_path):
    core, nice = min(os.sched_getaffinity(0)), min(19, os.nice(0) + 4)
    cpu = CpuLimits(cores=(core,), nice=4, io_priority="idle")
    worker = WorkerProcess("r", TaskLimits(1, "fresh", 0), "test", tmp_path / "worker.log", cpu)
    try:
        assert worker.held_by == f"memory: none, cpu: 1 of {os.cpu_count()} cores, nice {nice}, io idle"
        process = psutil.Process(worker.pid)
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


@pytest.mark.slow
def test_the_log_is_cut_short(limited, heavy_task, tmp_path):
    worker = limited(0, policy="warm")
    log = tmp_path / "worker.log"
    log.write_bytes(b"x" * (enforcement._LOG_LIMIT_BYTES + 1))
    worker.send(replace(heavy_task, target_bytes=1 << 40))
    assert log.stat().st_size < 1000
    assert isinstance(events_of(worker)[-1], TaskDone)


def test_a_cgroup_that_cannot_be_entered_gives_way_to_rlimit_data(heavy_task, tmp_path, monkeypatch):
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
        worker.send(heavy_task)
        assert isinstance(events_of(worker)[-1], TaskDone)
    finally:
        worker.close()


@pytest.mark.parametrize(("above", "kind"), [(1.02, OverBudget), (2.0, TaskFailed)])
def test_a_death_near_the_worker_s_own_limit_is_the_limit_s(limited, above, kind):
    worker = limited(1 << 40)
    pid = worker.pid
    while memory_of(pid)[1] < 5_000_000:
        time.sleep(0.01)
    worker.pause()
    data = memory_of(pid)[1]
    resource.prlimit(pid, resource.RLIMIT_DATA, (int(above * data), 1 << 40))
    worker._look()
    os.kill(pid, signal.SIGSEGV)
    worker.resume()
    assert isinstance(events_of(worker)[-1], kind)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_another_death_is_told_by_its_signal(limited, heavy_task, number):
    worker = limited(1 << 40)
    os.kill(worker.pid, number)
    event = events_of(worker)[-1]
    assert isinstance(event, TaskFailed)
    assert number.name in event.reason


def test_a_kernel_kill_with_the_cgroup_as_witness_is_over_budget(limited, monkeypatch):
    worker = limited(1 << 40)
    monkeypatch.setattr(worker._limit, "oom_kills", lambda: 1)
    os.kill(worker.pid, signal.SIGKILL)
    event = events_of(worker)[-1]
    assert isinstance(event, OverBudget)
    assert "kernel" in event.reason

"""Real workers under real limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

pytest.importorskip("torch", reason="the worker needs an engine")

from tests.edge_agent.runs import BATCH, events_of, every_event
from tinyfleet.device_profiles.limits import choose_limit
from tinyfleet.edge_agent.worker.budget import TaskLimits
from tinyfleet.edge_agent.worker.commands import (
    EndsEarly,
    OverBudget,
    Planned,
    StepsDone,
    TaskDone,
    TightenCommand,
    Tightened,
    TrainingBegan,
)
from tinyfleet.edge_agent.worker.process import WorkerProcess
from tinyfleet.fedcore.protocol.codec import decode
from tinyfleet.fedcore.rss import status_bytes

GENTLEST = {"target_bytes": 1 << 40}
TIGHTEST = {
    "target_bytes": 1 << 40,
    "first_way": 99,
}  # the last way: passes of four samples, pruned caches


@pytest.fixture(scope="module")
def small_passes(heavy_task, tmp_path_factory):
    """(reserved, resident) bytes of a worker that trains a few samples at a time, the engine's own included."""
    log = tmp_path_factory.mktemp("small") / "worker.log"
    worker = WorkerProcess("r", TaskLimits(1, "fresh", 0), "test", log)
    try:
        worker.send(replace(heavy_task, **TIGHTEST))
        done = events_of(worker)[-1]
        assert isinstance(done, TaskDone), done
        return worker.peak_data_bytes, done.peak_rss_bytes
    finally:
        worker.close()


def test_the_hard_limit_stops_a_whole_batch_and_lets_small_passes_go(limited, heavy_task, small_passes):
    limit = small_passes[0] + 60_000_000
    whole = limited(limit)
    whole.send(replace(heavy_task, **GENTLEST))
    events = events_of(whole)
    assert isinstance(events[-1], OverBudget), events
    assert [type(event) for event in events[:2]] == [Planned, TrainingBegan], "it came as far as training"
    small = limited(limit)
    small.send(replace(heavy_task, **TIGHTEST))
    done = events_of(small)[-1]
    assert isinstance(done, TaskDone), done
    assert small.rss_bytes == 0


@pytest.mark.slow
def test_a_running_task_goes_on_with_less_when_it_is_asked_to(limited, heavy_task):
    """The peak falls with the next step, and no step is lost."""
    spec = {**heavy_task.spec, "training": {**heavy_task.spec["training"], "local_epochs": 12}}
    worker = limited(1 << 40, hard=False)
    worker.send(replace(heavy_task, **GENTLEST, spec=spec))
    peaks, way, steps = {}, 0, []
    status = Path(f"/proc/{worker.pid}/status")
    for event in every_event(worker):
        match event:
            case StepsDone(done):
                peaks[way] = status_bytes("VmHWM", status)
                status.with_name("clear_refs").write_text("5")
                steps.append(done)
                if done % 3 == 0:
                    worker.send(TightenCommand())
            case Tightened(chosen):
                way = str(chosen.way)
    assert isinstance(event, TaskDone), event
    assert steps[-1] == 12
    assert len(peaks) == 4, peaks
    assert min(peaks.values()) < 0.8 * peaks[0], peaks


def test_a_task_that_cannot_take_less_ends_with_what_is_done(limited, heavy_task):
    spec = {**heavy_task.spec, "training": {**heavy_task.spec["training"], "local_epochs": 50}}
    worker = limited(1 << 40, hard=False)
    worker.send(replace(heavy_task, **TIGHTEST, spec=spec))
    events = []
    for event in every_event(worker):
        if isinstance(event, StepsDone) and event.done == 1:
            worker.send(TightenCommand())
        events.append(event)
    kinds = [type(event) for event in events]
    assert EndsEarly in kinds
    assert kinds[-1] is TaskDone
    done = max(event.done for event in events if isinstance(event, StepsDone))
    assert done < 50
    assert decode(Path(heavy_task.result).read_bytes()).meta["samples"] == max(1, BATCH * done // 50)


def test_an_engine_that_does_not_fit_is_over_budget_before_training(limited, heavy_task):
    worker = limited(40_000_000)
    worker.send(heavy_task)
    events = events_of(worker)
    assert [type(event) for event in events if not isinstance(event, Planned)] == [OverBudget], events


def test_a_step_that_does_not_fit_is_over_budget(limited, heavy_task):
    worker = limited(100_000_000)
    worker.send(replace(heavy_task, **GENTLEST))
    assert isinstance(events_of(worker)[-1], OverBudget)


def test_the_watcher_stops_what_the_hard_limit_lets_pass(limited, heavy_task):
    worker = limited(150_000_000, hard=False)
    worker.send(heavy_task)
    event = events_of(worker)[-1]
    assert isinstance(event, OverBudget)
    assert "watcher" in event.reason
    assert worker.peak_rss_bytes > 150_000_000


def test_the_worker_holds_itself_to_what_may_be_resident(limited, heavy_task, small_passes):
    """Where RLIMIT_DATA is all that holds it, which alone would let 100 MB more pass."""
    limit = small_passes[1] + 60_000_000
    held = limited(1 << 40, hard=False)
    held.send(replace(heavy_task, **TIGHTEST, memory_limit_bytes=limit))
    assert isinstance(events_of(held)[-1], TaskDone)
    whole = limited(1 << 40, hard=False)
    whole.send(replace(heavy_task, **GENTLEST, memory_limit_bytes=limit))
    events = events_of(whole)
    assert isinstance(events[-1], OverBudget), events
    assert TrainingBegan in [type(event) for event in events]
    assert 0 < whole.peak_rss_bytes < 1.02 * limit


@pytest.mark.root
def test_the_kernel_kills_at_the_cgroup_limit(heavy_task, tmp_path, monkeypatch):
    probe = choose_limit(1 << 30, "probe")
    probe.close()
    if not probe.kind.startswith("cgroup"):
        pytest.skip(f"no memory cgroup can be made here ({probe.kind})")
    original = WorkerProcess._look
    monkeypatch.setattr(WorkerProcess, "_look", lambda self: (original(self), setattr(self, "rss_bytes", 0)))
    worker = WorkerProcess("r", TaskLimits(1, "fresh", 120_000_000), "test", tmp_path / "worker.log")
    try:
        worker.send(heavy_task)
        event = events_of(worker)[-1]
        assert isinstance(event, OverBudget), event
        assert "killed by the kernel" in event.reason
    finally:
        worker.close()

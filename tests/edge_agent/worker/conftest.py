from __future__ import annotations

import os

import pytest

from tests.edge_agent.runs import BATCH, SHAPE, command, first_state, spec_of, task_blob, write_data
from tinyfleet.device_profiles.limits import DataLimit
from tinyfleet.edge_agent.worker import process as enforcement
from tinyfleet.edge_agent.worker.budget import TaskLimits
from tinyfleet.edge_agent.worker.process import WorkerProcess
from tinyfleet.fedcore.child import Child


@pytest.fixture
def worker(request):
    policy = getattr(request, "param", "fresh")
    child = Child("tinyfleet.edge_agent.worker.main", ["--policy", policy, "--parent", str(os.getpid())])
    yield child
    child.kill()


@pytest.fixture
def limited(tmp_path, monkeypatch):
    """Starts workers; their hard limit is RLIMIT_DATA and the watcher stays out of it unless asked for."""
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
def heavy_task(tmp_path_factory):
    """A command whose whole batch takes much more memory than its parts."""
    directory = tmp_path_factory.mktemp("run")
    spec = spec_of(batch=BATCH, shape=SHAPE)
    source = write_data(directory / "data.npz", samples=BATCH, shape=SHAPE)
    return command(directory, spec, task_blob(spec, first_state(spec)), source)

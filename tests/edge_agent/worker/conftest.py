from __future__ import annotations

import os

import pytest

from tinyfleet.fedcore.child import Child


@pytest.fixture
def worker(request):
    policy = getattr(request, "param", "fresh")
    child = Child("tinyfleet.edge_agent.worker.main", ["--policy", policy, "--parent", str(os.getpid())])
    yield child
    child.kill()

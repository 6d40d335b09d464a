from __future__ import annotations

import math
import os
import resource
import subprocess
import time

import psutil

from tests.patience import PATIENCE_S
from tinyfleet.edge_agent.worker.memory_limit.procfs import children_of, data_limit_of, memory_of


def test_memory_is_what_psutil_says():
    ours = resource.getrlimit(resource.RLIMIT_DATA)[0]
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child.stdin.write(b"is it loaded?\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"is it loaded?\n"
        expected = psutil.Process(child.pid).memory_info()
        assert memory_of(child.pid) == (expected.rss, expected.data)
        assert children_of(os.getpid()).count(child.pid) == 1
        assert data_limit_of(child.pid) == (math.inf if ours == resource.RLIM_INFINITY else ours)
        resource.prlimit(child.pid, resource.RLIMIT_DATA, (10_000_000, 20_000_000))
        assert data_limit_of(child.pid) == 10_000_000
    finally:
        child.kill()
        deadline = time.monotonic() + PATIENCE_S
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert memory_of(child.pid) == (0, 0), "a zombie holds nothing"
        child.communicate()


def test_one_that_has_ended_has_no_memory_and_no_children():
    child = subprocess.Popen(["sleep", "30"])
    child.kill()
    child.wait()
    assert (memory_of(child.pid), children_of(child.pid)) == ((0, 0), [])
    assert data_limit_of(child.pid) == math.inf
    assert child.pid not in children_of(os.getpid())

"""RLIMIT_DATA, lowered to what the resident limit leaves: on this process's numbers, and in a real one."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tinyfleet.edge_agent.worker.memory_limit import data_hold
from tinyfleet.edge_agent.worker.memory_limit.data_hold import DataHold
from tinyfleet.fedcore.training.native.facts import NATIVE
from tinyfleet.fedcore.training.torch.facts import TORCH, TORCH_CUDA

COMING = TORCH.first_step_bytes


@pytest.fixture
def process(monkeypatch):
    """Numbers instead of this process's own; ``limit`` is the soft and the hard one."""
    held = {"VmRSS": 240_000_000, "RssFile": 90_000_000, "VmData": 160_000_000, "limit": (300_000_000, 300_000_000)}
    monkeypatch.setattr(data_hold, "status_bytes", held.get)
    monkeypatch.setattr(resource, "getrlimit", lambda which: held["limit"])
    monkeypatch.setattr(resource, "setrlimit", lambda which, limit: held.update(limit=limit))
    return held


def test_what_is_resident_and_what_will_be_leaves_the_rest(process):
    DataHold().lower(300_000_000, TORCH)
    assert process["limit"] == (160_000_000 + 60_000_000 - COMING, 300_000_000)


def test_pages_come_once(process):
    hold = DataHold()
    hold.lower(300_000_000, TORCH)
    hold.lift()
    assert process["limit"] == (300_000_000, 300_000_000)
    process.update(VmRSS=250_000_000, RssFile=100_000_000)
    hold.lower(300_000_000, TORCH)
    assert process["limit"][0] == 160_000_000 + 60_000_000 - COMING, "ten of them are resident by now"
    process.update(VmRSS=270_000_000, RssFile=120_000_000)
    hold.lower(300_000_000, TORCH)
    assert process["limit"][0] == 160_000_000 + 30_000_000, "no more are to come"


def test_while_a_small_engine_loads_it_is_held_too(process):
    hold = DataHold()
    hold.loading(300_000_000, NATIVE)
    coming = NATIVE.loading_bytes
    assert process["limit"] == (160_000_000 + 60_000_000 - coming, 300_000_000)
    hold.lift()
    hold.loading(200_000_000, TORCH)
    assert process["limit"] == (300_000_000, 300_000_000)


def test_where_nothing_is_left_nothing_more_is_given(process):
    DataHold().lower(250_000_000, TORCH)
    assert process["limit"] == (160_000_000, 300_000_000)


def test_the_limit_is_never_raised(process):
    DataHold().lower(900_000_000, TORCH)
    assert process["limit"] == (300_000_000, 300_000_000)
    process["limit"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    DataHold().lower(300_000_000, TORCH)
    assert process["limit"] == (160_000_000 + 60_000_000 - COMING, resource.RLIM_INFINITY)


@pytest.mark.parametrize(("engine", "rss"), [(TORCH_CUDA, 240_000_000), (TORCH, None)])
def test_what_cannot_be_known_is_left_alone(process, engine, rss):
    process["VmRSS"] = rss
    DataHold().lower(250_000_000, engine)
    assert process["limit"] == (300_000_000, 300_000_000)


def test_a_real_process_cannot_reserve_more():
    code = (
        "from tinyfleet.edge_agent.worker.memory_limit.data_hold import DataHold\n"
        "from tinyfleet.fedcore.rss import status_bytes\n"
        "from tinyfleet.fedcore.training.torch.facts import TORCH\n"
        "hold = DataHold()\n"
        "hold.lower(status_bytes('VmRSS') + TORCH.first_step_bytes + 40_000_000, TORCH)\n"
        "fits = bytearray(30_000_000)\n"
        "try:\n    bytearray(30_000_000)\nexcept MemoryError:\n    print('refused')\n"
        "hold.lift()\nprint(len(bytearray(30_000_000)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert ran.stdout.split() == ["refused", "30000000"]

"""When an engine process counts as hung: by the processor time that it uses, never by how long its work takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.patience import PATIENCE_S
from tinyfleet.coordinator.run.engine_watch import EngineWatch, processor_ticks

HUNG_S = 120.0


class Machine:
    """A clock, and what each process has used."""

    def __init__(self) -> None:
        self.now = 50.0
        self.used: dict[int, int] = {1: 0}
        self.looks = 0

    def __call__(self) -> float:
        return self.now

    def look(self, pid: int) -> int | None:
        self.looks += 1
        return self.used.get(pid)


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def watch(machine):
    return EngineWatch(HUNG_S, machine, machine.look)


def pass_s(machine, watch, seconds, *, every_s=0.25, pid=1):
    """Look as often as the service does; after how many seconds it was hung, or None."""
    began = machine.now
    while machine.now < began + seconds:
        if watch.is_hung(pid):
            return machine.now - began
        machine.now += every_s
    return None


def test_one_that_uses_no_processor_time_is_hung(machine, watch):
    assert pass_s(machine, watch, 200) == pytest.approx(HUNG_S, abs=2)
    assert machine.looks <= HUNG_S + 2, "once a second"


def test_slow_work_is_not_hung(machine, watch):
    for _ in range(20):
        assert pass_s(machine, watch, HUNG_S - 10) is None
        machine.used[1] += 1  # a hundredth of a second in almost two minutes


def test_time_without_work_does_not_count(machine, watch):
    assert pass_s(machine, watch, HUNG_S - 10) is None
    watch.rest()
    machine.now += 1000
    assert pass_s(machine, watch, HUNG_S - 10) is None


def test_another_process_begins_anew(machine, watch):
    assert pass_s(machine, watch, HUNG_S - 10) is None
    machine.used[2] = 0
    assert pass_s(machine, watch, HUNG_S - 10, pid=2) is None


def test_a_machine_that_was_held_up_as_a_whole_hangs_nobody(machine, watch):
    for _ in range(20):
        assert not watch.is_hung(1)
        machine.now += 3600.0


def test_the_kernel_tells_what_a_process_uses():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            end = time.monotonic() + PATIENCE_S
            while (processor_ticks(busy.pid) or 0) < 5:
                assert time.monotonic() < end
                time.sleep(0.01)
            busy.send_signal(signal.SIGSTOP)
            os.waitpid(busy.pid, os.WUNTRACED)
            used = processor_ticks(busy.pid)
            time.sleep(0.1)
            assert processor_ticks(busy.pid) == used
        finally:
            busy.kill()
    assert processor_ticks(busy.pid) is None

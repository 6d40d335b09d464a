"""Real children, read back from the kernel; quotas on fake hierarchies, and one on the real one."""

from __future__ import annotations

import os
import subprocess
import time

import psutil
import pytest

from tinyfleet.device_profiles import cpu
from tinyfleet.device_profiles.cgroups import CgroupLimit
from tinyfleet.device_profiles.cpu import CpuHold, CpuLimits
from tinyfleet.device_profiles.limits import DataLimit, choose_limit

NO_LIMIT = DataLimit(1 << 40)


@pytest.fixture
def start():
    """Start a sleeping child in a hold."""
    made = []

    def make(hold, *before):
        def before_exec():
            for function in (hold.before_exec, *before):
                function()

        made.append(subprocess.Popen(["sleep", "60"], preexec_fn=before_exec))  # noqa: PLW1509 - no threads here
        return psutil.Process(made[-1].pid)

    yield make
    for child in made:
        child.kill()
        child.wait()


@pytest.mark.parametrize("priority", ["idle", "best-effort"])
def test_a_child_yields_as_it_was_told(start, priority):
    cores, own = sorted(os.sched_getaffinity(0)), os.nice(0)
    hold = CpuHold(CpuLimits(cores=(cores[-1],), nice=3, io_priority=priority), NO_LIMIT, "test")
    child = start(hold)
    assert child.cpu_affinity() == [cores[-1]]
    assert child.nice() == min(19, own + 3)
    assert child.ionice().ioclass.name == {"idle": "IOPRIO_CLASS_IDLE", "best-effort": "IOPRIO_CLASS_BE"}[priority]
    assert hold.describe(child.pid) == f"1 of {os.cpu_count()} cores, nice {min(19, own + 3)}, io {priority}"


def test_the_defaults_change_nothing(start):
    child, here = start(CpuHold(CpuLimits(), NO_LIMIT, "test")), psutil.Process()
    assert (child.cpu_affinity(), child.nice()) == (here.cpu_affinity(), here.nice())
    assert child.ionice() == here.ionice()


def test_a_v1_quota_is_entered_and_told(start, v1_root):
    limits = CpuLimits(share=0.5, nice=2)
    hold = CpuHold(limits, NO_LIMIT, "test", v1_root)
    child = start(hold)
    (group,) = (v1_root / "sys/fs/cgroup/cpu/unit").glob("tinyfleet-test-*")
    quota_us = int((group / "cpu.cfs_quota_us").read_text())
    assert quota_us == len(os.sched_getaffinity(0)) * 50_000
    assert (group / "cgroup.procs").read_text() == str(child.pid)
    assert " cores, 50 % by cgroup v1, nice " in hold.describe(child.pid)


def test_a_v2_quota_is_a_line_in_the_memory_group(start, v2_root):
    memory = choose_limit(100_000_000, "test", v2_root)
    assert isinstance(memory, CgroupLimit)
    hold = CpuHold(CpuLimits(cores=(0,), share=0.25), memory, "test", v2_root)
    assert (memory.folder / "cpu.max").read_text() == "25000 100000"
    assert ", 25 % by cgroup v2, " in hold.describe(start(hold, memory.before_exec).pid)


def test_where_no_quota_can_be_held_it_is_said_once(start, tmp_path, caplog):
    cpu._warn_once.cache_clear()
    for _ in range(2):
        hold = CpuHold(CpuLimits(share=0.5), NO_LIMIT, "test", tmp_path)
        assert ", 50 % not held, " in hold.describe(start(hold).pid)
        hold.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "limits.cpu_share 0.5" in caplog.text


def test_a_group_that_lets_nobody_in_holds_nothing(start, v1_root):
    hold = CpuHold(CpuLimits(share=0.5), NO_LIMIT, "test", v1_root)
    (group,) = (v1_root / "sys/fs/cgroup/cpu/unit").glob("tinyfleet-test-*")
    (group / "cgroup.procs").mkdir()
    assert "50 % not held" in hold.describe(start(hold).pid), "and the child runs"


def test_a_quota_around_this_process_is_what_there_is_to_share(v1_root, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert CpuLimits(share=0.5).quota(v1_root) == 2.0
    assert CpuLimits(share=0.5, cores=(1, 2)).quota(v1_root) == 1.0
    assert CpuLimits(share=1.0).quota(v1_root) == CpuLimits().quota(v1_root) == 0.0
    unit = v1_root / "sys/fs/cgroup/cpu/unit"
    (unit / "cpu.cfs_quota_us").write_text("120000")
    (unit / "cpu.cfs_period_us").write_text("100000")
    assert CpuLimits(share=0.5).quota(v1_root) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("limits", "threads"),
    [
        (CpuLimits(), 4),
        (CpuLimits(cores=(1, 3)), 2),
        (CpuLimits(share=0.3), 2),
        (CpuLimits(share=0.25), 1),
        (CpuLimits(share=0.01), 1),
        (CpuLimits(cores=(0, 1, 2), share=1.0), 3),
    ],
)
def test_threads_are_as_many_as_there_is_time_for(limits, threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(cpu, "usable_cores", lambda: 4)
    assert limits.threads() == threads


def test_a_tenth_of_thirty_cores_is_three_threads(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(30)))
    monkeypatch.setattr(cpu, "usable_cores", lambda: 30)
    assert CpuLimits(share=0.1).threads() == 3


@pytest.mark.root
def test_the_kernel_holds_a_busy_child_to_its_share():
    """A tenth of a core, whatever it wants."""
    one = (min(os.sched_getaffinity(0)),)
    hold = CpuHold(CpuLimits(cores=one, share=0.1), NO_LIMIT, "test")
    busy = subprocess.Popen(
        ["sh", "-c", "while :; do :; done"],
        preexec_fn=hold.before_exec,  # noqa: PLW1509 - no threads here
    )
    try:
        if "not held" in hold.describe(busy.pid):
            pytest.skip("no CPU quota can be set here")
        began = time.monotonic()
        time.sleep(2.0)
        times, seconds = psutil.Process(busy.pid).cpu_times(), time.monotonic() - began
        assert 0.0 < (times.user + times.system) / seconds < 0.15
    finally:
        busy.kill()
        busy.wait()
        hold.close()

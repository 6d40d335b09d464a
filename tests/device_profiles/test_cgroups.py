"""Groups for a whole tree of processes, and CPU quotas; v2 on a fake hierarchy, v1 on the real one."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.patience import PATIENCE_S
from tinyfleet.device_profiles.cgroups import CgroupLimit, CpuQuota, choose_quota, memory_parents
from tinyfleet.device_profiles.limits import DataLimit, choose_limit


def test_a_group_made_inside_a_v2_tree_stays_inside(v2_root):
    limit = choose_limit(100_000_000, "board", v2_root, whole_tree=True)
    assert isinstance(limit, CgroupLimit)
    assert (limit.folder / "memory.max").read_text() == "100000000"
    assert (limit.folder / "memory.swap.max").read_text() == "0"
    assert limit.holds_swap
    assert not (limit.folder / "memory.oom.group").exists(), "one process is killed, as on a board"
    limit.before_exec()
    assert (limit.folder / "command/cgroup.procs").read_text() == str(os.getpid())
    # What the kernel would show, then:
    (v2_root / "proc/self/cgroup").write_text(f"0::/unit/{limit.folder.name}/command\n")
    (limit.folder / "cgroup.subtree_control").write_text("memory")
    assert memory_parents(v2_root) == [(limit.folder, 2)]


def test_a_v2_quota_is_a_line_in_the_memory_group(v2_root):
    limit = choose_limit(100_000_000, "board", v2_root, whole_tree=True)
    quota = choose_quota(1.5, limit, "board", v2_root)
    assert quota is not None
    assert (limit.folder / "cpu.max").read_text() == "150000 100000"
    quota.close()
    assert limit.folder.exists()


def test_without_a_cpu_hierarchy_there_is_no_quota(tmp_path):
    assert choose_quota(1.0, DataLimit(1 << 30), "board", tmp_path) is None


def test_without_a_memory_group_the_v2_quota_has_one_of_its_own(v2_root):
    quota = choose_quota(0.5, DataLimit(1 << 30), "board", v2_root, nice=5)
    assert quota is not None
    (folder,) = (v2_root / "sys/fs/cgroup/unit").glob("tinyfleet-board-*")
    assert (folder / "cpu.max").read_text() == "50000 100000"
    assert (folder / "cpu.weight").read_text() == "33", "100 / 1.25^5"
    assert not quota.holds(os.getpid())
    quota.before_exec()
    assert quota.holds(os.getpid())


def test_a_memory_group_without_a_cpu_controller_gets_none_in_v2(v2_root, monkeypatch):
    """A second v2 group would take the process out of the first."""
    limit = choose_limit(100_000_000, "board", v2_root)
    monkeypatch.setattr(CpuQuota, "_set", refuse)
    assert choose_quota(0.5, limit, "board", v2_root) is None


def test_a_v1_quota_is_a_group_of_its_own(v1_root):
    quota = choose_quota(1.5, DataLimit(1 << 30), "board", v1_root, nice=10)
    assert quota is not None
    (folder,) = (v1_root / "sys/fs/cgroup/cpu/unit").glob("tinyfleet-board-*")
    found = {path.name: path.read_text() for path in folder.iterdir()}
    # The kernel's own weight of a process of niceness 10 is 110.
    assert found == {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000", "cpu.shares": "110"}


def test_a_quota_that_the_kernel_refuses_leaves_no_group(v1_root, monkeypatch):
    monkeypatch.setattr(CpuQuota, "_set", refuse)
    assert choose_quota(1.5, DataLimit(1 << 30), "board", v1_root) is None
    assert not list(v1_root.glob("sys/fs/cgroup/cpu/unit/tinyfleet-*"))


def refuse(*given):
    raise OSError("Invalid argument")


@pytest.mark.root
def test_closing_ends_the_whole_tree_and_removes_groups_inside():
    limit = choose_limit(100_000_000, "tree", whole_tree=True)
    if not isinstance(limit, CgroupLimit):
        pytest.skip("no memory cgroup can be made here")
    quota = choose_quota(0.5, limit, "tree")
    assert quota is not None
    inner = limit.folder / "inner"
    inner.mkdir()

    def enter():
        limit.before_exec()
        quota.before_exec()

    child = subprocess.Popen(["sleep", "100000"], preexec_fn=enter)  # noqa: PLW1509 - no threads here
    quota.close()
    limit.close()
    assert child.wait(PATIENCE_S) == -9
    assert not limit.folder.exists()

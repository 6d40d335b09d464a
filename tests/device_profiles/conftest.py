"""Fake cgroup trees around a process."""

from __future__ import annotations

import pytest


@pytest.fixture
def v2_root(tmp_path):
    """A process in /unit/agent, below a group that hands memory on."""
    unit = tmp_path / "sys/fs/cgroup/unit"
    (unit / "agent").mkdir(parents=True)
    (unit.parent / "cgroup.controllers").write_text("cpu memory")
    (unit / "cgroup.subtree_control").write_text("cpu memory")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/unit/agent\n")
    return tmp_path


@pytest.fixture
def v1_root(tmp_path):
    """A process in /unit of the cpu hierarchy."""
    unit = tmp_path / "sys/fs/cgroup/cpu/unit"
    unit.mkdir(parents=True)
    (unit / "cpu.cfs_quota_us").write_text("-1")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("3:cpu,cpuacct:/unit\n")
    return tmp_path

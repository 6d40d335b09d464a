"""On a tree of plain files: what the kernel makes of the writes is tested on a real board."""

from __future__ import annotations

import os

import pytest

from edge_agent.delegation import LEAF, take_leaf

UNIT = {"INVOCATION_ID": "abc"}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/edge-agent.service\n", encoding="utf-8")
    group = tmp_path / "sys/fs/cgroup/system.slice/edge-agent.service"
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n", encoding="ascii")
    (group / "cgroup.controllers").write_text("cpu memory pids\n", encoding="ascii")
    return tmp_path


def group_of(root):
    return root / "sys/fs/cgroup/system.slice/edge-agent.service"


def test_the_supervisor_moves_and_memory_is_handed_on(root):
    assert take_leaf(UNIT, root)
    group = group_of(root)
    assert (group / LEAF / "cgroup.procs").read_text(encoding="ascii") == str(os.getpid())
    assert (group / "cgroup.subtree_control").read_text(encoding="ascii") == "+memory"


def test_outside_a_unit_nothing_is_touched(root):
    assert not take_leaf({}, root)
    (root / "proc/self/cgroup").write_text("0::/user.slice/session-1.scope\n", encoding="utf-8")
    assert not take_leaf(UNIT, root)
    assert not (group_of(root) / LEAF).exists()


@pytest.mark.parametrize(
    ("name", "content"), [("cgroup.procs", "1\n2\n"), ("cgroup.controllers", "cpu pids\n"), ("cgroup.procs", "")]
)
def test_a_group_that_is_not_ours_alone_is_left(root, name, content):
    (group_of(root) / name).write_text(content, encoding="ascii")
    assert not take_leaf(UNIT, root)
    assert not (group_of(root) / LEAF).exists()


def test_a_group_that_cannot_be_written_is_left(root):
    (group_of(root) / LEAF).write_text("a file where the leaf should be", encoding="ascii")
    assert not take_leaf(UNIT, root)
    assert not take_leaf(UNIT, root / "nowhere")

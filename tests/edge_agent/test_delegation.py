"""On a tree of plain files: what the kernel makes of the writes is tested on a real board."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tinyfleet.edge_agent.delegation import LEAF, take_leaf

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


@pytest.mark.parametrize(
    ("offered", "handed"),
    [("cpu memory pids", "+memory +cpu"), ("memory", "+memory"), ("cpuset cpu io pids", "+cpu")],
    ids=["both", "memory", "Raspberry Pi OS as it comes"],
)
def test_the_supervisor_moves_and_hands_on_what_there_is(root, offered, handed):
    (group_of(root) / "cgroup.controllers").write_text(f"{offered}\n", encoding="ascii")
    assert take_leaf(UNIT, root)
    group = group_of(root)
    assert (group / LEAF / "cgroup.procs").read_text(encoding="ascii") == str(os.getpid())
    assert (group / "cgroup.subtree_control").read_text(encoding="ascii") == handed


def test_memory_is_handed_on_where_cpu_time_is_kept_back(root, monkeypatch):
    write = Path.write_text

    def refuse_cpu(path, text, **options):
        if "+cpu" in text:
            raise OSError("Invalid argument")
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", refuse_cpu)
    assert take_leaf(UNIT, root)
    assert (group_of(root) / "cgroup.subtree_control").read_text(encoding="ascii") == "+memory"
    (group_of(root) / "cgroup.controllers").write_text("cpu", encoding="ascii")
    assert not take_leaf(UNIT, root)


def test_outside_a_unit_nothing_is_touched(root):
    assert not take_leaf({}, root)
    (root / "proc/self/cgroup").write_text("0::/user.slice/session-1.scope\n", encoding="utf-8")
    assert not take_leaf(UNIT, root)
    assert not (group_of(root) / LEAF).exists()


@pytest.mark.parametrize(
    ("name", "content"), [("cgroup.procs", "1\n2\n"), ("cgroup.controllers", "io pids\n"), ("cgroup.procs", "")]
)
def test_a_group_that_is_not_ours_alone_is_left(root, name, content):
    (group_of(root) / name).write_text(content, encoding="ascii")
    assert not take_leaf(UNIT, root)
    assert not (group_of(root) / LEAF).exists()


def test_a_group_that_cannot_be_written_is_left(root):
    (group_of(root) / LEAF).write_text("a file where the leaf should be", encoding="ascii")
    assert not take_leaf(UNIT, root)
    assert not take_leaf(UNIT, root / "nowhere")

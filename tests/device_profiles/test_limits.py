"""Limits: the arithmetic on fake roots, and real processes that really allocate and really die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tinyfleet.device_profiles import limits
from tinyfleet.device_profiles.cgroups import CgroupLimit
from tinyfleet.device_profiles.limits import (
    DataLimit,
    cgroup_memory,
    choose_limit,
    format_size,
    parse_size,
    usable_memory_bytes,
)

ALLOCATE = "import sys; b = bytearray(int(sys.argv[1])); b[::4096] = b'x' * len(b[::4096]); print(len(b))"


def allocate(limit, size):
    return subprocess.run(
        [sys.executable, "-c", ALLOCATE, str(size)],
        preexec_fn=limit.before_exec, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "size"),
    [("300M", 300_000_000), ("1.5g", 1_500_000_000), ("256Mi", 256 << 20), ("12", 12), (" 2 kB ", 2000)],
)
def test_sizes(given, size):
    assert parse_size(given) == size


@pytest.mark.parametrize("bad", ["", "M", "-3M", "3X", "3i", "1e9"])
def test_bad_sizes(bad):
    with pytest.raises(ValueError, match="as in 300M"):
        parse_size(bad)


def test_sizes_are_printed_short():
    assert [format_size(n) for n in (12, 2_000, 300_000_000, 1.5e9)] == ["12", "2K", "300M", "1.5G"]


def fake(root, **files):
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_the_tightest_group_counts_in_v2(tmp_path):
    root = tmp_path
    for folder, limit, used in (("", "max", 1), ("a", "500000000", 100), ("a/b", "max", 50)):
        (root / "sys/fs/cgroup" / folder).mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / folder / "memory.max").write_text(limit)
        (root / "sys/fs/cgroup" / folder / "memory.current").write_text(str(used))
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/a/b\n")
    assert cgroup_memory(root) == (500_000_000, 100)
    assert usable_memory_bytes(root) <= 500_000_000 - 100


def test_v1_and_its_word_for_no_limit(tmp_path):
    top = tmp_path / "sys/fs/cgroup/memory"
    (top / "x").mkdir(parents=True)
    (top / "memory.limit_in_bytes").write_text("9223372036854771712")
    (top / "memory.usage_in_bytes").write_text("5")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/x\n")
    assert cgroup_memory(tmp_path) is None
    (top / "x/memory.limit_in_bytes").write_text("1000")
    (top / "x/memory.usage_in_bytes").write_text("400")
    assert cgroup_memory(tmp_path) == (1000, 400)
    assert usable_memory_bytes(tmp_path) == 600


def test_a_root_without_anything_has_no_group(tmp_path):
    assert cgroup_memory(tmp_path) is None
    limit = choose_limit(100_000_000, "x", tmp_path)
    assert limit.kind == "RLIMIT_DATA"
    assert limit.oom_kills() == 0


def test_a_limit_must_be_positive():
    with pytest.raises(ValueError, match="not positive"):
        choose_limit(0, "x")


def test_rlimit_data_makes_allocations_fail():
    limit = DataLimit(100_000_000)
    assert allocate(limit, 20_000_000).stdout == "20000000\n"
    over = allocate(limit, 200_000_000)
    assert over.returncode != 0
    assert "MemoryError" in over.stderr
    limit.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="cgroups need root here")
def test_a_cgroup_kills_what_takes_too_much_and_goes_away():
    limit = choose_limit(100_000_000, "My Agent!")
    if not isinstance(limit, CgroupLimit):
        pytest.skip("no memory cgroup can be made here")
    folder = limit.folder
    assert folder.name.startswith("tinyfleet-my-agent--")
    assert allocate(limit, 20_000_000).stdout == "20000000\n"
    assert limit.oom_kills() == 0
    over = allocate(limit, 300_000_000)
    assert over.returncode == -signal.SIGKILL
    assert limit.oom_kills() == 1
    limit.close()
    limit.close()
    assert not folder.exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="cgroups need root here")
def test_groups_of_dead_agents_are_swept():
    limit = choose_limit(50_000_000, "sweeper")
    if not isinstance(limit, CgroupLimit):
        pytest.skip("no memory cgroup can be made here")
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead = limit.folder.parent / f"tinyfleet-dead-1-{gone.pid}"
    dead.mkdir()
    choose_limit(50_000_000, "other").close()
    assert not dead.exists()
    assert limit.folder.exists(), "a living agent's group stays"
    limit.close()


def test_where_no_group_can_be_made_the_rlimit_takes_over(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "memory_parents", lambda root: [(Path("/proc"), 1), (tmp_path / "none", 2)])
    assert choose_limit(50_000_000, "x").kind == "RLIMIT_DATA"

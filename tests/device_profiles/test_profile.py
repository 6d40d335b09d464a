from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.device_profiles.cores import usable_cores
from tinyfleet.device_profiles.detect import detect
from tinyfleet.device_profiles.profile import DeviceProfile, Measurement, ProfileError, Rate, Thermal, read, shipped

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(text, text, st.integers(0, 1 << 40), st.lists(text, max_size=3), st.booleans(), st.floats(0, 1e6))
def test_toml_round_trip(name, title, size, compatible, flag, rate):
    profile = DeviceProfile(
        name, title, "cpu", 4, size, compatible=tuple(compatible), shared_memory=flag,
        measured=Measurement(size, 4, rate, rate, rate),
    )  # fmt: skip
    assert DeviceProfile.from_toml(profile.to_toml()) == profile


@given(
    st.lists(st.builds(Rate, st.sampled_from(["dense", "sparse"]), st.floats(0, 1), text, st.floats(0, 1e6))),
    st.none() | st.builds(
        Thermal, st.integers(0, 600), st.integers(1, 64), st.floats(0, 1e6), st.floats(0, 2),
        start_celsius=st.none() | st.floats(-60, 120), start_clock_mhz=st.none() | st.floats(0, 1e4),
        throttled=st.none() | st.booleans(),
    ),
)  # fmt: skip
def test_rates_and_heat_round_trip(rates, thermal):
    measured = Measurement(1, 2, 3.0, 4.0, 5.0, "torch", tuple(rates), thermal)
    profile = dataclasses.replace(shipped()["pi-5"], measured=measured)
    assert DeviceProfile.from_toml(profile.to_toml()) == profile


OLD_MEASUREMENT = """
name = "x"
title = "x"
cpu = "x"
cores = 4
memory_bytes = 1000000000

[measured]
usable_memory_bytes = 700000000
cores = 4
convolution_gflops = 2.5
memory_bandwidth_gbs = 3
disk_write_mbs = 18.25
engine = "numpy"
"""


def test_a_file_from_before_rates_and_heat():
    found = DeviceProfile.from_toml(OLD_MEASUREMENT).measured
    assert found == Measurement(700_000_000, 4, 2.5, 3.0, 18.25)
    assert (found.rates, found.thermal) == ((), None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("rates = 3", "rates is 3; give tables"),
        ("thermal = 3", "thermal is 3"),
        ("[measured.thermal]\nseconds = 60", r"measured\.thermal: cores, gflops, sustained_share missing"),
        ("[[measured.rates]]\nkernel = 1", "kernel is 1"),
        ("[[measured.rates]]\ngflops = -1", "negative"),
        ("[[measured.rates]]\nbf16 = 1", "unknown key 'bf16'"),
    ],
)
def test_a_bad_measurement_names_the_key(more, message):
    with pytest.raises(ProfileError, match=message):
        DeviceProfile.from_toml(OLD_MEASUREMENT + more)


def test_shipped_profiles_are_consistent():
    profiles = shipped()
    assert {"pi-zero-2w", "pi-4b", "pi-5", "jetson-nano", "generic"} <= profiles.keys()
    assert len(profiles) == 12
    assert all(name == profile.name for name, profile in profiles.items())
    words = [word for profile in profiles.values() for word in profile.compatible]
    assert len(set(words)) == len(words)
    assert not any(profile.verified for profile in profiles.values()), "nothing was measured on a board yet"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name = ", "not valid TOML"),
        ('name = "x"', "missing"),
        ('name="x"\ntitle="x"\ncpu="x"\ncores=1\nmemory_bytes=1\nmemmory=2', "unknown key 'memmory'"),
        ('name="x"\ntitle="x"\ncpu="x"\ncores="4"\nmemory_bytes=1', "cores is '4'"),
        ('name="x"\ntitle="x"\ncpu="x"\ncores=true\nmemory_bytes=1', "cores is True"),
        ('compatible = "maker,board"', "a list of texts"),
        ("compatible = [1, 2]", "a list of texts"),
        ("compatible = 3", "compatible is 3"),
        ('name="x"\ntitle="x"\ncpu="x"\ncores=-1\nmemory_bytes=1', "negative"),
    ],
)
def test_bad_profiles_name_the_key(content, message):
    with pytest.raises(ProfileError, match=message):
        DeviceProfile.from_toml(content)


def test_saving_and_a_missing_file(tmp_path):
    profile = dataclasses.replace(shipped()["pi-5"], measured=Measurement(1, 2, 3.0, 4.0, 5.0))
    profile.save(tmp_path / "p.toml")
    assert read(tmp_path / "p.toml") == profile
    assert [path.name for path in tmp_path.iterdir()] == ["p.toml"]
    with pytest.raises(ProfileError, match="no such profile"):
        read(tmp_path / "q.toml")


def test_the_documents_list_the_shipped_boards():
    text = (Path(__file__).parents[2] / "docs/boards.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
    listed = {row[0]: row for row in rows if row[0] in shipped()}
    assert listed.keys() == shipped().keys()
    for name, profile in shipped().items():
        torch = f"up to {profile.torch_at_most}" if profile.torch_at_most else ""
        assert name == "generic" or listed[name][1] == profile.title
        assert (listed[name][4:] or [""]) == [torch], f"{name}: the torch column differs from its profile"


def test_a_file_that_is_no_profile(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "binary.toml"):
        with pytest.raises(ProfileError, match="cannot be read as a profile"):
            read(path)


def test_torch_is_held_back_only_where_newer_builds_die():
    """Illegal instruction on ARMv8.0 (Cortex-A53, A57, A72); an A76 runs them, so must not be held back for it."""
    for profile in shipped().values():
        old = any(core in profile.cpu for core in ("Cortex-A53", "Cortex-A57", "Cortex-A72"))
        assert profile.torch_at_most == ("2.9" if old else ""), profile.name


def board(root, compatible, memory_kb=500_000, **files):
    tree = root / "sys/firmware/devicetree/base"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"\0".join(word.encode() for word in compatible) + b"\0")
    (tree / "model").write_bytes(b"A board Rev 1.0\0")
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal:  {memory_kb} kB\nMemFree: 1 kB\n")
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_a_board_is_known_by_its_device_tree(tmp_path):
    found = detect(board(tmp_path, ["raspberrypi,model-zero-2-w", "brcm,bcm2837"]))
    assert (found.name, found.memory_bytes) == ("pi-zero-2w", 512_000_000)
    assert found.torch_at_most == "2.9"


def test_an_unknown_board_is_generic_with_its_own_title(tmp_path):
    found = detect(board(tmp_path, ["acme,toaster"]))
    assert (found.name, found.title) == ("generic", "A board Rev 1.0")


def test_a_container_s_limits_count(tmp_path):
    root = board(
        tmp_path,
        ["raspberrypi,4-model-b"],
        proc__self__cgroup="0::/\n",
        sys__fs__cgroup__marker="",
    )
    (root / "sys/fs/cgroup/memory.max").write_text("100000000\n")
    (root / "sys/fs/cgroup/memory.current").write_text("30000000\n")
    (root / "sys/fs/cgroup/cpu.max").write_text("50000 100000\n")
    found = detect(root)
    assert (found.memory_bytes, found.cores) == (100_000_000, 1)
    assert usable_cores(tmp_path / "nowhere") >= 1


@pytest.mark.parametrize(
    ("line", "name", "content"),
    [
        ("0::/system.slice/agent.service", "system.slice/agent.service/cpu.max", "100000 100000"),
        ("0::/system.slice/agent.service", "system.slice/cpu.max", "50000 100000"),
        ("1:cpu,cpuacct:/docker/x", "cpu/docker/x/cpu.cfs_quota_us", "80000"),
    ],
)
def test_a_quota_counts_wherever_around_the_process_it_is_set(tmp_path, monkeypatch, line, name, content):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    own, quota = tmp_path / "proc/self/cgroup", tmp_path / "sys/fs/cgroup" / name
    for path, given_text in ((own, line), (quota, content), (quota.parent / "cpu.cfs_period_us", "100000")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(given_text + "\n")
    assert usable_cores(tmp_path) == 1


def test_no_quota_leaves_all_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "sys/fs/cgroup/cpu").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    (tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == 8

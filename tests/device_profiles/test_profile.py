from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.detect import detect, usable_cores
from device_profiles.measure import measure
from device_profiles.profile import DeviceProfile, Measurement, ProfileError, read, shipped

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(text, text, st.integers(0, 1 << 40), st.lists(text, max_size=3), st.booleans(), st.floats(0, 1e6))
def test_toml_round_trip(name, title, size, compatible, flag, rate):
    profile = DeviceProfile(
        name, title, "cpu", 4, size, compatible=tuple(compatible), shared_memory=flag,
        measured=Measurement(size, 4, rate, rate, rate),
    )  # fmt: skip
    assert DeviceProfile.from_toml(profile.to_toml()) == profile


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


def test_measuring_gives_plausible_figures(tmp_path):
    told = []
    found = measure(tmp_path, lambda probe, done, total: told.append((done, total)))
    assert told[0] == (0, 3)
    assert told[-1] == (3, 3)
    assert 0.01 < found.convolution_gflops < 10_000
    assert 0.05 < found.memory_bandwidth_gbs < 5_000
    assert found.disk_write_mbs > 0.1
    assert found.cores >= 1
    assert not list(tmp_path.iterdir())

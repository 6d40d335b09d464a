"""A disk that is full, or read-only, under one of the daemons: it says so, and goes on once there is room again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kills.fleet import Fleet, small_run, undisturbed
from tests.patience import PATIENCE_S
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not MosquittoBroker.available(), reason="Mosquitto is not installed"),
]

AGENTS = 2
SPEC = small_run(AGENTS, rounds=4, max_retries=1000)
STORE_ERROR = 11
WHILE_S = 6.0  # how long the disk stays as it is: several heartbeats, offers and tries


@pytest.fixture(scope="module")
def sha256() -> str:
    return undisturbed(SPEC)


@pytest.fixture
def disk() -> Iterator[Callable[[Path, int], Path]]:
    """Mount a disk of so many megabytes, in memory."""
    mounted: list[Path] = []

    def mount(path: Path, megabytes: int) -> Path:
        path.mkdir(parents=True)
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tinyfleet-test", path], check=False
        )
        if made.returncode:
            pytest.skip("nothing can be mounted here")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def fleet(tmp_path) -> Iterator[Fleet]:
    made = Fleet(tmp_path / "fleet", AGENTS)
    yield made
    made.stop()


def fill(disk: Path) -> Path:
    """A file that takes all room."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


def remount(disk: Path, how: str) -> None:
    """``ro`` is refused for as long as a file is open to be written, by a child that is about to die, say."""
    end = time.monotonic() + PATIENCE_S
    while subprocess.run(["mount", "-o", f"remount,{how}", disk], check=False, capture_output=True).returncode:
        assert time.monotonic() < end
        time.sleep(0.1)


def coordinator(*words: str) -> subprocess.CompletedProcess[str]:
    code = "from tinyfleet.coordinator.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


def tinyfleet(*words: str) -> subprocess.CompletedProcess[str]:
    code = "from tinyfleet.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


def under_way(fleet: Fleet, store, rounds: int = 1) -> str:
    """A run that has come so far."""
    run = store.runs.submit(SPEC)
    fleet.until("a round", lambda: store.runs.get(run).round >= rounds)
    return run


def tend_for(fleet: Fleet, seconds: float) -> None:
    """As an init system does, for a while: it starts what ended a second before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        fleet.tend()
        time.sleep(1.0)


def only_store_errors(fleet: Fleet) -> None:
    """Whatever ended by itself was the coordinator, for its disk, and said so. Such ends count no more."""
    for death in fleet.deaths:
        assert death.startswith(f"coordinator: {STORE_ERROR}\n"), death
        assert any(words in death for words in ("disk full or read-only?", "writable?", "Read-only file")), death
    fleet.deaths.clear()


def test_a_full_disk_under_the_coordinator(fleet, disk, sha256):
    room = disk(fleet.state, 24)
    fleet.start()
    fleet.until_there()
    with fleet.store() as store:
        run = under_way(fleet, store)
        ballast = fill(room)
        tend_for(fleet, WHILE_S)
        status = coordinator("status", "--state", str(fleet.state))
        assert status.returncode == 0, status.stderr
        assert run in status.stdout
        assert store.runs.get(run).state == "running"
        ballast.unlink()
        fleet.until_ended(store, run)
        only_store_errors(fleet)
        assert fleet.faults(store, run, sha256) == []


def test_a_run_can_be_stopped_once_a_full_disk_has_room(fleet, disk):
    room = disk(fleet.state, 24)
    fleet.start()
    fleet.until_there()
    with fleet.store() as store:
        run = under_way(fleet, store)
        ballast = fill(room)
        tend_for(fleet, 2.0)
        ballast.unlink()
        stopped = tinyfleet("run", "stop", run, "--state", str(fleet.state))
        assert stopped.returncode == 0, stopped.stderr
        assert fleet.until_ended(store, run).state == "stopped"
        only_store_errors(fleet)


def test_a_disk_that_turns_read_only_under_the_coordinator(fleet, disk, sha256):
    room = disk(fleet.state, 24)
    fleet.start()
    fleet.until_there()
    with fleet.store() as store:
        run = under_way(fleet, store)
    fleet.kill("coordinator")
    remount(room, "ro")
    tend_for(fleet, WHILE_S)
    status = coordinator("status", "--state", str(fleet.state))
    assert status.returncode == 0, status.stderr
    assert run in status.stdout
    stopped = tinyfleet("run", "stop", run, "--state", str(fleet.state))
    assert stopped.returncode == STORE_ERROR
    assert "read-only" in stopped.stderr.replace("readonly", "read-only")
    fleet.until("its end", lambda: fleet.exit_code("coordinator") is not None)
    remount(room, "rw")
    with fleet.store() as store:
        fleet.until_ended(store, run)
        only_store_errors(fleet)
        assert fleet.faults(store, run, sha256) == []


def test_a_full_disk_under_an_agent(fleet, disk, sha256):
    room = disk(fleet.directory / "agent-0", 256)  # more than the guard of the disk wants
    fleet.start()
    fleet.until_there()
    with fleet.store() as store:
        run = under_way(fleet, store)
        ballast = fill(room)
        fleet.until("it says so", lambda: "bytes are free on the device's disk" in fleet.said("agent-0"))
        tend_for(fleet, WHILE_S)
        assert fleet.deaths == []
        ballast.unlink()
        fleet.until_ended(store, run)
        assert fleet.faults(store, run, sha256) == []


def test_an_agent_on_a_read_only_disk_says_so_and_goes_on_afterwards(fleet, disk, sha256):
    room = disk(fleet.directory / "agent-0", 256)  # more than the guard of the disk wants
    fleet.start()
    fleet.until_there()
    with fleet.store() as store:
        run = under_way(fleet, store)
        fleet.kill("agent-0")
        remount(room, "ro")
        fleet.tend()
        fleet.until("its end", lambda: fleet.exit_code("agent-0") is not None)
        assert fleet.exit_code("agent-0") == 9
        assert "is not writable" in fleet.tail("agent-0")
        remount(room, "rw")
        fleet.expect("agent-0")
        fleet.until_ended(store, run)
        assert fleet.faults(store, run, sha256) == []

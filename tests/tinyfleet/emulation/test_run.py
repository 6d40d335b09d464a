"""Commands that really run under a board's limits: exit codes, signals, memory, CPU time, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tinyfleet.emulation import run as emulation_run
from tinyfleet.emulation.run import CommandMissing, CommandRefused, run
from tinyfleet.fedcore.errors import ConfigError

# Below and above what a Pi Zero 2 W leaves (410 MB), the interpreter's own counted.
ALLOCATE = "import sys; b = bytearray(int(sys.argv[1])); b[::4096] = b'x' * len(b[::4096])"
FITS, TOO_MUCH = 250_000_000, 600_000_000
INSIDE = """
import sys
from tinyfleet.emulation.run import run
sys.exit(run("pi-zero-2w", sys.argv[2:], cgroups=bool(int(sys.argv[1]))))
"""
# One write a line: two of these share their output, and an unbuffered print() writes its end of line apart.
BUSY = """import os, time; e = time.monotonic() + 1.2
while time.monotonic() < e: pass
os.write(1, f'{sum(os.times()[:2])}\\n'.encode())"""


def groups():
    return {
        path
        for path in Path("/sys/fs/cgroup").glob("**/tinyfleet-emulate-*")
        if path.name.endswith(f"-{os.getpid()}")
    }


def start(*command, cgroups=False):
    """``run`` in a process of its own, which can be sent signals."""
    return subprocess.Popen(
        [sys.executable, "-c", INSIDE, str(int(cgroups)), *command], stdout=subprocess.PIPE, text=True
    )


# -- without privileges ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
)
def test_the_command_s_exit_status_comes_out(script, status):
    assert run("pi-4b", ["sh", "-c", script], cgroups=False) == status


def test_each_process_s_memory_is_limited_without_cgroups(capfd):
    command = [sys.executable, "-c", ALLOCATE]
    assert run("pi-zero-2w", [*command, str(FITS)], cgroups=False) == 0
    assert run("pi-zero-2w", [*command, str(TOO_MUCH)], cgroups=False) == 1
    assert "MemoryError" in capfd.readouterr().err


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_reaches_the_command(sent, status):
    outer = start("sh", "-c", "echo ready; exec sleep 100000")
    assert outer.stdout is not None
    assert outer.stdout.readline() == "ready\n"
    outer.send_signal(sent)
    assert outer.wait(PATIENCE_S) == status
    outer.stdout.close()


def test_a_command_that_handles_a_signal_chooses_its_exit_status():
    outer = start("sh", "-c", "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done")
    assert outer.stdout is not None
    assert outer.stdout.readline() == "ready\n"
    outer.send_signal(signal.SIGINT)
    assert outer.wait(PATIENCE_S) == 9
    outer.stdout.close()


def test_signals_are_as_before_afterwards():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(CommandMissing, match="no-such-command: no such command"):
        run("pi-4b", ["no-such-command"], cgroups=False)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_closed_folder_of_path_holds_no_command(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandMissing, match="no-such-command"):
        run("pi-4b", ["no-such-command"], cgroups=False)
    (tmp_path / "plain").write_text("no program")
    with pytest.raises(CommandRefused, match="Permission denied"):
        run("pi-4b", ["plain"], cgroups=False)


def test_what_cannot_be_run_is_said(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("no program")
    with pytest.raises(CommandRefused, match="Permission denied"):
        run("pi-4b", [str(plain)], cgroups=False)
    with pytest.raises(ConfigError, match="no command"):
        run("pi-4b", [])
    with pytest.raises(ConfigError, match="no directory"):
        run("pi-4b", ["true"], sensors_root=tmp_path / "nowhere")


def test_the_command_believes_that_it_runs_on_the_board(tmp_path, capfd):
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("84000\n")
    code = (
        "import json; from tinyfleet.device_profiles.detect import detect;"
        "from tinyfleet.device_profiles.sensors.read import read_health;"
        "b = detect(); print(json.dumps([b.name, b.memory_bytes, read_health()['temperature_c']]))"
    )
    assert run("pi-zero-2w", [sys.executable, "-c", code], sensors_root=tmp_path, cgroups=False) == 0
    assert json.loads(capfd.readouterr().out) == ["pi-zero-2w", 409_600_000, 84.0]
    assert "TINYFLEET_EMULATED_BOARD" not in os.environ


def test_a_group_that_lets_nobody_in_is_replaced(closed_group, caplog):
    told = []
    assert run("pi-4b", ["sh", "-c", "exit 7"], tell=told.append) == 7
    assert [emulated.memory_means for emulated in told] == ["cgroup v2", "RLIMIT_DATA"]
    assert closed_group.closed
    assert "pi-4b: its cgroups cannot be entered; RLIMIT_DATA instead" in caplog.text


def test_where_no_limit_can_be_set_nothing_runs(closed_group, monkeypatch):
    monkeypatch.setattr(emulation_run.DataLimit, "before_exec", closed_group.before_exec)
    with pytest.raises(CommandRefused, match="no limit can be set on true"):
        run("pi-4b", ["true"])


# -- the command line -----------------------------------------------------------------------


def test_list_plan_and_exit_code_on_the_command_line(tinyfleet):
    assert "pi-zero-2w" in tinyfleet("emulate", "--list").out
    assert json.loads(tinyfleet("emulate", "--list", "--json").out)["pi-4b"]["memory_bytes"] == 800_000_000
    shown = json.loads(tinyfleet("emulate", "pi-zero-2w", "--no-cgroup", "--json").out)
    assert shown["memory_means"] == "RLIMIT_DATA"
    assert any("instruction set" in line for line in shown["not_emulated"])
    ran = tinyfleet("emulate", "pi-4b", "--no-cgroup", "--", "sh", "-c", "exit 5")
    assert ran.code == 5
    assert "not emulated  disk speed" in ran.err
    assert ran.out == ""
    assert tinyfleet("emulate", "pi-99", "--", "true").code == 2
    assert tinyfleet("emulate", "pi-4b", "--json", "--", "true").code == 2
    assert tinyfleet("emulate", "pi-4b", "-q", "--no-cgroup", "--", "no-such-command").code == 127


# -- with control groups --------------------------------------------------------------------


@pytest.fixture
def told():
    """What is emulated, collected; skips where no group can be made."""
    found = []
    run("pi-zero-2w", ["true"], tell=found.append)
    if not found[0].memory_means.startswith("cgroup"):
        pytest.skip("no memory cgroup can be made here")
    return found[0]


@pytest.mark.root
@pytest.mark.usefixtures("told")
def test_memory_of_the_whole_tree_together_is_limited(caplog, tmp_path):
    command = [sys.executable, "-c", ALLOCATE]
    assert run("pi-zero-2w", [*command, str(FITS)]) == 0
    assert not caplog.records
    assert run("pi-zero-2w", [*command, str(TOO_MUCH)]) == 137
    assert "the kernel killed 1 process(es) at 410M" in caplog.text
    caplog.clear()
    holder = tmp_path / "hold.py"
    holder.write_text(f"{ALLOCATE}; import time; time.sleep(3)")
    one = f"{sys.executable} {holder} {FITS}"
    assert run("pi-zero-2w", ["sh", "-c", f"{one} & {one}; second=$?; wait $! && exit $second"]) == 137
    assert "the kernel killed 1 process(es)" in caplog.text, "each fits, both together do not"
    assert not groups()


@pytest.mark.root
def test_cpu_time_is_limited(told, capfd):
    if not told.cpu_means:
        pytest.skip("no CPU quota can be set here")
    busy = f'{sys.executable} -c "{BUSY}"'
    start_s = time.monotonic()
    assert run("pi-zero-2w", ["sh", "-c", f"{busy} & {busy} & wait"]) == 0
    wall_s = time.monotonic() - start_s
    used = sum(map(float, capfd.readouterr().out.split()))
    assert used < 1.3 * told.limits.cpu_quota * wall_s + 0.1
    assert used > 0.1


@pytest.mark.root
@pytest.mark.usefixtures("told")
def test_nothing_is_left_behind_after_an_interruption():
    outer = start("sh", "-c", "sleep 300 & echo $!; wait", cgroups=True)
    assert outer.stdout is not None
    orphan = int(outer.stdout.readline())
    inside = set(Path("/sys/fs/cgroup").glob(f"**/tinyfleet-emulate-*-{outer.pid}"))
    assert inside
    outer.send_signal(signal.SIGTERM)
    assert outer.wait(PATIENCE_S) == 143
    outer.stdout.close()
    assert not any(path.exists() for path in inside)
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{orphan}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{orphan}").exists() or "Z" in Path(f"/proc/{orphan}/stat").read_text().split()[2]

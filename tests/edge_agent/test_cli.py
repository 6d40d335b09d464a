from __future__ import annotations

import json
import os
import subprocess
import sys

import msgspec
import pytest

from tests.edge_agent.runs import write_data
from tests.patience import PATIENCE_S
from tests.signing import identity_of
from tinyfleet.device_profiles.emulated import BOARD_VARIABLE
from tinyfleet.device_profiles.measuring import measure
from tinyfleet.device_profiles.profile import DeviceProfile, Measurement, ProfileError, Rate
from tinyfleet.edge_agent import cli, daemon
from tinyfleet.edge_agent.config import AgentConfig
from tinyfleet.edge_agent.state_directory import PROFILE, lock
from tinyfleet.edge_agent.status import StatusFile, read


def run(capsys, *arguments):
    """Exit code, stdout, stderr."""
    code = 0
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_init_then_show_config(tmp_path, capsys):
    path, state = tmp_path / "agent.toml", tmp_path / "state"
    options = ("--config", path, "--state", state)
    code, out, _ = run(capsys, "init", *options, "--name", "porch", "--memory-limit", "300M", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["device"], facts["config_written"]) == ("porch", True)
    assert (state / "identity.json").exists()
    code, out, _ = run(capsys, "show-config", "--config", path, "--json")
    assert msgspec.convert(json.loads(out), AgentConfig).limits.memory_limit_bytes == 300_000_000
    code, out, _ = run(capsys, "show-config", "--config", path)
    assert out == path.read_text(encoding="utf-8")
    code, out, _ = run(capsys, "init", *options, "--json")
    again = json.loads(out)
    assert (again["fingerprint"], again["config_written"]) == (facts["fingerprint"], False)


def test_each_fatal_error_has_its_code(tmp_path, capsys):
    missing = tmp_path / "none.toml"
    assert run(capsys, "run", "--config", missing)[0] == 2
    code, out, err = run(capsys, "show-config", "--name", "Porch!", "--json")
    assert (code, json.loads(out)["error"]) == (2, "ConfigError")
    assert "Porch!" in err
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert run(capsys, "run", "--state", tmp_path / "file" / "below")[0] == 9
    assert run(capsys, "status", "--state", tmp_path)[0] == 9
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    with lock(state):
        code, _, err = run(capsys, "run", "--state", state)
    assert (code, str(state) in err) == (8, True)


def test_data_that_is_missing_ends_the_agent_with_its_name(tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text(f'state = "{tmp_path}/s"\n[data]\nsource = "arrays:{tmp_path}/none.npz"\n', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tinyfleet.edge_agent.cli", "run", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 6, done.stderr
    assert "none.npz" in done.stderr


def test_describing_the_board_takes_a_child(tmp_path):
    source = write_data(tmp_path / "data.npz")
    config = msgspec.convert(
        {"data": {"source": source, "public_fraction": 0.0, "test_fraction": 0.0}, "state": str(tmp_path)},
        AgentConfig,
    )
    board = daemon.describe(config, "porch", lambda: False)
    assert board.samples == 80
    assert board.profile
    assert len(msgspec.json.encode(board.profile)) < 16_000


def test_status_is_written_once_a_change(tmp_path, capsys):
    path = tmp_path / "status.json"
    status = StatusFile(path, identity_of("porch"), "s1")
    status.write(link="accepted", task_state="training", task=("r", 3))
    first = path.stat().st_mtime_ns, path.stat().st_ino
    status.write(link="accepted", task_state="training", task=("r", 3))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == first
    assert read(path).task == ("r", 3)
    code, out, _ = run(capsys, "status", "--state", tmp_path, "--json")
    facts = json.loads(out)
    assert (code, facts["link"], facts["running"], facts["pid"]) == (0, "accepted", True, os.getpid())
    status.write(link="stopped", task_state="idle")
    assert json.loads(run(capsys, "status", "--state", tmp_path, "--json")[1])["running"] is False


@pytest.fixture
def measured(monkeypatch):
    """Probes that take no time, on a Pi Zero 2 W of which one core is left; what they were given."""
    given = []

    def probes(directory, progress, engine, thermal_seconds):
        given.append((directory, engine, thermal_seconds))
        if thermal_seconds == 7:
            raise KeyboardInterrupt
        if thermal_seconds < 0:
            raise ProfileError("give 0 for none")
        return Measurement(400_000_000, 1, 1.5, 2.0, 15.0, rates=(Rate("dense", 1.0, "fp32", 2.5),))

    monkeypatch.setattr(measure, "measure", probes)
    monkeypatch.setenv(BOARD_VARIABLE, "pi-zero-2w")
    return given


def test_measuring_is_kept_and_compared(tmp_path, capsys, measured):
    code, out, err = run(capsys, "measure", "--state", tmp_path, "--thermal-seconds", 5)
    assert code == 0
    assert out == (tmp_path / PROFILE).read_text(encoding="utf-8")
    assert DeviceProfile.from_toml(out).measured.rates == (Rate("dense", 1.0, "fp32", 2.5),)
    assert "warning: cores is 1 here, 4 in the shipped profile" in err
    found = json.loads(run(capsys, "measure", "--state", tmp_path, "--engine", "torch", "--json")[1])
    assert [warning["figure"] for warning in found["warnings"]] == ["cores"]
    assert found["measured"]["rates"][0]["gflops"] == 2.5
    assert measured == [(tmp_path, "numpy", 5), (tmp_path, "torch", 60)]


def test_measuring_that_is_stopped_or_wrong_keeps_nothing(tmp_path, capsys, measured):
    code, _, err = run(capsys, "measure", "--state", tmp_path, "--thermal-seconds", 7)
    assert (code, "nothing was kept" in err) == (130, True)
    code, out, _ = run(capsys, "measure", "--state", tmp_path, "--thermal-seconds", -1, "--json")
    assert (code, json.loads(out)["message"]) == (2, "give 0 for none")
    assert not (tmp_path / PROFILE).exists()


def test_sensors(tmp_path, capsys):
    path = tmp_path / "agent.toml"
    path.write_text('[sensors]\ndisabled = ["load"]\ndisk_warning = "9000000G"\n', encoding="utf-8")
    code, out, _ = run(capsys, "sensors", "--config", path, "--state", tmp_path, "--json")
    found = {reading["name"]: reading for reading in json.loads(out)["sensors"]}
    assert code == 0
    assert found["memory"]["value"] > 0
    assert (found["disk"]["state"], "load" in found) == ("warning", False)
    code, out, _ = run(capsys, "sensors", "--config", path, "--state", tmp_path / "none yet")
    assert (code, [line.split()[:2] for line in out.splitlines() if line.startswith("disk ")]) == (
        0,
        [["disk", "warning"]],
    )

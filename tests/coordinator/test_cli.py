"""The console script as a real process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.patience import PATIENCE_S
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.run_spec import RunSpec

COMMAND = [sys.executable, "-c", "from tinyfleet.coordinator.cli import main; main()"]


def coordinator(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@contextlib.contextmanager
def running(state: Path, *arguments: object):
    """A coordinator with its embedded broker, ready to serve."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, "run", "--state", str(state), "--embedded-broker", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    log = []
    try:
        for line in process.stderr:
            log.append(line)
            if "connected to the broker" in line:
                break
        else:
            pytest.fail("".join(log))
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_idle_it_is_small_and_knows_no_torch(tmp_path):
    with running(tmp_path) as process:
        time.sleep(1.0)
        rss_mb = psutil.Process(process.pid).memory_info().rss / 1e6
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "torch" not in maps
        assert rss_mb < 80, f"{rss_mb:.1f} MB"
        assert psutil.Process(process.pid).children() == []
        assert (tmp_path / "broker.url").read_text().startswith("mqtt://127.0.0.1:")


def test_sigterm_ends_it_cleanly_and_the_lock_is_free_again(tmp_path):
    for _ in range(2):
        with running(tmp_path) as process:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
            assert process.stderr.read().rstrip().endswith("stopped")


def test_a_second_one_on_the_same_state_is_refused(tmp_path):
    with running(tmp_path) as process:
        second = coordinator("run", "--state", tmp_path, "--embedded-broker")
        assert second.returncode == 10
        assert f"process id {process.pid}" in second.stderr


def test_a_killed_one_leaves_no_lock_behind(tmp_path):
    with running(tmp_path) as process:
        process.kill()
        process.wait()
    with running(tmp_path):
        pass


def test_the_service_does_not_import_torch():
    code = (
        "import sys; from tinyfleet.coordinator import cli, service\n"
        "from tinyfleet.coordinator.run import scheduler\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_bad_configuration_is_named(tmp_path):
    config = tmp_path / "coordinator.toml"
    config.write_text("heartbeats_s = 3\n")
    done = coordinator("run", "--state", tmp_path / "state", "--config", config)
    assert done.returncode == 2
    assert "did you mean `heartbeat_s`?" in done.stderr
    config.write_text('[broker]\npassword_file = "/does/not/exist"\n')
    done = coordinator("run", "--state", tmp_path / "state", "--config", config)
    assert done.returncode == 2
    assert "password_file" in done.stderr


def test_a_damaged_store_is_named(tmp_path):
    (tmp_path / "coordinator.db").write_bytes(b"not a database" * 100)
    done = coordinator("run", "--state", tmp_path, "--broker", "mqtt://127.0.0.1:1")
    assert done.returncode == 11
    assert "coordinator.db" in done.stderr


def test_status(tmp_path):
    store = Store(tmp_path)
    run = store.runs.submit(RunSpec(name="first"))
    store.close()
    document = json.loads(coordinator("status", "--state", tmp_path, "--json").stdout)
    assert [entry["run"] for entry in document["runs"]] == [run]
    assert document["devices"] == []
    assert run in coordinator("status", "--state", tmp_path).stdout

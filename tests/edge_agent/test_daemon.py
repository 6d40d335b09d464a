"""The real agent process and the signals that end it; no broker is needed for these."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.edge_agent.runs import write_data
from tests.patience import PATIENCE_S


def ignore_interrupts():
    """As a shell does to its background jobs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture
def start(tmp_path):
    started = []

    def make(source, **how):
        config = tmp_path / "agent.toml"
        config.write_text(
            f'name = "porch"\nstate = "{tmp_path}/state"\n[broker]\nurl = "mqtt://127.0.0.1:1"\n'
            f'[data]\nsource = "{source}"\npublic_fraction = 0.0\ntest_fraction = 0.0\n',
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "tinyfleet.edge_agent.cli", "run", "--config", str(config)]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **how))
        return started[-1]

    yield make
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def read_until(process, words):
    """The log as far as ``words``."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"no {words!r} in {lines}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("before", [None, ignore_interrupts], ids=["as it is", "SIGINT ignored from birth"])
def test_a_signal_ends_it_well(tmp_path, start, number, before):
    process = start(write_data(tmp_path / "data.npz"), preexec_fn=before)
    read_until(process, "device porch")
    process.send_signal(number)
    assert any(f"{number.name}: stopping" in line for line in process.stderr)
    assert process.wait(PATIENCE_S) == 0
    assert '"link":"stopped"' in (tmp_path / "state" / "status.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_the_data_is_still_being_read(tmp_path, start, number):
    pipe = tmp_path / "data.npz"
    os.mkfifo(pipe)
    process = start(f"arrays:{pipe}", preexec_fn=ignore_interrupts)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:  # nobody reads yet
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
    try:
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
    finally:
        os.close(writer)
    assert not (tmp_path / "state" / "status.json").exists(), "it had not said a word"

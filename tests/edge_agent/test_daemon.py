"""The real agent process and the signals that end it; no broker is needed for these."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.edge_agent.runs import write_data
from tests.patience import PATIENCE_S
from tinyfleet.edge_agent import daemon


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


class Interrupted(io.RawIOBase):
    """A log in the middle of whose first write SIGTERM comes; nothing else can be written meanwhile."""

    def __init__(self):
        self.lines = []

    def writable(self):
        return True

    def write(self, data):
        self.lines.append(bytes(data))
        if len(self.lines) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return len(data)


def test_a_signal_in_the_middle_of_a_line_of_log_is_not_lost(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    raw = Interrupted()
    stream = io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True)
    monkeypatch.setattr(sys, "stderr", stream)  # where logging says that it failed
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(daemon.logger, "handlers", [handler])
    monkeypatch.setattr(daemon.logger, "level", logging.INFO)
    monkeypatch.setattr(daemon.logger, "propagate", False)
    try:
        stopping = daemon.StopSignal()
        assert not stopping()
        daemon.logger.info("device porch")
        assert stopping()
        assert stopping()
    finally:
        for number, what in before.items():
            signal.signal(number, what)
    assert b"".join(raw.lines) == b"device porch\nSIGTERM: stopping\n"


def once_it_is_read(pipe, process):
    """The other end of a pipe, which holds up whoever reads the data."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)


def test_a_signal_that_ends_the_reader_of_the_data_does_not_end_the_agent(tmp_path, start):
    pipe = tmp_path / "data.npz"
    os.mkfifo(pipe)
    process = start(f"arrays:{pipe}")
    writer = once_it_is_read(pipe, process)
    pipe.unlink()
    write_data(pipe)  # for the next one
    (reader,) = psutil.Process(process.pid).children()
    reader.kill()
    os.close(writer)
    read_until(process, "the process that reads the data was ended by SIGKILL; again")
    read_until(process, "80 samples")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_the_data_is_still_being_read(tmp_path, start, number):
    pipe = tmp_path / "data.npz"
    os.mkfifo(pipe)
    process = start(f"arrays:{pipe}", preexec_fn=ignore_interrupts)
    writer = once_it_is_read(pipe, process)
    try:
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
    finally:
        os.close(writer)
    assert not (tmp_path / "state" / "status.json").exists(), "it had not said a word"

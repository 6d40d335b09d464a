"""Both programs as processes, with brokers that are away, silent or hung: what they say, and that they end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.edge_agent.rig import Coordinator
from tests.edge_agent.runs import write_data
from tests.fedcore.protocol.reach.brokers import CONNACK_5, Server
from tests.patience import PATIENCE_S
from tinyfleet.fedcore.foreign import daemon
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker, free_port
from tinyfleet.fedcore.protocol.messages import Hello
from tinyfleet.fedcore.protocol.mqtt import MqttTransport

needs_broker = pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed")
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ([A-Z]+) (tinyfleet\.\S+|coordinator): (.*)")
SIDES = {
    "coordinator": ["-c", "from tinyfleet.coordinator.cli import main; main()", "run"],
    "tinyfleet coordinator": ["-c", "from tinyfleet.cli import main; main()", "coordinator", "run"],
    "edge-agent": ["-m", "tinyfleet.edge_agent.cli", "run"],
    "tinyfleet agent": ["-c", "from tinyfleet.cli import main; main()", "agent", "run"],
}
END_WITHIN_S = 2.0


class Program:
    """One of the two, under one of its names."""

    def __init__(self, directory, side, port, broker=""):
        self.state, self.log = directory / "state", directory / "log"
        url = f"mqtt://127.0.0.1:{port}"
        if "coordinator" in side:
            options = ["--state", str(self.state), "--broker", url, "--auto-accept"]
        else:
            source = write_data(directory / "data.npz")
            config = directory / "agent.toml"
            config.write_text(
                f'name = "porch"\nstate = "{self.state}"\n[broker]\nurl = "{url}"\n{broker}'
                f'[data]\nsource = "{source}"\npublic_fraction = 0.0\ntest_fraction = 0.0\n',
                encoding="utf-8",
            )
            options = ["--config", str(config)]
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen([sys.executable, *SIDES[side], *options], stderr=stderr)

    def lines(self, level=None):
        """(level, logger, text) of the log so far."""
        found = [LINE.match(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        return [match.groups() for match in found if match and level in (None, match[1])]

    def until(self, condition):
        """Wait for it, as long as the program runs."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return value

    def end_s(self):
        """Seconds that SIGTERM takes."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0
        return time.monotonic() - began


@pytest.fixture
def program(tmp_path):
    made = []

    def start(*arguments, **options):
        made.append(Program(tmp_path, *arguments, **options))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize(
    "side", [pytest.param(side, marks=pytest.mark.slow if " " in side else ()) for side in SIDES]
)
@needs_broker
def test_a_broker_that_is_away_is_one_warning_and_its_coming_one_line(tmp_path, side, program):
    port = free_port()
    one = program(side, port)
    one.until(lambda: one.lines("WARNING"))
    (warning,) = one.lines("WARNING")
    assert warning[2].startswith(f"broker 127.0.0.1:{port}: nobody listens on that port; start the broker there")
    time.sleep(1.5)  # some more tries
    assert said(one, "nobody listens") == [warning]
    trouble = status(side, one.state)["trouble"]
    assert (trouble["kind"], trouble["reason"] in warning[2]) == ("port", True)
    assert time.time() - trouble["since"] < PATIENCE_S
    broker = MosquittoBroker(tmp_path / "broker", port)
    broker.start()
    other = MqttTransport(f"mqtt://127.0.0.1:{port}", "other")
    try:
        if "coordinator" not in side:
            coordinator = Coordinator(other)
            coordinator.await_(lambda: coordinator.of(Hello))
            coordinator.welcome()
        one.until(lambda: said(one, "again, after"))
        assert said(one, "nobody listens") == [warning]
        one.until(lambda: status(side, one.state)["trouble"] is None)
        assert one.end_s() < PATIENCE_S
    finally:
        other.close()
        broker.stop()


def said(program, words):
    """The lines with those words: on a busy machine a broker that is there may be slow, which is another matter."""
    return [line for line in program.lines() if words in line[2]]


def status(side, state):
    """What the program's own ``status`` says."""
    if "coordinator" in side:
        command = ["-c", "from tinyfleet.coordinator.cli import main; main()", "status"]
    else:
        command = ["-m", "tinyfleet.edge_agent.cli", "status"]
    ran = subprocess.run(
        [sys.executable, *command, "--state", str(state), "--json"], capture_output=True, text=True, check=True
    )
    document = json.loads(ran.stdout)
    return document["service"] if "coordinator" in side else document


@pytest.mark.parametrize("answer", [b"", CONNACK_5], ids=["never", "after CONNACK"])
@pytest.mark.parametrize("side", ["coordinator", "edge-agent"])
def test_sigterm_ends_it_while_its_broker_hangs(side, answer, program):
    """Seconds are this test's business: the least of some tries, since a busy machine may take its time."""
    server = Server(answer)
    took = []
    try:
        while not took or (min(took) >= END_WITHIN_S and len(took) < 5):
            server.reached.clear()
            one = program(side, server.port)
            one.until(server.reached.is_set)
            took.append(one.end_s())
        assert min(took) < END_WITHIN_S, took
    finally:
        server.close()


WRONG = {
    "tls_ca": ("mqtts", 'tls_ca = "{0}/nowhere.crt"', "nowhere.crt: No such file or directory; give a PEM file"),
    "tls_ca that is none": ("mqtts", 'tls_ca = "{0}/junk"', "junk holds no certificate"),
    "tls_cert": ("mqtts", 'tls_cert = "{0}/nowhere.crt"', "nowhere.crt: No such file or directory"),
    "tls_key": ("mqtts", 'tls_key = "{0}/nowhere.key"', "nowhere.key without tls_cert"),
    "password_file": ("mqtt", 'username = "u"\npassword_file = "{0}/junk"', "junk is not UTF-8 at byte 4"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("side", ["coordinator", "edge-agent"])
def test_a_wrong_file_ends_it_before_it_begins(tmp_path, side, case):
    scheme, lines, said = WRONG[case]
    (tmp_path / "junk").write_bytes(b"stra\xdfe\n")
    config = tmp_path / "config.toml"
    # The data are read after the broker's files: there are none.
    text = f'[broker]\nurl = "{scheme}://localhost:1"\n{lines.format(tmp_path)}\n'
    config.write_text(text + ("" if side == "coordinator" else '[data]\nsource = "arrays:/none.npz"\n'))
    ran = subprocess.run(
        [sys.executable, *SIDES[side], "--config", str(config), "--state", str(tmp_path / "state")],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (ran.returncode, said in ran.stderr) == (2, True), ran.stderr
    assert "Traceback" not in ran.stderr


DYING = """
import threading, time
from tinyfleet.fedcore.foreign.daemon import end_with_any_thread, log_as_daemon
log_as_daemon("info")
end_with_any_thread()
threading.Thread(target=lambda: 1 / 0, name="uploads").start()
time.sleep(600)
"""


def test_no_thread_dies_unseen():
    ran = subprocess.run(
        [sys.executable, "-c", DYING], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert ran.returncode == daemon.EXIT_CODE
    assert "CRITICAL" in ran.stderr
    assert "thread uploads died; the program ends" in ran.stderr
    assert "ZeroDivisionError" in ran.stderr


def test_somebody_elses_hook_is_kept(monkeypatch):
    def hook(arguments):
        raise AssertionError

    monkeypatch.setattr(threading, "excepthook", hook)
    daemon.end_with_any_thread()
    assert threading.excepthook is hook

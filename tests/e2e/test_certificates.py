"""Certificates in daily use: a real broker, coordinator and agent, each a process, and what an operator types."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.coordinator.fleet.mtls_fleet import MtlsFleet
from tests.edge_agent.runs import write_data
from tests.patience import PATIENCE_S
from tinyfleet.coordinator.fleet.authority import Authority, CertificateState, signing
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.certificates.renewal import read_certificates
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.training.registry import available

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed"),
    pytest.mark.skipif(not available(), reason="the agent describes its data with an engine"),
]

DAY = 86400.0


def command(module, *words):
    """A console script, as a process of this interpreter."""
    return [sys.executable, "-c", f"from {module} import main; main()", *map(str, words)]


class Fleet(MtlsFleet):
    """With a coordinator and an agent as processes; their logs are ``coordinator.log`` and ``board-1.log``."""

    def __init__(self, directory, **options):
        super().__init__(directory, **options)
        self.processes = {}
        self.state = directory / "state"
        self.homes = {name: directory / f"{name}-tls" for name in ("coordinator", "board-1")}

    def carry(self, name, issued, written=None):
        """As `tinyfleet ca issue` and the operator's copy leave them; ``written`` is the files' date."""
        home = self.homes[name]
        home.mkdir(exist_ok=True)
        for file, content in (("key", issued.key), ("crt", issued.certificate), ("trust.crt", issued.trust)):
            (home / file).touch(mode=0o600)
            (home / file).write_bytes(content)
            if written is not None:
                os.utime(home / file, (written, written))

    def broker_section(self, name):
        home = self.homes[name]
        return (
            f'[broker]\nurl = "{self.url}"\ntls_ca = "{home}/trust.crt"\n'
            f'tls_cert = "{home}/crt"\ntls_key = "{home}/key"\n'
        )

    def start_coordinator(self):
        config = self.directory / "coordinator.toml"
        config.write_text(
            f'authority = "{self.authority.directory}"\nauto_accept = true\nheartbeat_s = 0.5\n'
            + self.broker_section("coordinator")
        )
        self.start_process(
            "coordinator", "tinyfleet.coordinator.cli", "run", "--state", self.state, "--config", config
        )

    def agent_config(self):
        config = self.directory / "agent.toml"
        source = write_data(self.directory / "data.npz")
        config.write_text(
            f'name = "board-1"\nstate = "{self.directory}/board"\n{self.broker_section("board-1")}'
            f'[data]\nsource = "{source}"\npublic_fraction = 0.0\ntest_fraction = 0.0\n'
        )
        return config

    def start_agent(self):
        self.start_process("board-1", "tinyfleet.edge_agent.cli", "run", "--config", self.agent_config())

    def start_process(self, name, module, *words):
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command(module, *words), stdout=log, stderr=log)

    def log(self, name):
        path = self.directory / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def until(self, what, condition):
        end = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            assert time.monotonic() < end, (
                f"{what}\n{self.log('coordinator')[-3000:]}\n{self.log('board-1')[-3000:]}"
            )
            time.sleep(0.1)
        return value

    def heard(self, name, text):
        return self.until(f"{name}: {text}", lambda: text in self.log(name))

    def active(self, name):
        return next(
            (row for row in self.authority.certificates(name) if row.state is CertificateState.ACTIVE), None
        )

    def online(self):
        with contextlib.suppress(Exception):  # not made yet
            store = Store(self.state)
            try:
                return any(row.online for row in store.devices.all())
            finally:
                store.close()
        return False

    def close(self):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(PATIENCE_S)
        super().close()


@pytest.fixture
def fleet(tmp_path):
    made = Fleet(tmp_path)
    yield made
    made.close()


def test_a_certificate_renews_itself_before_it_ends(fleet, tmp_path):
    """Both sides': issued 600 days ago for two years, they are renewed at once, and nobody does anything."""
    then = time.time() - 600 * DAY
    long_ago = Authority(fleet.authority.directory, clock=lambda: then)
    first = {}
    for name in ("coordinator", "board-1"):
        made = long_ago.issue(subject_of(name))
        first[name] = made.row.serial
        fleet.carry(name, made, then)
    fleet.start_coordinator()
    fleet.start_agent()
    for name, serial in first.items():
        fleet.until(f"{name} renews", lambda name=name, serial=serial: fleet.active(name).serial != serial)
        ends = fleet.active(name).not_after
        assert ends > time.time() + 700 * DAY
    fleet.heard("board-1", "the certificate was renewed: serial ")
    fleet.heard("coordinator", "the coordinator's own certificate was renewed")
    # The authority learns of it from the connection that the new one opened: the former is good for nothing now.
    for name, serial in first.items():
        fleet.authority.revoke(name, serial=serial)
    fleet.restart()
    fleet.until("it comes back", fleet.online)
    status = subprocess.run(
        command("tinyfleet.edge_agent.cli", "status", "--json", "--config", tmp_path / "agent.toml"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(status.stdout)["certificate"].startswith("valid until 20")
    assert json.loads(status.stdout)["renewal"] == ""


def test_a_new_authority_reaches_every_board_before_the_old_one_goes(fleet, tmp_path):
    for name in ("coordinator", "board-1"):
        fleet.carry(name, fleet.authority.issue(subject_of(name)))
    fleet.start_coordinator()
    fleet.start_agent()
    fleet.until("the board is there", fleet.online)
    fleet.authority.rotate()
    fleet.restart()
    for name in ("coordinator", "board-1"):
        fleet.until(f"{name} renews", lambda name=name: fleet.active(name).generation == 2)
        assert len(read_certificates(fleet.homes[name] / "trust.crt")) == 2
    fleet.restart()  # with a certificate of the new authority, which all trust now
    assert fleet.active("broker").generation == 2
    fleet.authority.retire()
    fleet.restart()
    for name in ("coordinator", "board-1"):
        fleet.until(
            f"{name} forgets the old one",
            lambda name=name: len(read_certificates(fleet.homes[name] / "trust.crt")) == 1,
        )
    fleet.until("it comes back", fleet.online)


def test_a_board_whose_clock_was_never_set_says_so_and_comes_once_it_is(tmp_path, monkeypatch):
    """To the board it is all one whether its clock is early or the certificates are late."""
    with monkeypatch.context() as patch:
        patch.setattr(signing, "VALID_FROM", datetime.now(UTC) + timedelta(days=1))
        (tmp_path / "tomorrow").mkdir()
        tomorrow = Fleet(tmp_path / "tomorrow")
        tomorrow.carry("board-1", tomorrow.authority.issue(subject_of("board-1")))
    today = None
    try:
        tomorrow.start_agent()
        tomorrow.heard("board-1", "which is before the broker's certificate is valid")
        assert "this board's clock says 20" in tomorrow.log("board-1")
        assert "trying again until the time is set" in tomorrow.log("board-1")
        tomorrow.stop()
        # The time is set: at the same address, under certificates that are valid.
        authority = Authority.make(tmp_path / "today")
        monkeypatch.setattr("tests.coordinator.fleet.mtls_fleet.free_port", lambda: tomorrow.port)
        (tmp_path / "broker-of-today").mkdir()
        today = MtlsFleet(tmp_path / "broker-of-today", authority=authority)
        tomorrow.carry("board-1", authority.issue(subject_of("board-1")))
        heard = tmp_path / "broker-of-today" / "mosquitto.log"
        tomorrow.until("the board comes in", lambda: " as board-1 " in heard.read_text())
        assert tomorrow.processes["board-1"].poll() is None
        assert tomorrow.log("board-1").count("device board-1, key") == 1, "it was not started again"
    finally:
        for process in tomorrow.processes.values():
            process.terminate()
            process.wait(PATIENCE_S)
        if today is not None:
            today.close()
        else:
            tomorrow.stop()


def test_a_revoked_board_says_why(fleet, tmp_path):
    """In its log at the default level, each time the broker's answer is another."""
    for name in ("coordinator", "board-1"):
        fleet.carry(name, fleet.authority.issue(subject_of(name)))
    fleet.start_coordinator()
    fleet.start_agent()
    fleet.until("the board is there", fleet.online)
    fleet.authority.revoke("board-1", "stolen")
    fleet.restart()
    fleet.heard("board-1", "this client's certificate was revoked; ask the fleet's operator for a new one")
    fleet.until("it is out", lambda: not fleet.online())


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("tinyfleet.edge_agent.cli", ("run", "--state", "board")),
        ("tinyfleet.coordinator.cli", ("run", "--state", "state")),
    ],
)
def test_plaintext_to_another_machine_ends_both_daemons_with_2(tmp_path, program, words):
    started = command(program, *words, "--broker", "mqtt://192.0.2.1:1883")
    ran = subprocess.run(started, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert ran.returncode == 2
    assert "is plaintext, and 192.0.2.1 is not this machine alone" in ran.stderr
    assert "--plaintext" in ran.stderr
    if "coordinator" in program:
        assert not (tmp_path / "state").exists(), "refused before anything is made"
    with subprocess.Popen([*started, "--plaintext"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            warned = next(line for line in process.stderr if "plaintext" in line)
        finally:
            process.kill()
    assert "WARNING" in warned
    assert "whoever is on the way reads models, and forges messages" in warned

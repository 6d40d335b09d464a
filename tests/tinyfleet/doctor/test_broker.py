"""``tinyfleet doctor broker``: each step of the way to a broker, and the code of what is wrong with it."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from tests.docs.fenced import ROOT
from tests.fedcore.protocol.reach.brokers import Server, no_subscriptions, password_lines
from tests.fedcore.protocol.reach.conftest import scene  # noqa: F401 - a fixture
from tests.patience import PATIENCE_S
from tinyfleet.coordinator.status import ServiceStatusFile
from tinyfleet.doctor import probe as probing
from tinyfleet.doctor.answer import Outcome, Surroundings
from tinyfleet.doctor.broker import broker
from tinyfleet.doctor.probe import EXIT_CODES, STEP_TIMEOUT_S, probe
from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.protocol.brokers.mosquitto import free_port
from tinyfleet.fedcore.protocol.reach import client, connection
from tinyfleet.fedcore.protocol.reach.causes import CauseKind
from tinyfleet.fedcore.protocol.reach.watch import Trouble


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Of a broker that is there, however busy the machine is."""
    for module, name in (
        (connection, "HANDSHAKE_TIMEOUT_S"),
        (client, "CONNECT_TIMEOUT_S"),
        (probing, "STEP_TIMEOUT_S"),
    ):
        monkeypatch.setattr(module, name, PATIENCE_S)


def examined(tinyfleet, *options):
    """(exit code, the check's row)."""
    ran = tinyfleet("doctor", "broker", "--json", *options)
    (row,) = json.loads(ran.out)["checks"]
    return ran.code, row


def test_a_good_broker_step_by_step(tinyfleet, scene):  # noqa: F811
    url = f"mqtt://127.0.0.1:{scene.mosquitto().port}"
    code, row = examined(tinyfleet, "--broker", url)
    assert (code, row["status"]) == (0, "ok")
    steps = [line.split(": ")[0] for line in row["found"].splitlines()]
    assert steps == ["name", "port", "log-in", "subscription"]


def test_the_broker_of_a_file_with_tls_and_a_certificate(tinyfleet, scene, tmp_path):  # noqa: F811
    fleet = scene.fleet()
    kept = fleet.issue("board-1")
    config = tmp_path / "agent.toml"
    named = "".join(
        f'tls_{name} = "{kept / file}"\n' for name, file in (("ca", "trust"), ("cert", "crt"), ("key", "key"))
    )
    config.write_text(f'name = "board-1"\n[broker]\nurl = "{fleet.url}"\n{named}', encoding="utf-8")
    code, row = examined(tinyfleet, "--config", config)
    assert code == 0
    assert "TLS: TLSv1.3, the broker's certificate is valid until" in row["found"]
    assert "subscription: tinyfleet/v1/board-1/down is granted" in row["found"]
    code, row = examined(tinyfleet, "--config", config, "--broker", fleet.url.replace("localhost", "127.0.0.1"))
    assert (code, row["kind"]) == (EXIT_CODES[CauseKind.TLS], "tls")
    assert (
        row["found"]
        .splitlines()[-1]
        .startswith(f"TLS: 127.0.0.1:{fleet.port}: the broker's certificate is for another")
    )


def test_each_step_that_fails_has_its_code(tinyfleet, scene, tmp_path):  # noqa: F811
    port = free_port()
    assert examined(tinyfleet, "--broker", f"mqtt://127.0.0.1:{port}")[0] == EXIT_CODES[CauseKind.PORT]
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text("wrong\n", encoding="utf-8")
    lines = password_lines(tmp_path, board="right")
    locked = scene.mosquitto(*lines, anonymous=False)
    config = tmp_path / "agent.toml"
    text = f'[broker]\nurl = "mqtt://127.0.0.1:{locked.port}"\nusername = "board"\npassword_file = "{secret}"\n'
    config.write_text(text, encoding="utf-8")
    code, row = examined(tinyfleet, "--config", config)
    assert (code, row["kind"]) == (EXIT_CODES[CauseKind.LOGIN], "login")
    assert "log-in: " in row["found"].splitlines()[-1]
    secret.write_text("right\n", encoding="utf-8")
    assert examined(tinyfleet, "--config", config)[0] == 0
    secret.chmod(0o644)
    code, row = examined(tinyfleet, "--config", config)
    assert code == 2
    assert "chmod 600" in row["found"]
    assert examined(tinyfleet, "--config", tmp_path / "none.toml")[0] == 2
    assert examined(tinyfleet, "--broker", "http://127.0.0.1")[0] == 2


def test_a_subscription_that_is_refused(tinyfleet, scene, tmp_path):  # noqa: F811
    closed = scene.mosquitto(*no_subscriptions(tmp_path))
    code, row = examined(tinyfleet, "--broker", f"mqtt://127.0.0.1:{closed.port}")
    assert (code, row["kind"]) == (EXIT_CODES[CauseKind.ACCESS], "access")
    assert row["found"].splitlines()[-2].startswith("log-in: as anybody")
    assert row["found"].splitlines()[-1].startswith("subscription: ")


def test_what_hangs_ends_within_the_time_limits(monkeypatch):
    monkeypatch.setattr(connection, "HANDSHAKE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", 0.2)
    server = Server()
    try:
        for scheme in ("mqtt", "mqtts"):
            *_, last = probe(BrokerSettings(f"{scheme}://127.0.0.1:{server.port}"), "t", 0.5)
            assert last.cause.kind is CauseKind.SILENT
    finally:
        server.close()


def test_plaintext_to_another_machine_is_not_tried_with_a_password(scene, monkeypatch):  # noqa: F811
    monkeypatch.setattr("tinyfleet.fedcore.tls.plaintext.loopback", lambda address: False)
    *_, last = probe(BrokerSettings(f"mqtt://127.0.0.1:{scene.mosquitto().port}"), "t")
    assert (last.name, last.cause.kind) == ("log-in", CauseKind.TLS)
    assert "plaintext goes to this one alone" in last.cause.reason


def test_plaintext_that_is_allowed_is_a_warning(scene, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr("tinyfleet.fedcore.tls.plaintext.loopback", lambda address: False)
    config = tmp_path / "agent.toml"
    config.write_text(f'[broker]\nurl = "mqtt://127.0.0.1:{scene.mosquitto().port}"\nplaintext = true\n')
    told = broker(Surroundings(tmp_path, config=config, root=tmp_path))
    assert told.status is Outcome.WARNING
    assert "whoever is on the way reads models, and forges messages" in told.found


def test_dns_that_hangs_ends_too(monkeypatch):
    asked = threading.Event()

    def hang(*arguments, **options):
        asked.wait(PATIENCE_S)
        raise socket.gaierror(socket.EAI_AGAIN, "at last")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    *_, last = probe(BrokerSettings("mqtts://gateway.lan"), "t", 0.1)
    asked.set()
    assert (last.name, last.cause.kind) == ("name", CauseKind.NAME)
    assert time.monotonic() - began < PATIENCE_S


def test_without_a_broker_it_tells_what_the_coordinator_says(tmp_path):
    here = Surroundings(tmp_path, root=tmp_path)
    assert "not asked for" in broker(here).found
    status = ServiceStatusFile(tmp_path, "gw:1883")
    status.write(connected=True, trouble=None)
    assert broker(here).found == "the coordinator that runs here reaches gw:1883"
    status.write(connected=False, trouble=Trouble(CauseKind.PORT, "gw:1883: nobody listens", 0.0))
    told = broker(here)
    assert (told.status, told.kind) == (Outcome.WARNING, "port")
    assert "gw:1883: nobody listens" in told.found
    status.write(connected=False, trouble=None, stopped=True)
    assert "not asked for" in broker(here).found


def test_on_a_board_it_tries_the_agents_own_broker(tmp_path):
    usual = tmp_path / "etc" / "tinyfleet" / "agent.toml"
    usual.parent.mkdir(parents=True)
    usual.write_text(f'[broker]\nurl = "mqtt://127.0.0.1:{free_port()}"\n', encoding="utf-8")
    tried = broker(Surroundings(tmp_path, root=tmp_path))
    assert (tried.status, tried.code) == (Outcome.MISSING, EXIT_CODES[CauseKind.PORT])
    usual.write_text(f'[broker]\nusername = "u"\npassword_file = "{tmp_path}/none"\n', encoding="utf-8")
    assert broker(Surroundings(tmp_path, root=tmp_path)).status is Outcome.WARNING


def test_the_page_lists_the_codes():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for kind, code in EXIT_CODES.items():
        assert f"`{kind.value}` {code}" in text
    assert f"each within {STEP_TIMEOUT_S:g} seconds" in " ".join(text.split())


@pytest.mark.parametrize("text", ["[broker", "[broker]\nurll = 1\n", "broker = 3\n"])
def test_a_file_that_is_none(tinyfleet, tmp_path, text):
    config = tmp_path / "agent.toml"
    config.write_text(text, encoding="utf-8")
    assert examined(tinyfleet, "--config", config)[0] == 2

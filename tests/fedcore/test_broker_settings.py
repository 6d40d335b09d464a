from __future__ import annotations

import contextlib
import re
import socket

import pytest

from tests.patience import PATIENCE_S
from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.edge_agent.config import AgentConfig
from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol import mqtt


def closed(path, content):
    path.touch(mode=0o600)
    path.write_bytes(content)


def test_both_sides_read_the_same_settings():
    assert type(CoordinatorConfig().broker) is type(AgentConfig().broker) is BrokerSettings
    assert CoordinatorConfig().broker == AgentConfig().broker


def test_the_password_is_the_first_line(tmp_path):
    path = tmp_path / "password"
    closed(path, b"secret\n# a note\n")
    assert BrokerSettings(username="u", password_file=str(path)).password() == "secret"
    assert BrokerSettings().password() is None


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"", 0o600, "is empty; write the password on its first line"),
        (b"\nsecond line\n", 0o600, "is empty; write the password on its first line"),
        (b"stra\xdfe\n", 0o600, "is not UTF-8 at byte 4; write the password in UTF-8"),
        (b"secret\n", 0o644, "everybody on this machine may read it; chmod 600"),
    ],
)
def test_a_password_file_that_is_wrong_says_what_to_do(tmp_path, content, mode, said):
    path = tmp_path / "password"
    closed(path, content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=re.escape(said)):
        BrokerSettings(username="u", password_file=str(path)).password()


def test_a_password_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"broker.password_file .*/none: No such file"):
        BrokerSettings(username="u", password_file=str(tmp_path / "none")).password()
    with pytest.raises(ConfigError, match=r"Is a directory; give a file that this user may read"):
        BrokerSettings(username="u", password_file=str(tmp_path)).password()


def test_a_password_is_somebodys(tmp_path):
    with pytest.raises(ConfigError, match=r"without broker.username; give the user whose password it is"):
        BrokerSettings(password_file=str(tmp_path / "password")).password()


def test_the_transport_logs_in_as_the_settings_say(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(mqtt, "MqttTransport", lambda *place, **login: made.append((*place, *login.values())))
    path = tmp_path / "password"
    closed(path, b"secret\n")
    BrokerSettings("mqtts://h:1", "porch", str(path), "ca.pem", "5").transport("porch-1")
    BrokerSettings("mqtt://127.0.0.1:1").transport("porch-2")
    assert made == [
        ("mqtts://h:1", "porch-1", "porch", "secret", "ca.pem", "5", None, None, False),
        ("mqtt://127.0.0.1:1", "porch-2", None, None, None, "auto", None, None, False),
    ]


# -- what others on the network can do ------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433"]
)
def test_plaintext_to_this_machine_is_nobodys_business(host):
    assert BrokerSettings(f"mqtt://{host}:1883").exposure() == ""


@pytest.mark.parametrize(
    "host",
    [
        "192.168.1.7",
        "0.0.0.0",  # noqa: S104
        "[::]",
        "[fe80::1]",
        "[::ffff:192.168.1.7]",
        "10.0.0.1",
        "no-such-name.invalid",
        "8.8.8.8",
    ],
)
def test_plaintext_to_another_machine_is_refused_with_the_remedy(host):
    settings = BrokerSettings(f"mqtt://{host}:1883")
    for action in (settings.exposure, lambda: settings.transport("porch")):
        with pytest.raises(
            ConfigError, match=r"is plaintext.*give mqtts://.*broker.plaintext = true or --plaintext"
        ):
            action()


def test_a_name_is_this_machine_only_where_all_its_addresses_are(monkeypatch):
    def resolve(*addresses):
        found = [(None, None, None, "", (address, 0)) for address in addresses]
        monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: found)

    settings = BrokerSettings("mqtt://gateway.lan:1883")
    resolve("127.0.1.1", "::1")
    assert settings.exposure() == ""
    resolve("127.0.1.1", "192.168.1.7")
    with pytest.raises(ConfigError, match=r"gateway\.lan is not this machine alone"):
        settings.exposure()


def test_plaintext_that_is_allowed_is_warned_of_at_each_start(caplog, tmp_path):
    closed(tmp_path / "password", b"secret")
    for settings, told in (
        (BrokerSettings("mqtt://192.168.1.7", plaintext=True), "reads models, and forges messages"),
        (
            BrokerSettings("mqtt://192.168.1.7", "b", str(tmp_path / "password"), plaintext=True),
            "reads models and the password, and forges messages",
        ),
        (BrokerSettings("mqtts://192.168.1.7"), "shows neither a certificate nor a user name"),
    ):
        caplog.clear()
        settings.transport("porch")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert told in caplog.text


def test_tls_with_a_name_or_a_certificate_is_not_warned_of():
    assert BrokerSettings("mqtts://192.168.1.7", "board-1").exposure() == ""
    assert BrokerSettings("mqtts://192.168.1.7", tls_cert="board-1.crt").exposure() == ""


def test_a_name_that_leads_elsewhere_later_gets_no_word(monkeypatch):
    """It was loopback when the settings were checked: what counts is where the connection ends."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport = BrokerSettings(f"mqtt://127.0.0.1:{server.getsockname()[1]}").transport("porch")
        monkeypatch.setattr("tinyfleet.fedcore.tls.plaintext.loopback", lambda address: False)
        transport.open(())
        connection, _ = server.accept()
        with connection:
            connection.settimeout(PATIENCE_S)
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(100):
                    heard.append(piece)
        event = transport.receive(PATIENCE_S)
        transport.close()
    assert heard == []
    assert "127.0.0.1 is another machine, and plaintext goes to this one alone" in event.reason

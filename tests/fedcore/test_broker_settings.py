from __future__ import annotations

import re

import pytest

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
    BrokerSettings("mqtt://h:1").transport("porch-2")
    assert made == [
        ("mqtts://h:1", "porch-1", "porch", "secret", "ca.pem", "5", None, None),
        ("mqtt://h:1", "porch-2", None, None, None, "auto", None, None),
    ]

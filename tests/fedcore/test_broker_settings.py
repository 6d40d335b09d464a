from __future__ import annotations

import pytest

from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.edge_agent.config import AgentConfig
from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol import mqtt


def test_both_sides_read_the_same_settings():
    assert type(CoordinatorConfig().broker) is type(AgentConfig().broker) is BrokerSettings
    assert CoordinatorConfig().broker == AgentConfig().broker


def test_the_password_is_the_first_line(tmp_path):
    path = tmp_path / "password"
    path.write_text("secret\n# a note\n", encoding="utf-8")
    assert BrokerSettings(password_file=str(path)).password() == "secret"
    assert BrokerSettings().password() is None


@pytest.mark.parametrize("content", ["", "\nsecond line\n"])
def test_an_empty_password_is_an_error_that_says_what_to_do(tmp_path, content):
    path = tmp_path / "password"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"password is empty; write the password on its first line"):
        BrokerSettings(password_file=str(path)).password()


def test_a_password_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"broker.password_file .*/none: No such file"):
        BrokerSettings(password_file=str(tmp_path / "none")).password()


def test_the_transport_logs_in_as_the_settings_say(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(mqtt, "MqttTransport", lambda *place, **login: made.append((*place, *login.values())))
    path = tmp_path / "password"
    path.write_text("secret\n", encoding="utf-8")
    BrokerSettings("mqtts://h:1", "porch", str(path), "ca.pem", "5").transport("porch-1")
    BrokerSettings("mqtt://h:1").transport("porch-2")
    assert made == [
        ("mqtts://h:1", "porch-1", "porch", "secret", "ca.pem", "5", None, None),
        ("mqtt://h:1", "porch-2", None, None, None, "auto", None, None),
    ]

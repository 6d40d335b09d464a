"""docs/coordinator.md lists what the coordinator's settings and errors are."""

from __future__ import annotations

from pathlib import Path

from tinyfleet.coordinator.config import AllowanceSettings, CoordinatorConfig
from tinyfleet.coordinator.errors import (
    DamagedBlob,
    IllegibleRun,
    StateInUse,
    StoreError,
    UnknownDevice,
    UnknownRun,
)
from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.errors import ConfigError, TransportError

DOCUMENT = Path(__file__).parents[2] / "docs" / "coordinator.md"


def test_the_document_lists_every_exit_code():
    text = DOCUMENT.read_text(encoding="utf-8")
    known = (StateInUse, StoreError, UnknownRun, UnknownDevice, DamagedBlob, IllegibleRun)
    for error in (ConfigError, TransportError, *known):
        assert f"| {error.exit_code} | {error.__name__}:" in text


def test_the_document_lists_every_setting():
    text = DOCUMENT.read_text(encoding="utf-8")
    for kind, prefix in ((CoordinatorConfig, ""), (BrokerSettings, "broker."), (AllowanceSettings, "limits.")):
        for name in kind.__struct_fields__:
            assert name == "broker" or f"`{prefix}{name}`" in text, name

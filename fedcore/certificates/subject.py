"""Whom a certificate is for: a role and a name. Common name = MQTT user name = device name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.topics import valid_device


class CertificateRole(StrEnum):
    """What the holder of a certificate is."""

    COORDINATOR = "coordinator"
    """The gateway's program: may use all topics of the fleet."""
    BROKER = "broker"
    """The MQTT broker: the only certificate for a server."""
    DEVICE = "device"
    """A board: may use its own topics."""


RESERVED = frozenset(
    {
        CertificateRole.COORDINATOR.value,
        CertificateRole.BROKER.value,
        CertificateRole.DEVICE.value,
        "authority",
        "operator",
    }
)


@dataclass(frozen=True, slots=True)
class Subject:
    """``name`` equals the role's for coordinator and broker. Raises ``ConfigError`` for a name that is none."""

    role: CertificateRole
    name: str

    def __post_init__(self) -> None:
        if self.role is not CertificateRole.DEVICE:
            if self.name != self.role.value:
                raise ConfigError(f"the {self.role.value}'s certificate is called {self.role.value!r}")
        elif self.name in RESERVED:
            raise ConfigError(f"{self.name!r} is no name for a device: it is the name of a role; choose another")
        elif not valid_device(self.name):
            raise ConfigError(
                f"device name {self.name[:80]!r}; give lower-case letters, digits and hyphens, at most 64, "
                "the first no hyphen"
            )


def subject_of(name: str) -> Subject:
    """The subject of that name: coordinator, broker, or else a device. Raises ``ConfigError``."""
    role = (
        CertificateRole(name)
        if name in (CertificateRole.COORDINATOR, CertificateRole.BROKER)
        else CertificateRole.DEVICE
    )
    return Subject(role, name)


def comparable(fingerprint: str) -> str:
    """The first 16 of a fingerprint's hex digits in groups of four: short enough to read out and compare."""
    return " ".join(fingerprint[at : at + 4].upper() for at in range(0, 16, 4))

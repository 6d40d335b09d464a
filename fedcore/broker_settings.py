"""How either side reaches the MQTT broker: the part ``[broker]`` of both daemons' configuration files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import read_file
from tinyfleet.fedcore.protocol.transport import Transport
from tinyfleet.fedcore.run_spec import Settings

if TYPE_CHECKING:
    from tinyfleet.fedcore.tls.context import TlsFiles

log = logging.getLogger(__name__)


class BrokerSettings(Settings, frozen=True):
    """How to reach the MQTT broker."""

    url: Annotated[str, Meta(description="mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS")] = (
        "mqtt://127.0.0.1:1883"
    )
    username: Annotated[str, Meta(description="user name at the broker; empty: anonymous")] = ""
    password_file: Annotated[str, Meta(description="file whose first line is the password; empty: none")] = ""
    tls_ca: Annotated[str, Meta(description="PEM file of the authority to trust; empty: the system's")] = ""
    protocol: Annotated[
        Literal["auto", "5", "3.1.1"], Meta(description="MQTT version; auto tries 5, then 3.1.1")
    ] = "auto"
    tls_cert: Annotated[
        str, Meta(description="PEM file of the certificate to show the broker (`tinyfleet ca issue`); empty: none")
    ] = ""
    tls_key: Annotated[str, Meta(description="PEM file of its key; empty: it stands in tls_cert")] = ""
    plaintext: Annotated[
        bool, Meta(description="allow mqtt:// to another machine: whoever is on the way reads and forges messages")
    ] = False

    @property
    def tls_files(self) -> TlsFiles:
        """The three files; None for what is not named."""
        from tinyfleet.fedcore.tls.context import TlsFiles

        return TlsFiles(self.tls_ca or None, self.tls_cert or None, self.tls_key or None)

    def exposure(self) -> str:
        """What to warn of at each start: what others on the network can do. Empty: nothing.

        Raises ``ConfigError`` for plaintext to another machine that ``plaintext`` does not allow.
        """
        from tinyfleet.fedcore.protocol.reach.client import broker_address
        from tinyfleet.fedcore.tls.plaintext import stays_here

        host, _, tls = broker_address(self.url)
        if tls and not self.tls_cert and not self.username:
            return (
                f"broker.url {self.url}: this client shows neither a certificate nor a user name, so anybody can "
                "pass for it; give tls_cert and tls_key (`tinyfleet ca issue`)"
            )
        if tls or stays_here(host):
            return ""
        heard = (
            f"broker.url {self.url} is plaintext, and {host} is not this machine alone: whoever is on the way reads"
        )
        if self.plaintext:
            password = " and the password" if self.username else ""
            return f"{heard} models{password}, and forges messages; mqtts:// with certificates ends that"
        raise ConfigError(
            f"{heard} and forges messages; give mqtts:// with the fleet's certificates (`tinyfleet broker config`, "
            "`tinyfleet ca issue`), or allow it with broker.plaintext = true or --plaintext"
        )

    def password(self) -> str | None:
        """The first line of the password file; None where none is named. Raises ``ConfigError``."""
        if not self.password_file:
            return None
        named = f"broker.password_file {self.password_file}"
        if not self.username:
            raise ConfigError(f"{named} without broker.username; give the user whose password it is")
        path = Path(self.password_file)
        try:
            lines = read_file(path).decode("utf-8").splitlines()
            mode = path.stat().st_mode
        except OSError as error:
            raise ConfigError(f"{named}: {error.strerror}; give a file that this user may read") from None
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{named} is not UTF-8 at byte {error.start}; write the password in UTF-8, as the broker expects it"
            ) from None
        if not lines or not lines[0]:
            raise ConfigError(f"{named} is empty; write the password on its first line")
        if mode & 0o007:
            raise ConfigError(f"{named}: everybody on this machine may read it; chmod 600 {self.password_file}")
        return lines[0]

    def transport(self, client_id: str) -> Transport:
        """The MQTT client that these settings describe, not yet opened. Warns of ``exposure``, raises its error."""
        if exposure := self.exposure():
            log.warning("%s", exposure)
        return self.client(client_id)

    def client(self, client_id: str) -> Transport:
        """The same, and nothing is said of ``exposure``: plaintext to another machine ends where it connects."""
        from tinyfleet.fedcore.protocol.mqtt import MqttTransport

        return MqttTransport(
            self.url,
            client_id,
            username=self.username or None,
            password=self.password(),
            tls_ca=self.tls_ca or None,
            protocol=self.protocol,
            tls_cert=self.tls_cert or None,
            tls_key=self.tls_key or None,
            plaintext=self.plaintext,
        )

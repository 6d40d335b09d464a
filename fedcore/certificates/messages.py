"""The messages of a renewal, over the connection that the present certificate opened."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from tinyfleet.fedcore.protocol.messages import Message, Text

Pem = Annotated[str, Meta(max_length=4096)]
Bundle = Annotated[str, Meta(max_length=16384)]
Serial = Annotated[str, Meta(pattern=r"^[0-9a-f]{1,40}$")]


class RenewalRequest(Message, frozen=True, tag="renewal_request"):
    """Device -> coordinator: sign this request. Idempotent: the same request gets the same certificate."""

    request: Pem
    proof: Annotated[bytes, Meta(max_length=80)]  # ECDSA signature of the request by the present key


class RenewalDone(Message, frozen=True, tag="renewal_done"):
    """Device -> coordinator, over the first connection with the new certificate: it is on disk and works."""

    serial: Serial


class RenewalGrant(Message, frozen=True, tag="renewal_grant"):
    """Coordinator -> device: the certificate, and whom to trust from now on."""

    certificate: Pem
    authorities: Bundle


class RenewalWanted(Message, frozen=True, tag="renewal_wanted"):
    """Coordinator -> device: renew now, the authority was replaced. Said on every contact until it is done."""


class RenewalRefused(Message, frozen=True, tag="renewal_refused"):
    """Coordinator -> device: there will be no certificate, and why."""

    reason: Text

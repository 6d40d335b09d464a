"""The coordinator's answer to a device that renews its certificate."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tinyfleet.coordinator.fleet.authority.authority import Authority
from tinyfleet.coordinator.fleet.authority.errors import AuthorityError
from tinyfleet.coordinator.fleet.authority.index import CertificateState
from tinyfleet.coordinator.fleet.authority.keys import key_digest
from tinyfleet.fedcore.certificates.messages import RenewalGrant, RenewalRefused, RenewalRequest
from tinyfleet.fedcore.certificates.renewal import IDENTITY, install, prepare
from tinyfleet.fedcore.certificates.request import proven, read_request
from tinyfleet.fedcore.certificates.subject import CertificateRole, Subject
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.tls.validity import renewal_due

# A device that asks on and on, each time for another key, would fill the index.
GAP_S = 3600.0


def answer(authority: Authority, device: str, asked: RenewalRequest) -> RenewalGrant | RenewalRefused:
    """Sign the request of ``device`` (the name in its topic, which the broker binds to its certificate).

    The request must be signed by the key of a certificate of that name that is valid now, so that a broker that
    lies about topics gains nothing. A request whose answer was lost gets the same certificate again.
    """
    request = asked.request.encode()
    try:
        subject = Subject(CertificateRole.DEVICE, device)
        wanted = key_digest(read_request(request, subject))
        held = [row for row in authority.certificates(device) if row.usable]
        keys = [authority.read_issued(row.serial).public_key() for row in held]
        if not any(
            isinstance(key, ec.EllipticCurvePublicKey) and proven(key, request, asked.proof) for key in keys
        ):
            return RenewalRefused(f"the request is not signed by the key of a valid certificate of {device}")
        newest = held[0]
        if newest.key_digest == wanted and newest.state is CertificateState.OFFERED:
            certificate = authority.read_issued(newest.serial).public_bytes(serialization.Encoding.PEM)
        elif authority.now() - newest.issued_at < GAP_S and not authority.behind(device):
            return RenewalRefused(f"{device} got a certificate less than an hour ago; ask again later")
        else:
            certificate = authority.renew(device, request=request, confirmed=False).certificate
    except (ConfigError, AuthorityError) as error:
        return RenewalRefused(str(error)[:2000])
    return RenewalGrant(certificate.decode(), authority.trust_path.read_text(encoding="ascii"))


def renew_own(authority: Authority, directory: Path) -> bool:
    """Renew the coordinator's own certificate in DIR/identity.pem where that is due; True where it was."""
    if not renewal_due(directory / IDENTITY, authority.now()) and not authority.behind(
        CertificateRole.COORDINATOR.value
    ):
        return False
    request = prepare(directory).request
    made = authority.renew(CertificateRole.COORDINATOR.value, request=request.encode(), confirmed=False)
    install(directory, RenewalGrant(made.certificate.decode(), made.trust.decode()))
    authority.confirm(CertificateRole.COORDINATOR.value, made.row.serial)
    return True

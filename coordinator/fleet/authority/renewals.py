"""The coordinator's answer to a device that renews its certificate, and the renewal of its own."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tinyfleet.coordinator.fleet.authority.authority import Authority
from tinyfleet.coordinator.fleet.authority.errors import AuthorityError
from tinyfleet.coordinator.fleet.authority.index import CertificateState
from tinyfleet.coordinator.fleet.authority.keys import key_digest
from tinyfleet.fedcore.certificates.renewal import install, prepare
from tinyfleet.fedcore.certificates.request import proven, read_request
from tinyfleet.fedcore.certificates.subject import CertificateRole, Subject
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.messages import RenewalGrant, RenewalRefused, RenewalRequest
from tinyfleet.fedcore.tls.context import TlsFiles
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
        young = authority.now() - held[0].issued_at < GAP_S
        if young and _waiting(authority, device, wanted) is None and not authority.behind(device):
            return RenewalRefused(f"{device} got a certificate less than an hour ago; ask again later")
        return _grant(authority, device, request, wanted)
    except (ConfigError, AuthorityError) as error:
        return RenewalRefused(str(error)[:2000])


def renew_own(authority: Authority, files: TlsFiles, broker: str = "") -> bool:
    """Renew the coordinator's own certificate where that is due; True where it was.

    ``broker`` is the URL at which the next is tried before it takes the place of the present one. Raises
    ``ConfigError`` and ``AuthorityError``, and the present certificate stays.
    """
    name = CertificateRole.COORDINATOR.value
    if not renewal_due(Path(files.certificate or ""), authority.now()) and not authority.behind(name):
        return False
    request = prepare(files).request.encode()
    wanted = key_digest(read_request(request, Subject(CertificateRole.COORDINATOR, name)))
    authority.confirm(name, install(files, _grant(authority, name, request, wanted), broker))
    return True


def _grant(authority: Authority, name: str, request: bytes, key: str) -> RenewalGrant:
    waiting = _waiting(authority, name, key)
    if waiting is None:
        certificate = authority.renew(name, request=request, confirmed=False).certificate
    else:
        certificate = authority.read_issued(waiting).public_bytes(serialization.Encoding.PEM)
    return RenewalGrant(certificate.decode(), authority.trust_path.read_text(encoding="ascii"))


def _waiting(authority: Authority, name: str, key: str) -> str | None:
    """Serial number of the certificate for that key whose arrival was never confirmed; None where there is none."""
    newest = authority.certificates(name)[0]
    current = authority.authorities()[0][0].generation
    offered = newest.state is CertificateState.OFFERED and newest.generation == current
    return newest.serial if offered and newest.key_digest == key else None

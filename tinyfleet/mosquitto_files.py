"""A directory from which Mosquitto 2 serves a fleet: mutual TLS, an access list a role, revocation."""

from __future__ import annotations

import grp
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tinyfleet.coordinator.fleet.authority import Authority, CertificateRow, CertificateState
from tinyfleet.coordinator.fleet.authority.signing import checked_hosts
from tinyfleet.fedcore.certificates.subject import CertificateRole, Subject
from tinyfleet.fedcore.errors import ConfigError, TransportError
from tinyfleet.fedcore.files import sync_directory, write_atomic
from tinyfleet.fedcore.protocol.topics import PREFIX
from tinyfleet.fedcore.tls.validity import Validity

CONFIGURATION, ACCESS, IDENTITY, TRUST, REVOKED = "tinyfleet.conf", "acl", "broker.pem", "trust.crt", "revoked.crl"
GROUP = "mosquitto"
# Ten times a chunk with its frame.
MAX_PACKET_BYTES = 1 << 20
RESTART_TIMEOUT_S = 60.0
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")


def write_broker(
    authority: Authority, directory: Path, hosts: Sequence[str], port: int = 8883, bind: str = ""
) -> CertificateRow:
    """Write all of it, with a certificate for ``hosts``; returns the certificate. Raises ``ConfigError``."""
    if not 1 <= port <= 65535:
        raise ConfigError(f"port {port}; give one from 1 to 65535")
    names = checked_hosts(hosts)
    directory = directory.absolute()
    for path in (directory, authority.directory.absolute()):
        if not _PLAIN.fullmatch(str(path)):
            raise ConfigError(
                f"{str(path)!r}: Mosquitto and systemd want a path of letters, digits and ._-/; give another"
            )
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}; run this as root, or give another directory") from None
    _may_write(directory)
    for name, text in units(authority.directory.absolute(), directory).items():
        (directory / "systemd").mkdir(exist_ok=True)
        write_atomic(directory / "systemd" / name, text.encode())
    _hand_over(directory, 0o750)
    _write(directory / ACCESS, access_list().encode())
    _write(directory / CONFIGURATION, configuration(directory, port, bind).encode())
    row, _ = refresh(authority, directory, names)
    return row


def refresh(
    authority: Authority, directory: Path, hosts: Sequence[str] = (), clock: Callable[[], float] = time.time
) -> tuple[CertificateRow, bool]:
    """Bring trust, revocations and the broker's certificate up to date; True where the broker must restart.

    The certificate is renewed in the last third of its life, when ``hosts`` are others, and when everybody trusts a
    new authority. Raises ``ConfigError`` for a directory that `tinyfleet broker config` did not write.
    """
    if not (directory / CONFIGURATION).exists():
        raise ConfigError(f"{directory} holds no {CONFIGURATION}; first: tinyfleet broker config --out {directory}")
    _may_write(directory)
    past = authority.certificates(CertificateRole.BROKER.value)
    row = next((one for one in past if one.state is CertificateState.ACTIVE), None)
    hosts = hosts or (past[0].hosts if past else ())
    changed = False
    if row is None or not _serves(authority, directory, row, hosts, clock()):
        subject = Subject(CertificateRole.BROKER, CertificateRole.BROKER.value)
        issued = (
            authority.issue(subject, hosts=hosts) if row is None else authority.renew(subject.name, hosts=hosts)
        )
        _write(directory / IDENTITY, (issued.key or b"") + issued.certificate)
        row, changed = issued.row, True
    for source, name in ((authority.trust_path, TRUST), (authority.revoked_path, REVOKED)):
        data = source.read_bytes()
        if not (directory / name).exists() or (directory / name).read_bytes() != data:
            _write(directory / name, data)
            changed = True
    return row, changed


def restart(command: str) -> None:
    """Run the operator's command that restarts the broker. Raises ``TransportError`` where it fails."""
    words = shlex.split(command)
    if not words or shutil.which(words[0]) is None:
        raise ConfigError(f"restart command {command!r}: no such program; such as: systemctl restart mosquitto")
    try:
        ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=RESTART_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise TransportError(f"{command!r} did not end in {RESTART_TIMEOUT_S:g} s; restart the broker") from None
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip()[-300:]
        raise TransportError(f"{command!r} failed with {ran.returncode}: {said}; restart the broker")


def access_list() -> str:
    """Who may use which topics; what is not named is refused, $SYS too."""
    return f"""\
# The coordinator may everything of the fleet. A device may its own topics: %u is the name in its certificate.
user {CertificateRole.COORDINATOR.value}
topic readwrite {PREFIX}/#
topic read $SYS/broker/#

pattern write {PREFIX}/%u/up
pattern write {PREFIX}/%u/up/chunk
pattern read {PREFIX}/%u/down
pattern read {PREFIX}/%u/down/chunk
"""


def configuration(directory: Path, port: int, bind: str = "") -> str:
    """Text of the configuration file; for conf.d, or alone."""
    return f"""\
# Written by `tinyfleet broker config`; change it there. The only listener speaks TLS and wants a certificate.
listener {port}{f" {bind}" if bind else ""}
cafile {directory / TRUST}
certfile {directory / IDENTITY}
keyfile {directory / IDENTITY}
crlfile {directory / REVOKED}
require_certificate true
tls_version tlsv1.2
allow_anonymous false
acl_file {directory / ACCESS}

# User name and client id are the name in the certificate: nobody takes another's session.
use_identity_as_username true
use_username_as_clientid true

# Without it each round trip waits up to 40 ms for a delayed acknowledgement.
set_tcp_nodelay true

# Chunks are below 100 KB, messages below 64 KiB; every transfer asks again for what it lacks.
max_packet_size {MAX_PACKET_BYTES}
message_size_limit {MAX_PACKET_BYTES}
max_inflight_messages 32
max_queued_messages 1000
max_keepalive 120
"""


def units(authority: Path, directory: Path) -> dict[str, str]:
    """Units of systemd, by name: the broker restarts as soon as a certificate is revoked, and daily if it must."""
    program = shutil.which("tinyfleet") or str(Path(sys.executable).with_name("tinyfleet"))
    return {
        "tinyfleet-broker.path": f"""\
[Unit]
Description=Watch the fleet's revocations and authorities

[Path]
PathChanged={authority / REVOKED}
PathChanged={authority / TRUST}

[Install]
WantedBy=multi-user.target
""",
        "tinyfleet-broker.timer": """\
[Unit]
Description=Renew the broker's certificate in time

[Timer]
OnCalendar=daily
RandomizedDelaySec=1h
Persistent=true

[Install]
WantedBy=timers.target
""",
        "tinyfleet-broker.service": f"""\
[Unit]
Description=Bring the broker's revocations and certificate up to date

[Service]
Type=oneshot
ExecStart={program} broker refresh --ca {authority} --out {directory} --restart "systemctl try-restart mosquitto"
""",
    }


def _serves(authority: Authority, directory: Path, row: CertificateRow, hosts: Sequence[str], now: float) -> bool:
    """Whether the certificate in the directory is that one, for those hosts, and stays so for a while."""
    path = directory / IDENTITY
    if not path.exists() or not path.read_bytes().endswith(_pem(authority, row)):
        return False
    if hosts and set(hosts) != set(row.hosts):
        return False
    if Validity(row.not_before, row.not_after).due(now, row.issued_at):
        return False
    newest = authority.authorities()[0][0].generation
    return row.generation == newest or any(
        other.generation != newest
        and other.state is CertificateState.ACTIVE
        and other.role is not CertificateRole.BROKER
        for other in authority.certificates()
    )


def _may_write(directory: Path) -> None:
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(f"{directory}: this user may not write there; run this as root")


def _pem(authority: Authority, row: CertificateRow) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return authority.read_issued(row.serial).public_bytes(serialization.Encoding.PEM)


def _write(path: Path, data: bytes) -> None:
    """For the broker's eyes: its group may read where there is one and we may give it, else its owner alone."""
    staged = path.with_name(f".{path.name}.staged.tmp")
    write_atomic(staged, data, mode=0o600)
    _hand_over(staged, 0o640)  # before the broker can see it: it may start at any time
    staged.replace(path)
    sync_directory(path.parent)


def _hand_over(path: Path, mode: int) -> None:
    if os.geteuid() != 0:
        return
    try:
        group = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return
    os.chown(path, 0, group)
    path.chmod(mode)

"""``tinyfleet ca``: the fleet's own certificate authority."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tinyfleet.cli.output import Json, emit_facts, emit_json, emit_table
from tinyfleet.cli.state import default_state
from tinyfleet.fedcore.errors import ConfigError

if TYPE_CHECKING:
    from tinyfleet.coordinator.fleet.authority import Authority, CertificateRow, Issued

app = typer.Typer(help="Certificates of the fleet: who may speak to whom.", no_args_is_help=True)

CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca", metavar="DIR", help="The authority's directory.", envvar="TINYFLEET_CA", show_default=False
    ),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A device's name, or coordinator, or broker.")]
RequestOption = Annotated[
    Path | None,
    typer.Option("--csr", metavar="FILE", help="The holder's request; without it the key is made here."),
]
HostOption = Annotated[
    list[str] | None, typer.Option("--host", metavar="NAME|IP", help="Of the broker; may be given several times.")
]
DaysOption = Annotated[int | None, typer.Option(min=1, max=7300, help="How long it is valid.", show_default="730")]
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")]
BrokerOption = Annotated[
    Path | None,
    typer.Option("--broker", metavar="DIR", help="What `tinyfleet broker config` wrote: bring it up to date."),
]
RestartOption = Annotated[
    str | None,
    typer.Option("--restart", metavar="COMMAND", help='Restarts the broker: "systemctl restart mosquitto".'),
]


def opened(directory: Path | None) -> Authority:
    """The authority of a directory, or of the default one."""
    from tinyfleet.coordinator.fleet.authority import Authority

    return Authority(directory or default_authority())


def default_authority() -> Path:
    """Beside the coordinator's state."""
    return default_state() / "authority"


@app.command()
def init(ca: CaOption = None, as_json: Json = False) -> None:
    """Make the authority: its key, its certificate, an empty revocation list."""
    from tinyfleet.coordinator.fleet.authority import Authority

    authority = Authority.make(ca or default_authority())
    if as_json:
        emit_json(_authorities(authority))
        return
    emit_facts(_facts(authority))


@app.command()
def request(name: NameArgument, out: OutOption = Path()) -> None:
    """On the holder's machine: make a private key, which stays here, and the request for its certificate."""
    from tinyfleet.fedcore.certificates.request import write_request
    from tinyfleet.fedcore.certificates.subject import subject_of

    subject = subject_of(name)
    _writable(out)
    key, csr = write_request(out, subject)
    emit_facts([("key", f"{key} (stays here)"), ("request", f"{csr} (for tinyfleet ca issue {name} --csr)")])


def _signing(verb: Literal["issue", "renew"], what: str) -> None:
    """Add one of the two commands that sign a certificate: they take the same options."""

    @app.command(verb, help=what)
    def sign(
        name: NameArgument,
        out: OutOption = Path(),
        csr: RequestOption = None,
        host: HostOption = None,
        days: DaysOption = None,
        ca: CaOption = None,
        as_json: Json = False,
    ) -> None:
        from tinyfleet.fedcore.certificates.subject import subject_of

        subject = subject_of(name)
        options: dict[str, Any] = {"request": _read(csr), "hosts": host or ()} | ({"days": days} if days else {})
        _writable(out)
        authority = opened(ca)
        made = authority.issue(subject, **options) if verb == "issue" else authority.renew(subject.name, **options)
        _hand_out(made, out, as_json)


_signing(
    "issue", "Give a name its certificate: NAME.crt, trust.crt, and NAME.key unless the holder has made its own."
)
_signing("renew", "Give a name its next certificate, with a new key; the present one stays valid until it expires.")


@app.command()
def revoke(
    name: NameArgument,
    serial: Annotated[str | None, typer.Option(help="Only the certificate of this serial number.")] = None,
    reason: Annotated[str, typer.Option(help="For the list.")] = "",
    broker: BrokerOption = None,
    restart: RestartOption = None,
    ca: CaOption = None,
    as_json: Json = False,
) -> None:
    """Shut a name out: its certificates are void, and the broker restarts and refuses them."""
    from tinyfleet.fedcore.certificates.subject import subject_of

    subject = subject_of(name)
    if len(reason) > 200 or not reason.isprintable():
        raise ConfigError("the reason is one line of at most 200 characters")
    authority = opened(ca)
    rows = authority.revoke(subject.name, reason, serial)
    if not as_json:
        for row in rows:
            typer.echo(f"{row.name}: certificate {row.serial} is revoked")
    done, told = _carried_out(authority, broker, restart)
    if as_json:
        emit_json({"revoked": [_document(row) for row in rows], "broker_restarted": done, "broker": told})
        return
    typer.echo(told)


@app.command()
def rotate(
    retire: Annotated[bool, typer.Option("--retire", help="End it: trust the new authority only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Shut out whoever still needs the old one.")] = False,
    broker: BrokerOption = None,
    restart: RestartOption = None,
    ca: CaOption = None,
    as_json: Json = False,
) -> None:
    """Begin to replace the authority's key; old and new are trusted until --retire."""
    if force and not retire:
        raise ConfigError("--force belongs to --retire")
    authority = opened(ca)
    generation = authority.retire(force=force) if retire else authority.rotate()
    done, told = _carried_out(authority, broker, restart)
    if as_json:
        emit_json({"authorities": _authorities(authority), "broker_restarted": done, "broker": told})
        return
    if retire:
        typer.echo(f"authority {generation} is retired: what it signed is void")
    else:
        typer.echo(
            f"authority {generation} signs from now on; boards that are connected renew by themselves. Once "
            f"`tinyfleet ca list` shows nothing active of authority {generation - 1}: tinyfleet ca rotate --retire"
        )
    emit_facts(_facts(authority))
    typer.echo(told)


@app.command("list")
def list_certificates(ca: CaOption = None, as_json: Json = False) -> None:
    """All certificates, with what they are good for now."""
    authority = opened(ca)
    rows = authority.certificates()
    if as_json:
        emit_json({"authorities": _authorities(authority), "certificates": [_document(row) for row in rows]})
        return
    emit_facts(_facts(authority))
    emit_table(
        ("name", "role", "state", "fingerprint", "not before", "not after", "left", "authority", "serial"),
        [
            (
                row.name,
                row.role,
                row.state,
                _comparable(row.fingerprint),
                _day(row.not_before),
                _day(row.not_after),
                _left(row, authority.now()),
                row.generation,
                row.serial,
            )
            for row in rows
        ],
        empty="no certificate has been issued yet",
    )


def _carried_out(authority: Authority, broker: Path | None, restart: str | None) -> tuple[bool, str]:
    from tinyfleet.broker_place import carry_out

    return carry_out(authority, broker, restart)


# -- what is shown ------------------------------------------------------------------------


def _hand_out(made: Issued, out: Path, as_json: bool) -> None:
    from tinyfleet.fedcore.files import write_atomic

    out.mkdir(parents=True, exist_ok=True)
    files = {"certificate": out / f"{made.row.name}.crt", "trust": out / "trust.crt"}
    if made.key is not None:
        files = {"key": out / f"{made.row.name}.key", **files}
        write_atomic(files["key"], made.key, mode=0o600)
    write_atomic(files["certificate"], made.certificate)
    write_atomic(files["trust"], made.trust)
    if as_json:
        emit_json({**_document(made.row), "files": {name: str(path) for name, path in files.items()}})
        return
    emit_facts(
        [
            ("name", f"{made.row.name} ({made.row.role.value})"),
            ("fingerprint", _comparable(made.row.fingerprint)),
            ("valid until", _day(made.row.not_after)),
            *files.items(),
        ]
    )


def _writable(out: Path) -> None:
    """Before anything is signed: a certificate that cannot be written down would count as issued."""
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out}: no directory can be written there by this user; give another")


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return file.read(1 << 16)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the request that `tinyfleet ca request` wrote") from None


def _facts(authority: Authority) -> list[tuple[str, object]]:
    return [
        (
            f"authority {row.generation}",
            f"{_comparable(fingerprint)}  {'trusted' if row.trusted else 'retired'}, made {_day(row.made_at)}",
        )
        for row, fingerprint in authority.authorities()
    ]


def _authorities(authority: Authority) -> list[dict[str, object]]:
    return [
        {
            "generation": row.generation,
            "trusted": row.trusted,
            "made_at": row.made_at,
            "fingerprint": fingerprint,
            "comparable": _comparable(fingerprint),
        }
        for row, fingerprint in authority.authorities()
    ]


def _document(row: CertificateRow) -> dict[str, object]:
    import dataclasses

    return {**dataclasses.asdict(row), "comparable": _comparable(row.fingerprint)}


def _left(row: CertificateRow, now: float) -> str:
    """Days until a certificate that is in use ends, and whether it should have been renewed by now."""
    if row.state != "active":
        return ""
    from tinyfleet.fedcore.tls.validity import Validity

    days = f"{max(0.0, row.not_after - now) / 86400:.0f} d"
    return f"{days}, renew" if Validity(row.not_before, row.not_after).due(now, row.issued_at) else days


def _comparable(fingerprint: str) -> str:
    from tinyfleet.fedcore.certificates.subject import comparable

    return comparable(fingerprint)


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))

"""``tinyfleet broker``: the configuration of the fleet's Mosquitto."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyfleet.cli.ca import CaOption, HostOption, RestartOption, opened
from tinyfleet.cli.output import Json, emit_facts, emit_json
from tinyfleet.fedcore.certificates.subject import comparable

app = typer.Typer(help="Write and refresh what Mosquitto serves the fleet from.", no_args_is_help=True)

DirectoryOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Such as /etc/mosquitto/tinyfleet.")]


@app.command()
def config(
    out: DirectoryOption,
    host: HostOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8883,
    bind: Annotated[str, typer.Option(metavar="IP", help="Listen on this address alone.")] = "",
    restart: RestartOption = None,
    ca: CaOption = None,
    as_json: Json = False,
) -> None:
    """Write Mosquitto's configuration, access list, certificate, and the units that carry out revocations."""
    from tinyfleet import broker_place, mosquitto_files

    authority = opened(ca)
    row = mosquitto_files.write_broker(authority, out, host or (), port, bind)
    broker_place.remember(authority, out, restart)
    if as_json:
        emit_json(
            {
                "configuration": str(out.absolute() / mosquitto_files.CONFIGURATION),
                "hosts": row.hosts,
                "serial": row.serial,
                "fingerprint": row.fingerprint,
                "comparable": comparable(row.fingerprint),
            }
        )
        return
    emit_facts(
        [
            ("configuration", out.absolute() / mosquitto_files.CONFIGURATION),
            ("hosts", ", ".join(row.hosts)),
            ("fingerprint", comparable(row.fingerprint)),
            ("units", f"{out.absolute() / 'systemd'} (for /etc/systemd/system; enable the .path and the .timer)"),
        ]
    )


@app.command()
def refresh(
    out: DirectoryOption,
    restart: RestartOption = None,
    ca: CaOption = None,
    as_json: Json = False,
) -> None:
    """Bring revocations, authorities and the broker's certificate up to date, and restart it where that changed."""
    from tinyfleet import mosquitto_files

    _, changed = mosquitto_files.refresh(opened(ca), out)
    if changed and restart is not None:
        mosquitto_files.restart(restart)
    if as_json:
        emit_json({"changed": changed, "restarted": changed and restart is not None})
    elif not changed:
        typer.echo("nothing has changed")
    else:
        typer.echo("the broker was restarted" if restart is not None else "changed; restart the broker")

"""``tinyfleet devices``: who is in the fleet, and who may be."""

from __future__ import annotations

from typing import Annotated

import typer

from fedcore.errors import ConfigError
from fedcore.protocol.messages import Enrolment
from tinyfleet.cli.output import Json, ago, emit_facts, emit_json, emit_table, megabytes
from tinyfleet.cli.state import StateOption, opened

app = typer.Typer(help="List, show, accept and reject devices.", no_args_is_help=True)

DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="The device, as `devices list` names it.")]


@app.command("list")
def list_devices(state: StateOption = None, as_json: Json = False) -> None:
    """All devices that ever said hello."""
    with opened(state) as store:
        rows = store.devices()
    if as_json:
        emit_json(rows)
        return
    emit_table(
        ("device", "enrolment", "presence", "seen", "board", "samples", "memory limit"),
        [
            (
                r.device,
                r.enrolment,
                "online" if r.online else "offline",
                f"{ago(r.last_seen)} ago",
                r.profile.get("name", ""),
                r.samples,
                megabytes(r.memory_limit_bytes) if r.memory_limit_bytes else "from the board",
            )
            for r in rows
        ],
        empty="no device has said hello yet",
    )


@app.command()
def show(device: DeviceArgument, state: StateOption = None, as_json: Json = False) -> None:
    """One device: its board, its health, its memory."""
    with opened(state) as store:
        found = [row for row in store.devices() if row.device == device]
    if not found:
        raise ConfigError(
            f"no device {device!r} has ever said hello; `tinyfleet devices list` names those that have"
        )
    row = found[0]
    if as_json:
        emit_json(row)
        return
    facts: list[tuple[str, object]] = [
        ("device", row.device),
        ("enrolment", row.enrolment),
        ("presence", f"{'online' if row.online else 'offline'}, seen {ago(row.last_seen)} ago"),
        ("samples", row.samples),
        ("engines", ", ".join(row.engines)),
        ("idle RSS", megabytes(row.idle_rss_bytes)),
        ("peak RSS", megabytes(row.peak_rss_bytes)),
    ]
    facts += [(f"profile.{name}", value) for name, value in sorted(row.profile.items())]
    facts += [(f"health.{name}", value) for name, value in sorted(row.health.items())]
    emit_facts(facts)


@app.command()
def accept(device: DeviceArgument, state: StateOption = None) -> None:
    """Let a device take part in runs."""
    _decide(device, Enrolment.ACCEPTED, state)


@app.command()
def reject(device: DeviceArgument, state: StateOption = None) -> None:
    """Keep a device out; a task that it works at is cancelled."""
    _decide(device, Enrolment.REJECTED, state)


def _decide(device: str, enrolment: Enrolment, state: StateOption) -> None:
    with opened(state) as store:
        store.set_enrolment(device, enrolment)
    typer.echo(f"{device}: {enrolment}")

"""``tinyfleet devices``: who is in the fleet, and who may be."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyfleet.cli.output import Json, ago, emit_facts, emit_json, emit_table, megabytes
from tinyfleet.cli.state import StateOption, opened
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.messages import Enrolment

if TYPE_CHECKING:
    from tinyfleet.coordinator.store.rows import DeviceRow, ShareRow

app = typer.Typer(help="List, show, accept, reject, rekey and forget devices.", no_args_is_help=True)

DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="The device, as `devices list` names it.")]


@app.command("list")
def list_devices(state: StateOption = None, as_json: Json = False) -> None:
    """All devices that ever said hello."""
    with opened(state) as store:
        rows, shares, levers = store.devices.all(), store.shares.latest(), store.tasks.levers()
    if as_json:
        emit_json([_document(row, shares.get(row.device), levers.get(row.device, "")) for row in rows])
        return
    emit_table(
        (
            "device",
            "fingerprint",
            "enrolment",
            "presence",
            "seen",
            "board",
            "samples",
            "memory limit",
            "share",
            "predicted",
            "in less memory",
            "temperature",
            "free memory",
            "warnings",
        ),
        [
            (
                r.device,
                r.fingerprint,
                r.enrolment,
                "online" if r.online else "offline",
                f"{ago(r.last_seen)} ago",
                r.profile.get("name", ""),
                r.samples,
                megabytes(r.memory_limit_bytes) if r.memory_limit_bytes else "from the board",
                *_share_cells(shares.get(r.device)),
                levers.get(r.device, ""),
                _celsius(r),
                megabytes(r.health.get("free_memory_bytes")),
                "; ".join(_warnings(r)),
            )
            for r in rows
        ],
        empty="no device has said hello yet",
    )


@app.command()
def show(device: DeviceArgument, state: StateOption = None, as_json: Json = False) -> None:
    """One device: its board, its health, its memory, and what the latest step had in mind for it."""
    with opened(state) as store:
        found = [row for row in store.devices.all() if row.device == device]
        damaged = not found and device in store.devices.names()
        share, levers = store.shares.latest().get(device), store.tasks.levers().get(device, "")
    if damaged:
        raise ConfigError(
            f"what is kept of device {device!r} cannot be read; it is written anew when the device greets, or "
            f"after: tinyfleet devices forget {device}"
        )
    if not found:
        raise ConfigError(
            f"no device {device!r} has ever said hello; `tinyfleet devices list` names those that have"
        )
    row = found[0]
    if as_json:
        emit_json(_document(row, share, levers))
        return
    facts: list[tuple[str, object]] = [
        ("device", row.device),
        ("fingerprint", row.fingerprint),
        ("enrolment", row.enrolment),
        ("presence", f"{'online' if row.online else 'offline'}, seen {ago(row.last_seen)} ago"),
        ("samples", row.samples),
        ("engines", ", ".join(row.engines)),
        ("idle RSS", megabytes(row.idle_rss_bytes)),
        ("peak RSS", megabytes(row.peak_rss_bytes)),
    ]
    facts += _share_facts(share)
    facts += [("in less memory", levers)] if levers else []
    facts += [("warning", text) for text in _warnings(row)]
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


@app.command()
def rekey(device: DeviceArgument, state: StateOption = None) -> None:
    """Take the next key that is shown under a device's name, once: its card was lost, or made anew."""
    with opened(state) as store:
        store.devices.rekey(device)
    typer.echo(f"{device}: the next key that greets by this name is taken; compare its fingerprint afterwards")


@app.command()
def forget(device: DeviceArgument, state: StateOption = None) -> None:
    """Forget a device's key and enrolment; by the same name it is a newcomer. Its tasks stay in their runs."""
    with opened(state) as store:
        store.devices.forget_known(device)
    typer.echo(f"{device}: forgotten")


def _document(row: DeviceRow, share: ShareRow | None, levers: str) -> dict[str, Any]:
    """All that is known of a device, as plain data."""
    rest = None if share is None else {k: v for k, v in dataclasses.asdict(share).items() if k != "device"}
    return {**dataclasses.asdict(row), "share": rest, "levers": levers, "warnings": _warnings(row)}


def _warnings(row: DeviceRow) -> list[str]:
    from tinyfleet.coordinator.selection.health import warnings

    found = warnings(row.health)
    if row.quarantine:
        found = [f"quarantined: {row.quarantine}", *found]
    if row.rekey:
        found = ["the next key that greets by this name is taken", *found]
    return [row.trouble, *found] if row.trouble else found


def _celsius(row: DeviceRow) -> str:
    celsius = row.health.get("temperature_c")
    return "" if celsius is None else f"{celsius:.0f} °C"


def _share_cells(share: ShareRow | None) -> tuple[str, str]:
    """The part of the job and its predicted time; a device that is left out, with the reason."""
    if share is None:
        return "", ""
    text = share.part
    if share.local_steps:
        text += f", {share.local_steps} of {share.whole_local_steps} local steps"
    if share.activation_keep < 1.0:
        text += f", caches {share.activation_keep:.0%}"
    if share.part == "left out":
        return f"{text}: {share.reason}", ""
    return text, "" if share.predicted_s is None else f"{share.predicted_s:.3g} s"


def _share_facts(share: ShareRow | None) -> list[tuple[str, object]]:
    if share is None:
        return []
    part, predicted = _share_cells(share)
    facts: list[tuple[str, object]] = [
        ("share", part if share.part == "left out" or not share.reason else f"{part}: {share.reason}"),
        ("share for", f"step {share.step} of {share.run}, {'chosen' if share.chosen else 'not chosen'}"),
    ]
    if predicted:
        facts.append(("predicted", f"{predicted}, by {share.basis}"))
    return facts


def _decide(device: str, enrolment: Enrolment, state: StateOption) -> None:
    with opened(state) as store:
        store.devices.set_enrolment(device, enrolment)
    typer.echo(f"{device}: {enrolment}")

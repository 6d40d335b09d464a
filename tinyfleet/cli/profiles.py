"""``tinyfleet profile``: what this board is, what it can do, and the boards that are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from tinyfleet.cli.output import Json, emit_facts, emit_json, emit_table, megabytes

app = typer.Typer(help="Detect, measure, list and show board profiles.", no_args_is_help=True)


@app.command()
def detect(
    root: Annotated[Path | None, typer.Option(help="Where /sys and /proc are.")] = None,
    as_json: Json = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print TOML, as the shipped profiles are.")] = False,
) -> None:
    """What board this is."""
    from device_profiles.detect import detect as detect_board

    profile = detect_board(root)
    if as_json:
        emit_json(profile)
    elif as_toml:
        typer.echo(profile.to_toml())
    else:
        emit_facts(dataclasses.asdict(profile).items())


@app.command()
def measure(as_json: Json = False) -> None:
    """Measure this board: memory, cores, a small convolution."""
    from device_profiles.measure import measure as measure_board

    measurement = measure_board()
    if as_json:
        emit_json(measurement)
    else:
        emit_facts(dataclasses.asdict(measurement).items())


@app.command()
def sensors(
    root: Annotated[Path | None, typer.Option(help="Where /sys and /proc are.")] = None,
    disk: Annotated[Path | None, typer.Option(help="A directory on the disk that counts; else the root.")] = None,
    disable: Annotated[list[str] | None, typer.Option(help="A sensor to leave out; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """How this board is doing now: heat, throttling, clocks, power, memory, disk."""
    from device_profiles.sensors.read import read_all
    from device_profiles.sensors.sensor import Options, shown

    readings = read_all(root, disable or (), Options(disk=disk))
    if as_json:
        emit_json(readings)
        return
    emit_table(
        ("sensor", "state", "value", "note"),
        [(reading.name, reading.state.value, shown(reading), reading.note) for reading in readings],
        empty="no sensor was found",
    )


@app.command("list")
def list_profiles(as_json: Json = False) -> None:
    """The shipped boards."""
    from device_profiles.profile import shipped

    profiles = shipped()
    if as_json:
        emit_json(profiles)
        return
    emit_table(
        ("profile", "board", "processor", "memory", "figures"),
        [
            (name, p.title, p.cpu, megabytes(p.memory_bytes), "measured" if p.verified else "data sheet")
            for name, p in sorted(profiles.items())
        ],
        empty="no profile is shipped",
    )


@app.command()
def show(name: Annotated[str, typer.Argument(help="As `profile list` names it.")], as_json: Json = False) -> None:
    """One shipped board."""
    from device_profiles.emulated import board

    profile = board(name)
    if as_json:
        emit_json(profile)
    else:
        typer.echo(profile.to_toml())

"""``tinyfleet profile``: what this board is, what it can do, and the boards that are known."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from tinyfleet.cli.output import Json, emit_facts, emit_json, emit_table, megabytes
from tinyfleet.fedcore.errors import ConfigError

app = typer.Typer(help="Detect, measure, compare, list and show board profiles.", no_args_is_help=True)


@app.command()
def detect(
    root: Annotated[Path | None, typer.Option(help="Where /sys and /proc are.")] = None,
    as_json: Json = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print TOML, as the shipped profiles are.")] = False,
) -> None:
    """What board this is."""
    from tinyfleet.device_profiles.detect import detect as detect_board

    profile = detect_board(root)
    if as_json:
        emit_json(profile)
    elif as_toml:
        typer.echo(profile.to_toml())
    else:
        emit_facts(dataclasses.asdict(profile).items())


@app.command()
def measure(
    engine: Annotated[str, typer.Option(help="What computes: numpy or torch.")] = "numpy",
    thermal_seconds: Annotated[int, typer.Option(min=0, help="Seconds with all cores under load; 0: none.")] = 60,
    out: Annotated[Path, typer.Option(help="The profile to write; the disk is measured beside it.")] = Path(
        "profile.toml"
    ),
    as_json: Json = False,
) -> None:
    """Measure this board in two minutes: memory, cores, speed by density and dtype, disk, heat."""
    from tinyfleet.device_profiles.detect import detect as detect_board
    from tinyfleet.device_profiles.measuring.compare import disagreements
    from tinyfleet.device_profiles.measuring.measure import measure as measure_board
    from tinyfleet.device_profiles.measuring.progress import progress_on

    folder = out.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; make it, or give another file with --out")
    board = detect_board()
    measurement = measure_board(folder, progress_on(sys.stderr), engine, thermal_seconds)
    profile = dataclasses.replace(board, measured=measurement)
    profile.save(out)
    warnings = disagreements(profile)
    if as_json:
        facts = dataclasses.asdict(measurement)
        emit_json({"board": profile.name, **facts, "warnings": warnings, "profile": str(out.absolute())})
        return
    facts = {"board": profile.title, **dataclasses.asdict(measurement)}
    rates, heat = facts.pop("rates"), facts.pop("thermal")
    emit_facts({**facts, **{f"thermal {name}": value for name, value in (heat or {}).items()}}.items())
    emit_table(
        ("kernel", "dtype", "density", "active GFLOP/s"),
        [(rate["kernel"], rate["dtype"], rate["density"], rate["gflops"]) for rate in rates],
        empty="no rate was measured",
    )
    for warning in warnings:
        sys.stderr.write(f"warning: {warning}\n")
    sys.stderr.write(f"wrote {out}\n")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A profile that `profile measure` wrote.")],
    second: Annotated[Path, typer.Argument(help="Another, of the same board or of one like it.")],
    as_json: Json = False,
) -> None:
    """How far two measurements are apart, the largest difference first."""
    from tinyfleet.device_profiles.measuring.compare import differences
    from tinyfleet.device_profiles.profile import ProfileError, read

    measurements = []
    for path in (first, second):
        measured = read(path).measured
        if measured is None:
            raise ProfileError(f"{path} has no measurement; give one that `profile measure` wrote")
        measurements.append(measured)
    found = differences(*measurements)
    if as_json:
        emit_json(found)
        return
    emit_table(
        ("figure", "first", "second", "difference"),
        [(d.figure, f"{d.first:.4g}", f"{d.second:.4g}", f"{d.share:.1%}") for d in found],
        empty="nothing can be compared",
    )


@app.command()
def measure_training(
    engine: Annotated[str, typer.Option(help="native, torch, or auto: the one that trains here.")] = "auto",
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("cost_model.toml"),
    as_json: Json = False,
) -> None:
    """Measure what training takes on this board, for `tinyfleet plan --cost-model`; a minute or two."""
    from tinyfleet.device_profiles.detect import detect as detect_board
    from tinyfleet.device_profiles.measuring.progress import progress_on
    from tinyfleet.fedcore.planning.cost_model_file import measure_here
    from tinyfleet.fedcore.training.registry import preferred

    found = measure_here(preferred(engine), detect_board().title, out, progress_on(sys.stderr))
    if as_json:
        emit_json(found)
    else:
        typer.echo(out.read_text(encoding="utf-8"), nl=False)


@app.command()
def sensors(
    root: Annotated[Path | None, typer.Option(help="Where /sys and /proc are.")] = None,
    disk: Annotated[Path | None, typer.Option(help="A directory on the disk that counts; else the root.")] = None,
    disable: Annotated[list[str] | None, typer.Option(help="A sensor to leave out; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """How this board is doing now: heat, throttling, clocks, power, memory, disk."""
    from tinyfleet.device_profiles.sensors.read import read_all
    from tinyfleet.device_profiles.sensors.sensor import Options, shown

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
    """The boards that are known: shipped ones, and those of other distributions."""
    from tinyfleet.device_profiles.known_boards import known

    profiles = known()
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
    """One board."""
    from tinyfleet.device_profiles.known_boards import board

    profile = board(name)
    if as_json:
        emit_json(profile)
    else:
        typer.echo(profile.to_toml())

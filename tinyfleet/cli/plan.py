"""``tinyfleet plan``: whether a run fits a board, and how the board would run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyfleet.cli.output import Json, emit_json, emit_table, megabytes
from tinyfleet.cli.runs import private_outlook, read_spec
from tinyfleet.fedcore.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tinyfleet.fedcore.run_spec import RunSpec
    from tinyfleet.planning import BoardFit

HERE = "here"


def plan(
    file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="What to run.")],
    board: Annotated[
        list[str] | None,
        typer.Option(help="As `profile list` names it, or `here`; may be repeated. Default: all of them."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help='Of the worker, such as "300M", in place of the board\'s.')
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Of a device, in place of the first device's of the run's partition.")
    ] = None,
    cost_model: Annotated[
        Path | None, typer.Option(help="Measured by `edge-agent measure-training`; else the one that ships.")
    ] = None,
    engine: Annotated[str, typer.Option(help="native, torch, or auto: the one that trains here.")] = "auto",
    as_json: Json = False,
) -> None:
    """Whether RUN.toml fits a board: with which levers, memory and time, and what would help.

    Exit code 1 where it fits none of the boards.
    """
    from tinyfleet.device_profiles.detect import detect
    from tinyfleet.device_profiles.known_boards import board as board_called
    from tinyfleet.device_profiles.known_boards import known
    from tinyfleet.device_profiles.limits import parse_size, usable_memory_bytes
    from tinyfleet.edge_agent.worker.budget import DEFAULT_SHARE
    from tinyfleet.fedcore.planning.cost_model_file import read, shipped
    from tinyfleet.fedcore.training.registry import preferred
    from tinyfleet.planning import plan_board

    spec = read_spec(file)
    own = None if cost_model is None else read(cost_model)
    rated = own or shipped(preferred(engine))
    if rated is None:
        raise ConfigError(f"engine {engine!r} has no cost model; measure one with `edge-agent measure-training`")
    try:
        given = 0 if memory is None else parse_size(memory)
    except ValueError as error:
        raise ConfigError(f"--memory: {error}") from None
    count = samples if samples is not None else _samples(spec)
    names = board or [HERE, *sorted(name for name in known() if name != "generic")]
    rows = []
    for name in names:
        here = name == HERE
        profile = detect() if here else board_called(name)
        limit = given or (int(DEFAULT_SHARE * usable_memory_bytes()) if here else 0)
        rows.append(plan_board(spec, profile, rated, count, memory_bytes=limit, own=here and own is not None))
    outlook = private_outlook(spec)
    if as_json:
        emit_json({"run": str(file), "cost_model": rated.machine, "boards": rows, "privacy": outlook})
    else:
        _show(rows)
        if outlook is not None:
            typer.echo(f"privacy: {outlook}")
    if not any(row.fits for row in rows):
        raise typer.Exit(1)


def _samples(spec: RunSpec) -> int:
    from tinyfleet.fedcore.datasets.partition import device_data

    try:
        data = device_data(spec.data, 0, "device-0")
    except DataError as error:
        raise DataError(f"{error} (or say with --samples how many a device has)") from None
    return len(data.train) + len(data.development)


def _show(rows: list[BoardFit]) -> None:
    emit_table(
        ("board", "fits", "micro-batch", "kept activations", "predicted", "of", "a round", "memory", "speed"),
        [
            (
                row.board,
                "yes" if row.fits else "NO",
                row.levers.micro_batch or "whole batch",
                _kept(row),
                megabytes(row.peak_bytes),
                megabytes(row.limit_bytes),
                "" if row.round_seconds is None else _duration(row.round_seconds),
                row.memory_basis,
                row.speed_basis or "not known",
            )
            for row in rows
        ],
        empty="no board was named",
    )
    for row in rows:
        if row.remedies:
            typer.echo(f"{row.board} would fit with {', or with '.join(row.remedies)}")
    if any(row.speed_basis == "data sheet" for row in rows):
        typer.echo(
            "times from a data sheet are rough: the board's own are measured by `edge-agent measure-training`"
        )


def _kept(row: BoardFit) -> str:
    from tinyfleet.fedcore.training.levers import COMPUTED_AGAIN

    levers = row.levers
    kept = f"{levers.activation_keep:.0%} in {levers.cache}" if levers.lossy else "all"
    return f"{kept}, {COMPUTED_AGAIN[levers.recompute]}" if levers.recompute else kept


def _duration(seconds: float) -> str:
    for limit, unit, name in ((120.0, 1.0, "s"), (7200.0, 60.0, "min")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h"

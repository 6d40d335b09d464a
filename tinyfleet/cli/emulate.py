"""``tinyfleet emulate``: a command under a board's limits, on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyfleet.cli.output import Json, emit_json, emit_table, megabytes
from tinyfleet.fedcore.errors import ConfigError

if TYPE_CHECKING:
    from tinyfleet.emulation.board import Emulated


def emulate(
    board: Annotated[str | None, typer.Argument(help="As `--list` names it.")] = None,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND", help="What to run, with its arguments.")
    ] = None,
    fake_sensors: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Read sensors and device tree below DIR, which holds a faked sys/."),
    ] = None,
    cgroup: Annotated[
        bool, typer.Option("--cgroup/--no-cgroup", help="Use control groups where they may be made.")
    ] = True,
    list_boards: Annotated[bool, typer.Option("--list", help="Show all boards with their limits here.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing before the command runs.")] = False,
    as_json: Json = False,
) -> None:
    """Run a command under a board's memory and CPU limits, and say what could not be emulated.

    Without a command: show the limits. Exit code: the command's, or 128 + n where signal n ended it; 126 and 127
    where it could not be started. Timings from here say nothing about a real board.
    """
    from tinyfleet.emulation.run import emulated_here, run

    if list_boards:
        if board is not None:
            raise ConfigError("--list shows all boards; leave the board out, or --list")
        _list(as_json)
        return
    if board is None:
        raise ConfigError("no board is given; choose one that `tinyfleet emulate --list` shows")
    if not command:
        told = emulated_here(board, sensors=fake_sensors is not None, cgroups=cgroup)
        if as_json:
            emit_json(_document(told))
        else:
            _say(told, to_stderr=False)
        return
    if as_json:
        raise ConfigError("--json shows the plan and runs nothing; leave the command out, or --json")
    tell = (lambda emulated: None) if quiet else _say
    raise typer.Exit(run(board, command, sensors_root=fake_sensors, cgroups=cgroup, tell=tell))


def _list(as_json: bool) -> None:
    from tinyfleet.device_profiles.known_boards import known
    from tinyfleet.emulation.board import plan_here

    plans = {name: plan_here(name) for name in known() if name != "generic"}
    if as_json:
        emit_json(plans)
        return
    emit_table(
        ("board", "memory", "by", "cores", "CPU time", "by"),
        [
            (
                name,
                megabytes(p.memory_bytes),
                p.memory_basis,
                p.cores,
                f"{p.cpu_quota:.2f} cores" if p.cpu_quota else "no limit",
                p.speed_basis,
            )
            for name, p in plans.items()
        ],
        empty="no board is shipped",
    )


def _document(told: Emulated) -> dict[str, Any]:
    return {
        **dataclasses.asdict(told.limits),
        "memory_means": told.memory_means,
        "cpu_means": told.cpu_means,
        "emulated": told.emulated,
        "not_emulated": told.not_emulated,
    }


def _say(told: Emulated, *, to_stderr: bool = True) -> None:
    """To stderr, where a command's own output is to follow."""
    for line in told.emulated:
        typer.echo(f"emulated      {line}", err=to_stderr)
    for line in told.not_emulated:
        typer.echo(f"not emulated  {line}", err=to_stderr)

"""``tinyfleet doctor``: what is here, what is missing, what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from tinyfleet.cli.output import Json, emit_json
from tinyfleet.cli.state import StateOption, default_state

_COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}


def doctor(
    checks: Annotated[list[str] | None, typer.Argument(metavar="[CHECK]...", help="Only these.")] = None,
    broker: Annotated[str | None, typer.Option(metavar="URL", help="Also try to reach this broker.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also try the broker of this agent.toml or coordinator.toml."),
    ] = None,
    state: StateOption = None,
    as_json: Json = False,
) -> None:
    """Look whether everything that tinyfleet needs is here. Exit code 1 where something essential is missing.

    Where it is the broker alone, the code says why (docs/troubleshooting.md).
    """
    from tinyfleet.doctor.answer import Surroundings
    from tinyfleet.doctor.report import examine

    findings = examine(Surroundings(state=state or default_state(), broker=broker, config=config), checks or None)
    missing = [f for f in findings if f.essential and f.status == "missing"]
    broken = bool(missing)
    if as_json:
        emit_json({"healthy": not broken, "checks": [dataclasses.asdict(f) for f in findings]})
    else:
        for f in findings:
            typer.secho(f"{f.status:<8}", fg=_COLOURS[f.status], nl=False)
            typer.echo(f" {f.name:<16} {_below(f.found)}")
            if f.remedy:
                typer.echo(f"{'':<25} -> {_below(f.remedy, '   ')}")
        typer.echo("something essential is missing" if broken else "ready")
    raise typer.Exit(max((f.code for f in missing), default=0) if len(missing) < 2 else 1)


def _below(text: str, further: str = "") -> str:
    """Further lines stand under the first."""
    return text.replace("\n", f"\n{'':<26}{further}")

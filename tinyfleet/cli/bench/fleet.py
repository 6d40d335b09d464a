"""``tinyfleet bench fleet``: a thousand virtual devices on a real broker and a real coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from tinyfleet.cli.output import emit_table, save_rows

Row = TypeVar("Row")


def fleet(
    devices: Annotated[list[int] | None, typer.Option(min=1, help="100, 300, 1000; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of each fleet.")] = 3,
    hostile: Annotated[float, typer.Option(min=0.0, max=0.5, help="Share of hostile devices.")] = 0.0,
    floods: Annotated[
        bool, typer.Option("--floods", help="Instead: 100,000 hostile messages of each kind while rounds run.")
    ] = False,
    engine: Annotated[str, typer.Option(help="Of the coordinator: native, torch or auto.")] = "auto",
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the rows to this file; what is in it is not run again."),
    ] = None,
) -> None:
    """Results a second, waits and memory of a fleet's rounds over Mosquitto; or what floods do to them."""
    from tinyfleet.fedcore.errors import ConfigError
    from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker

    if not MosquittoBroker.available():
        raise ConfigError("the bench needs Mosquitto: apt install mosquitto")
    (_floods if floods else _load)(devices or [100, 300, 1000], rounds, hostile, engine, json_file)


def _load(sizes: list[int], rounds: int, hostile: float, engine: str, json_file: Path | None) -> None:
    from tinyfleet.bench.fleet.load import LoadRow, bench_load

    rows = _known(json_file, LoadRow)

    def done(count: int, share: float) -> bool:
        return sum((row.devices, row.hostile) == (count, round(count * share)) for row in rows) >= rounds

    for row in bench_load(sizes, rounds, engine, hostile, done):
        rows.append(row)
        save_rows(json_file, rows)
        typer.echo(f"{row.devices} devices, round {row.round}: {row.results_per_s:g} results/s", err=True)
    emit_table(
        ("devices", "hostile", "round", "results/s", "wait p50", "p99", "coordinator", "peak", "broker", "peak"),
        [
            (
                row.devices,
                row.hostile,
                row.round,
                f"{row.results_per_s:.1f}",
                f"{row.wait_p50_s:.2f} s",
                f"{row.wait_p99_s:.2f} s",
                *(
                    f"{value:.0f} MB"
                    for value in (row.coordinator_mb, row.coordinator_peak_mb, row.broker_mb, row.broker_peak_mb)
                ),
            )
            for row in rows
        ],
        empty="nothing was run",
    )


def _floods(sizes: list[int], rounds: int, hostile: float, engine: str, json_file: Path | None) -> None:
    from tinyfleet.bench.fleet.floods import FloodRow, bench_floods

    rows = _known(json_file, FloodRow)
    for row in bench_floods(engine, done=lambda kind: any(row.kind == kind.value for row in rows)):
        rows.append(row)
        save_rows(json_file, rows)
        typer.echo(f"{row.kind}: {row.slower:.2f} times", err=True)
    emit_table(
        ("flood", "messages", "s", "calm round", "flooded", "times", "coordinator grew", "broker grew"),
        [
            (
                row.kind,
                f"{row.messages:,}",
                f"{row.seconds:.1f}",
                f"{row.calm_round_s:.2f} s",
                f"{row.flooded_round_s:.2f} s",
                f"{row.slower:.2f}",
                f"{row.coordinator_grew_mb:.0f} MB",
                f"{row.broker_grew_mb:.0f} MB",
            )
            for row in rows
        ],
        empty="nothing was run",
    )


def _known(path: Path | None, kind: type[Row]) -> list[Row]:
    import msgspec

    if path is None or not path.exists():
        return []
    return msgspec.json.decode(path.read_bytes(), type=list[kind])  # type: ignore[valid-type]

"""``tinyfleet bench secure-aggregation``: what it costs that the coordinator sees sums alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tinyfleet.cli.output import emit_table, save_rows


def secure_aggregation(
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write each row to this file; its rows are not run again."),
    ] = None,
    devices: Annotated[list[int] | None, typer.Option(min=3, help="20 and 100; may be repeated.")] = None,
    lost: Annotated[
        list[float] | None, typer.Option(min=0.0, max=0.4, help="Share that is lost: 0, 0.1 and 0.3.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Ratios are medians of so many runs.")] = 5,
) -> None:
    """Bytes and seconds of a step of ResNet18 at density 0.01, plain and secure, with devices lost on the way."""
    from tinyfleet.bench.secure_aggregation import DEVICES, LOST, SecureAggregationRow, bench_secure_aggregation

    known: list[SecureAggregationRow] = []
    if json_file is not None and json_file.exists():
        known = msgspec.json.decode(json_file.read_bytes(), type=list[SecureAggregationRow])

    def progress(row: SecureAggregationRow) -> None:
        rows.append(row)
        rows.sort(key=lambda one: (one.devices, one.lost))
        save_rows(json_file, rows)
        text = f"{row.devices} devices, {row.lost} lost: {row.bytes_ratio:.2f} x bytes, {row.seconds_ratio:.2f} x s"
        typer.echo(text, err=True)

    rows = list(known)
    done = {(row.devices, row.lost) for row in known}
    for count in devices or DEVICES:
        shares = [share for share in lost or LOST if (count, round(share * count)) not in done]
        for _ in bench_secure_aggregation((count,), shares, repeats, progress):
            pass
    emit_table(
        ("devices", "lost", "neighbours", "bytes up", "x plain", "device s", "coordinator s", "x plain", "equal"),
        [
            (
                row.devices,
                row.lost,
                row.neighbours,
                f"{row.secure_up:,}",
                f"{row.bytes_ratio:.2f}",
                f"{statistics.median(row.secure_device_s):.3f}",
                f"{statistics.median(row.secure_coordinator_s):.2f}",
                f"{row.seconds_ratio:.2f}",
                "bit for bit" if row.equal else "NO",
            )
            for row in rows
        ],
        empty="nothing was run",
    )

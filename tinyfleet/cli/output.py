"""What every command shares: how results reach a person or a program."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tinyfleet.fedcore.foreign.shown import printable, printable_json

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def emit_json(document: Any) -> None:
    """Print ``document`` (plain data, dataclasses or structs) as indented JSON."""
    encoded = msgspec.json.encode(document, enc_hook=_plain)
    sys.stdout.write(printable_json(msgspec.json.format(encoded, indent=2).decode()) + "\n")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def save_rows(path: Path | None, rows: Sequence[Any]) -> None:
    """Write dataclasses as a JSON list; nothing without a path."""
    save_json(path, [dataclasses.asdict(row) for row in rows])


def save_json(path: Path | None, document: Any) -> None:
    """Write plain data as indented JSON; nothing without a path."""
    if path is not None:
        from tinyfleet.fedcore.files import write_atomic

        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table, or ``empty`` where there are no rows.

    A cell is text: markup and control characters in it are shown, not followed.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=400)  # a pipe has no width: cut nothing off
    console.print(table if table.row_count else empty)


def emit_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values, a pair a line."""
    pairs = [(name, value) for name, value in facts]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        sys.stdout.write(f"{printable(name):<{width}}  {printable(str(value))}\n")


def ago(moment: float, now: float | None = None) -> str:
    """How long ago ``moment`` (seconds since 1970) was: "12 s", "3 min", "5 h", "2 d"."""
    seconds = max(0.0, (time.time() if now is None else now) - moment)
    for limit, unit, name in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} d"


def megabytes(count: float | None) -> str:
    """Bytes as "12.3 MB" (10^6)."""
    return "" if count is None else f"{count / 1e6:.1f} MB"

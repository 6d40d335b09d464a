"""``tinyfleet bench``: numbers about tinyfleet itself."""

from __future__ import annotations

import typer

app = typer.Typer(help="Measure tinyfleet itself.", no_args_is_help=True)

"""The root of the command line: its groups, and the options of all of it."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from tinyfleet.cli import (
    broker,
    ca,
    data,
    demo,
    devices,
    doctor,
    emulate,
    export,
    models,
    plan,
    processes,
    profiles,
    runs,
    simulate,
)
from tinyfleet.cli.bench import app as bench
from tinyfleet.fedcore.foreign.shown import log_to_stderr

app = typer.Typer(
    name="tinyfleet",
    help="A fleet of small boards trains tiny models together, within each board's budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, and log everything.")] = False,
) -> None:
    """Options of every command."""
    log_to_stderr(logging.DEBUG if debug else logging.WARNING, "%(levelname)s %(name)s: %(message)s")


app.command("demo")(demo.demo)
app.command("plan")(plan.plan)
app.command("simulate")(simulate.simulate)
app.command("export")(export.export)
app.command("doctor")(doctor.doctor)
app.command("emulate")(emulate.emulate)
app.command("coordinator", **processes.PASS_ON)(processes.coordinator)
app.command("agent", **processes.PASS_ON)(processes.agent)
app.add_typer(runs.app, name="run")
app.add_typer(devices.app, name="devices")
app.add_typer(data.app, name="data")
app.add_typer(ca.app, name="ca")
app.add_typer(broker.app, name="broker")
app.add_typer(profiles.app, name="profile")
app.add_typer(models.app, name="model")
app.add_typer(bench.app, name="bench")

"""``tinyfleet demo``: the whole of it on one machine."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Annotated

import typer

from tinyfleet.demo import spec as demo_spec


def demo(
    data: Annotated[
        str, typer.Option(help="mnist5k, fashion-mnist, digits, image-folder:PATH or arrays:FILE.npz.")
    ] = demo_spec.SOURCE,
    method: Annotated[
        str, typer.Option(help="Of the tiny model: tinyfleet, fedtiny, fedmef, static, ... (docs/methods.md).")
    ] = demo_spec.METHOD,
    density: Annotated[float, typer.Option(min=0.001, max=1.0, help="Share of prunable weights that stays.")] = (
        demo_spec.DENSITY
    ),
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Training rounds of each run.", show_default=False)
    ] = None,
    agents: Annotated[int, typer.Option(min=1, max=32)] = demo_spec.AGENTS,
    seed: Annotated[int, typer.Option(min=0)] = demo_spec.SEED,
    broker: Annotated[
        str, typer.Option(help="auto, mosquitto, embedded, or mqtt://HOST:PORT of a running one.")
    ] = ("auto"),
    limit: Annotated[
        int, typer.Option(min=0, help="Training samples of the whole fleet at most; 0: all of the data.")
    ] = demo_spec.LIMIT,
    memory_limit: Annotated[str, typer.Option(help='Of each worker, such as "300M"; 0: from the board.')] = "0",
    boards: Annotated[
        str, typer.Option(metavar="A,B,...", help="Emulate these boards around the agents, in turn.")
    ] = "",
    engine: Annotated[str, typer.Option(help="That trains: native, torch, or auto.")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Models, report and logs go here.")] = Path(
        "demo-out"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the fleet's logs and states.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few rounds on little data: does everything work?")
    ] = False,
) -> None:
    """Train a dense and a tiny model on a fleet of processes, export the tiny one, and say what it cost."""
    from rich.console import Console

    from tinyfleet.demo.run import DemoFailed, DemoOptions, run_demo, write_json
    from tinyfleet.demo.table import print_result

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    options = DemoOptions(
        out=out,
        method=method,
        data=data,
        density=density,
        rounds=rounds or (demo_spec.QUICK_ROUNDS if quick else demo_spec.ROUNDS),
        agents=agents,
        seed=seed,
        broker=broker,
        memory_limit=int(memory_limit) if memory_limit.isdigit() else memory_limit,
        limit=demo_spec.QUICK_LIMIT if quick else limit,
        engine=engine,
        boards=tuple(filter(None, (name.strip() for name in boards.split(",")))),
    )
    # A background job ignores SIGINT from birth; told to stop, the demo stops all the same.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        result = run_demo(options, console)
    except KeyboardInterrupt:
        console.print("stopped; every process of the fleet has ended")
        raise typer.Exit(130) from None
    if json_file is not None:
        write_json(json_file, result)
    print_result(console, result)
    if result["export_failure"]:
        raise DemoFailed(result["export_failure"])
    console.print(f"\nreport: {result['report']}\nmodels: {out / 'model'}")
    if not keep:
        shutil.rmtree(out / "fleet", ignore_errors=True)

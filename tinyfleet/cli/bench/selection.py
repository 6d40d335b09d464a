"""``tinyfleet bench selection``: capability-aware against uniform random selection, emulated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyfleet.cli.output import emit_table

if TYPE_CHECKING:
    from tinyfleet.bench.selection.runner import Curve
    from tinyfleet.fedcore.training.engine import Engine


def selection(
    file: Annotated[
        Path | None, typer.Argument(metavar="RUN.toml", help="The run instead of the built-in one.")
    ] = None,
    target: Annotated[float, typer.Option(min=0.0, max=1.0, help="Test accuracy to reach.")] = 0.9,
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds, each with both policies.")] = 5,
    directory: Annotated[
        Path, typer.Option(help="Finished runs and the report; an interrupted benchmark goes on from them.")
    ] = Path("bench-selection"),
) -> None:
    """Time to a target accuracy in a fleet of five kinds of boards, same seeds, same cohort size.

    The boards are emulated: models are really trained, and the time that a task takes is computed from the
    shipped profiles. Writes selection.json and a plot.
    """
    from tinyfleet.bench.selection.report import EMULATED, write_report
    from tinyfleet.bench.selection.runner import DEFAULT, compare, run_bench
    from tinyfleet.cli.runs import read_spec
    from tinyfleet.fedcore.training.registry import REFERENCE, create, require

    def engine() -> Engine:
        return create(REFERENCE.name, threads=1)

    require(REFERENCE.name)
    base = DEFAULT if file is None else read_spec(file)
    curves = run_bench(base, range(seeds), target, directory, engine, _told)
    written = write_report(base, curves, directory)
    found = compare(curves)
    emit_table(
        ("seed", "uniform random", "capability-aware", "times as fast"),
        [
            (seed, _seconds(random_s), _seconds(capability_s), "" if ratio is None else f"{ratio:.2f}")
            for seed, random_s, capability_s, ratio in zip(
                found.seeds, found.random_s, found.capability_s, found.ratios, strict=True
            )
        ],
        empty="nothing was run",
    )
    if found.median_ratio is not None:
        typer.echo(f"median: {found.median_ratio:.2f} times as fast to {target:.0%} test accuracy")
    typer.echo(f"{EMULATED}; {', '.join(str(path) for path in written)}", err=True)


def _told(curve: Curve, finished: bool) -> None:
    point = curve.points[-1]
    accuracy = "" if point.accuracy is None else f", accuracy {point.accuracy:.1%}"
    text = f"{curve.policy}, seed {curve.seed}: round {point.round}, {point.seconds:.0f} virtual s{accuracy}"
    typer.echo(f"\r{text:<78}", err=True, nl=finished)


def _seconds(seconds: float | None) -> str:
    return "not reached" if seconds is None else f"{seconds:.1f} s"

"""``tinyfleet export``: a run's model as ONNX, TFLite and sparse files, each verified."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyfleet.cli.output import Json, emit_json, emit_table
from tinyfleet.cli.runs import read_spec, resolve
from tinyfleet.cli.state import StateOption, opened
from tinyfleet.fedcore.errors import ConfigError

if TYPE_CHECKING:
    from tinyfleet.fedcore.run_spec import RunSpec


def export(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's id, or its beginning.")] = None,
    state: StateOption = None,
    state_blob: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of a run: a state that `simulate --out` kept.")
    ] = None,
    spec: Annotated[Path | None, typer.Option(metavar="RUN.toml", help="With --state-blob: what was run.")] = None,
    step: Annotated[
        int | None, typer.Option(help="The state after this step, where it is kept; else the run's result.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")] = Path("export-out"),
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="onnx-fp32, tflite-fp32, -fp16, -int8, sparse-fp32 or sparse-fp16; repeatable."
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="Engine that the files are compared with.")] = "auto",
    as_json: Json = False,
) -> None:
    """Write the model of RUN as ONNX, TFLite and for the sparse engine, run each file where it belongs and compare.

    Fails where a file does not compute what the model does.
    """
    from tinyfleet.export.formats.table import format_called

    for name in formats or ():
        format_called(name)
    if state_blob is not None:
        if spec is None or run is not None or step is not None:
            raise ConfigError("--state-blob FILE stands instead of RUN and its --step, and needs --spec RUN.toml")
        _export(read_spec(spec), state_blob, out, formats, engine, as_json=as_json)
        return
    if run is None:
        raise ConfigError("give the run to export (`tinyfleet run list` names them), or --state-blob FILE")
    with opened(state) as store:
        row = store.runs.get(resolve(run, [r.run for r in store.runs.all()]))
        blob = store.state_blob(row.run, step)
        if blob is not None:
            store.blobs.read(blob.name)  # raises where it is damaged
    if blob is None:
        raise ConfigError(f"{row.run} is {row.state} and has no model yet; wait for its first step")
    from tinyfleet.fedcore.run_spec import RunSpec
    from tinyfleet.fedcore.settings import convert

    _export(convert(row.spec, RunSpec, row.run), blob, out, formats, engine, as_json=as_json)


def _export(spec: RunSpec, blob: Path, out: Path, formats: list[str] | None, engine: str, *, as_json: bool) -> None:
    from tinyfleet.export.formats.table import missing_formats
    from tinyfleet.export.verify import check
    from tinyfleet.exporting import export_state
    from tinyfleet.fedcore.training import registry as engines

    exported = export_state(spec, blob, out, engines.create(engine), formats or None)
    for name, why in ({} if formats else missing_formats()).items():
        typer.echo(f"{name} was left out: {why}", err=True)
    if as_json:
        emit_json(
            {
                "accuracy": exported.accuracy,
                "density": exported.density,
                "exports": [dataclasses.asdict(row) for row in exported.rows],
            }
        )
        check(exported.rows)
        return
    typer.echo(f"trained model: accuracy {exported.accuracy:.1%}, density {exported.density:.4f}")
    emit_table(
        ("format", "runtime", "bytes", "max error", "agreement", "accuracy", "latency", "file"),
        [
            (
                f"{r.format} {r.precision}",
                r.runtime,
                f"{r.file_bytes:,}",
                f"{r.max_rel_error:.1e}",
                f"{r.argmax_agreement:.1%}",
                f"{r.accuracy:.1%}",
                f"{r.latency_ms:.2f} ms",
                r.path,
            )
            for r in exported.rows
        ],
        empty="no file was written",
    )
    check(exported.rows)

"""``tinyfleet simulate``: a whole run in one process, bit-identical to the live fleet."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyfleet.cli.output import Json, emit_json
from tinyfleet.cli.runs import read_submission

if TYPE_CHECKING:
    from tinyfleet.simulation import StepRecord


def simulate(
    file: Annotated[
        Path, typer.Argument(metavar="RUN.toml", help="What to run; data.partition says how many devices.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Keep the resulting state (lossless).")
    ] = None,
    engine: Annotated[str, typer.Option(help="Training engine.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the engine.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the file's.")] = None,
    as_json: Json = False,
) -> None:
    """Run RUN.toml in this process: no broker, no agents, the same methods, blobs and results."""
    import msgspec

    from tinyfleet.fedcore.datasets.agreement import brief
    from tinyfleet.fedcore.datasets.partition import described
    from tinyfleet.fedcore.files import write_atomic
    from tinyfleet.fedcore.protocol.codec import encode
    from tinyfleet.fedcore.training import registry as engines
    from tinyfleet.simulation import simulate as run

    submission = read_submission(file)
    spec = submission.spec
    if seed is not None:
        spec = msgspec.structs.replace(spec, seed=seed)
    records: list[StepRecord] = []

    def on_step(record: StepRecord) -> None:
        records.append(record)
        if not as_json:
            typer.echo(_line(record))

    if not as_json:
        typer.echo(f"data: {brief(described(spec.data))}")
    started = time.perf_counter()
    state = run(spec, engines.create(engine, threads=threads), on_step=on_step, start=submission.start)
    if out is not None:
        write_atomic(out, encode(state, precision="fp32"))
    if as_json:
        emit_json(
            {
                "spec": msgspec.to_builtins(spec),
                "steps": records,
                "duration_s": time.perf_counter() - started,
                "state": None if out is None else str(out),
            }
        )


def _line(record: StepRecord) -> str:
    parts = [f"step {record.step:3d}", f"{record.stage:<13}", f"round {record.round:3d}"]
    if record.loss is not None:
        parts.append(f"loss {record.loss:.3f}")
    if record.test_accuracy is not None:
        parts.append(f"test accuracy {record.test_accuracy:.1%}")
    if record.validation_accuracy is not None:
        parts.append(f"validation accuracy {record.validation_accuracy:.1%}")
    if record.epsilon is not None:
        parts.append(f"epsilon {record.epsilon:.2f} if it were live")
    parts += [f"density {record.density:.4f}", f"up {record.bytes_up:,} B", f"down {record.bytes_down:,} B"]
    return "  ".join(parts)

"""One cell of a method benchmark: a simulated run, and the row that it leaves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from tinyfleet.bench.methods.config import CellSpec
from tinyfleet.bench.methods.deployment import Deployed, deployed_cost
from tinyfleet.fedcore.errors import TinyfleetError
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.training.engine import Engine
from tinyfleet.fedcore.training.registry import REFERENCE
from tinyfleet.simulation import Simulation, StepRecord


@dataclass(frozen=True, slots=True)
class Cell:
    """One run's numbers. Bytes are blob sizes per device, a round's the mean over training rounds.

    FLOPs and analytic memory are the most that any task of the run costs any device of its cohort; both
    MB are 10^6 bytes.
    """

    method: str
    dataset: str
    partition: str
    model: str
    density: float  # asked for
    seed: int
    digest: str  # of the cell's whole spec
    status: Literal["done", "failed"] = "done"
    reason: str = ""  # of the failure
    density_final: float | None = None
    rounds: int = 0  # training rounds finished
    accuracy_last10: float | None = None  # mean of the last evaluations, ``last`` of them (ten)
    accuracy_best: float | None = None
    flops_round_max: float | None = None
    bytes_up_round: float | None = None
    bytes_down_round: float | None = None
    bytes_total: float | None = None  # of one device that takes part in every step, both ways
    memory_analytic_mb: float | None = None
    peak_rss_mb: float | None = None  # of one device's training step, measured in a process of its own
    baseline_rss_mb: float | None = None  # of that process before the step
    multiply_adds: int | None = None  # of the deployed model's ONNX file, its dead channels gone
    multiply_adds_dense: int | None = None  # of the same network whole
    onnx_bytes: int | None = None
    onnx_latency_ms: float | None = None  # onnxruntime, one thread, batch 1
    seconds: float = 0.0
    engine: str = REFERENCE.name  # that trained it
    curve: list[tuple[int, float]] = field(default_factory=list)  # training round, accuracy


def run_cell(spec: CellSpec, engine: Engine, told: Callable[[int], None] = lambda finished: None) -> Cell:
    """Simulate one cell. What goes wrong in it is a row as well: a method may diverge.

    ``told`` hears the number of finished training rounds after each step.
    """
    started = time.perf_counter()
    records: list[StepRecord] = []
    deployed: Deployed | None = None
    reason = ""
    try:
        simulation = Simulation(spec.spec, engine, evaluate=spec.evaluated)
        while not simulation.finished:
            records.append(simulation.step())
            told(records[-1].round)
        method = simulation.method
        deployed = deployed_cost(method.problem.graph, method.deployed(simulation.state))
    except (TinyfleetError, ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
    return _row(spec, records, deployed, reason, time.perf_counter() - started, engine.name)


def _row(
    spec: CellSpec,
    records: Sequence[StepRecord],
    deployed: Deployed | None,
    reason: str,
    seconds: float,
    engine: str,
) -> Cell:
    curve = [(record.round, record.test_accuracy) for record in records if record.test_accuracy is not None]
    before = [0, *(record.round for record in records)]
    rounds = [record for record, earlier in zip(records, before, strict=False) if record.round > earlier]
    accuracy = [value for _, value in curve]
    reason = reason or ("" if accuracy else "no training round was evaluated")
    failed = bool(reason)
    return Cell(
        method=spec.method,
        dataset=spec.dataset,
        partition=spec.partition,
        model=spec.spec.model.name,
        density=spec.density,
        seed=spec.spec.seed,
        digest=spec.digest,
        status="failed" if failed else "done",
        reason=reason,
        engine=engine,
        density_final=records[-1].density if records else None,
        rounds=records[-1].round if records else 0,
        accuracy_last10=None if failed else statistics.fmean(accuracy[-spec.last :]),
        accuracy_best=max(accuracy, default=None),
        flops_round_max=max((record.flops for record in records), default=None),
        bytes_up_round=statistics.fmean(r.bytes_up for r in rounds) if rounds else None,
        bytes_down_round=statistics.fmean(r.bytes_down for r in rounds) if rounds else None,
        bytes_total=float(sum(record.bytes_up + record.bytes_down for record in records)) if records else None,
        memory_analytic_mb=max(record.memory for record in records) / 1e6 if records else None,
        multiply_adds=deployed.multiply_adds if deployed else None,
        multiply_adds_dense=deployed.multiply_adds_dense if deployed else None,
        onnx_bytes=deployed.file_bytes if deployed else None,
        onnx_latency_ms=deployed.latency_ms if deployed else None,
        seconds=seconds,
        curve=curve,
    )


def failed_cell(spec: CellSpec, reason: str) -> Cell:
    """The row of a run that left nothing else."""
    return _row(spec, [], None, reason, 0.0, "")


def cell_path(directory: Path, spec: CellSpec) -> Path:
    """The file of a finished cell."""
    return directory / f"cell-{spec.key}.json"


def write_cell(directory: Path, spec: CellSpec, cell: Cell) -> None:
    """Keep a finished cell: whole or not at all, whatever ends the process."""
    write_atomic(cell_path(directory, spec), msgspec.json.encode(asdict(cell)) + b"\n")


def read_cell(directory: Path, spec: CellSpec) -> Cell | None:
    """The finished cell, None where there is none or where it belongs to another spec."""
    try:
        cell = msgspec.json.decode(cell_path(directory, spec).read_bytes(), type=Cell)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return cell if cell.digest == spec.digest else None

"""What each part of FedTiny is worth: the same runs with parts switched off, simulated, over several seeds.

Every finished cell is on disk at once, so an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from fedcore.files import write_atomic
from fedcore.run_spec import RunSpec
from tinyfleet.simulation import Simulation, StepRecord

VARIANTS: dict[str, dict[str, Any]] = {
    "FedAvg, dense": {"name": "fedavg"},
    "FedTiny": {"name": "fedtiny"},
    "without BN selection": {"name": "fedtiny", "selection": False},
    "without progressive pruning": {"name": "fedtiny", "progressive": False},
    "without both": {"name": "fedtiny", "selection": False, "progressive": False},
    "static random mask (ERK)": {"name": "static"},
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One run. ``accuracy_last5`` is the mean over the last five training rounds."""

    variant: str
    seed: int
    density: float
    rounds: int
    accuracy_final: float
    accuracy_last5: float
    accuracy_best: float
    bytes_up_round: int
    bytes_down_round: int
    seconds: float


def variant_spec(base: RunSpec, variant: str, seed: int) -> RunSpec:
    """``base`` with this variant's method; the base method's own settings stay where they apply."""
    method = dict(VARIANTS[variant])
    shared = ("density",) if method["name"] == "static" else tuple(base.method)
    if method["name"] != "fedavg":
        method = {key: base.method[key] for key in shared if key in base.method and key != "name"} | method
    partition = msgspec.structs.replace(base.data.partition, seed=seed)
    data = msgspec.structs.replace(base.data, partition=partition)
    return msgspec.structs.replace(base, method=method, seed=seed, data=data)


def run_cell(base: RunSpec, variant: str, seed: int) -> Cell:
    """Simulate one variant with one seed."""
    from fedcore.training.registry import create

    simulation = Simulation(variant_spec(base, variant, seed), create())
    records: list[StepRecord] = []
    while not simulation.finished:
        records.append(simulation.step())
    rounds = [record for record in records if record.test_accuracy is not None]
    accuracy = [record.test_accuracy or 0.0 for record in rounds]
    return Cell(
        variant=variant,
        seed=seed,
        density=rounds[-1].density,
        rounds=len(rounds),
        accuracy_final=accuracy[-1],
        accuracy_last5=statistics.fmean(accuracy[-5:]),
        accuracy_best=max(accuracy),
        bytes_up_round=int(statistics.median(record.bytes_up for record in rounds)),
        bytes_down_round=int(statistics.median(record.bytes_down for record in rounds)),
        seconds=sum(record.seconds for record in records),
    )


def bench_ablation(
    base: RunSpec,
    seeds: Iterable[int],
    variants: Iterable[str],
    directory: Path,
    processes: int,
    progress: Callable[[Cell, int, int], None],
) -> list[Cell]:
    """All cells, those on disk read back, the others run in ``processes`` processes."""
    directory.mkdir(parents=True, exist_ok=True)
    wanted = {
        (variant, seed): directory / f"{_slug(variant)}-{seed}.json" for variant in variants for seed in seeds
    }
    cells = {key: _read(path) for key, path in wanted.items() if path.exists()}
    done = len(cells)
    with ProcessPoolExecutor(processes) as pool:
        futures = {pool.submit(run_cell, base, *key): key for key in wanted if key not in cells}
        for future in as_completed(futures):
            key = futures[future]
            cells[key] = future.result()
            write_atomic(wanted[key], msgspec.json.encode(asdict(cells[key])))
            done += 1
            progress(cells[key], done, len(wanted))
    return [cells[key] for key in wanted]


def summary(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Per variant: median accuracy over seeds, the seeds' values, bytes."""
    by_variant: dict[str, list[Cell]] = {}
    for cell in cells:
        by_variant.setdefault(cell.variant, []).append(cell)
    return [
        {
            "variant": variant,
            "density": statistics.median(cell.density for cell in group),
            "accuracy_median": statistics.median(cell.accuracy_final for cell in group),
            "accuracy_last5_median": statistics.median(cell.accuracy_last5 for cell in group),
            "accuracy_seeds": [cell.accuracy_final for cell in group],
            "bytes_up_round": int(statistics.median(cell.bytes_up_round for cell in group)),
            "bytes_down_round": int(statistics.median(cell.bytes_down_round for cell in group)),
        }
        for variant, group in by_variant.items()
    ]


def _slug(variant: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in variant.lower()).strip("-")


def _read(path: Path) -> Cell:
    return msgspec.convert(msgspec.json.decode(path.read_bytes()), Cell)

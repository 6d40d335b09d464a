"""Every attack against every aggregate, on the 8 x 8 digits, in process; what was run once is not run again."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tinyfleet.bench.poisoning.attacks import ATTACKS
from tinyfleet.bench.poisoning.devices import fleet, outcome
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.run_spec import (
    DataSettings,
    FleetSettings,
    ModelSettings,
    PartitionSettings,
    RunSpec,
    TrainingSettings,
)
from tinyfleet.fedcore.training.engine import Engine

DEVICES, ROUNDS = 10, 10
TUNING_SEED = 0  # limits were chosen on it: it is never reported
SEEDS = (1, 2, 3)
AGGREGATES = ("mean", "clipped", "median", "trimmed", "krum", "multi-krum", "geometric-median")
SHARES = (0.1, 0.2, 0.3)
LEAST_RESULTS = 5  # fewer cannot be told apart by krum

_GROWING = {"density": 0.2, "interval": 1, "stop": ROUNDS}
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "static": {"density": 0.2},
    "snip": {"density": 0.2},
    "synflow": {"density": 0.2},
    "fl_pqsu": {"density": 0.5},
    "fedtiny": _GROWING | {"candidates": 4},
    "fedmef": _GROWING | {"pretrained": True},
    "tinyfleet": _GROWING,
    "fedrts": _GROWING,
    "prunefl": {"density": 0.2, "interval": 2},
    "feddst": _GROWING,
    "lotteryfl": {"density": 0.5},
}
"""Settings under which every stage of a method takes part in ``ROUNDS`` rounds.

LotteryFL's devices rewind for the last time as late as they prune: at half density rounds are left to recover in.
"""


@dataclass(frozen=True, slots=True)
class PoisoningCell:
    """What is run: one attack by one share of the devices on one method under one aggregate."""

    method: str
    aggregate: str
    attack: str  # "" where nobody is hostile
    share: float  # of the devices
    alpha: float = 0.0  # of the Dirichlet split; 0: even parts
    limited: bool = True  # False: nothing is refused or cut beside other results


@dataclass(frozen=True, slots=True)
class PoisoningRow:
    """A cell's outcomes by seed: accuracy on held-out digits after the last round, and refused results."""

    method: str
    aggregate: str
    attack: str
    share: float
    seeds: list[int]
    accuracies: list[float]
    refused: list[int]  # results of hostile devices
    refused_honest: list[int]
    alpha: float = 0.0
    limited: bool = True

    @property
    def cell(self) -> PoisoningCell:
        return PoisoningCell(self.method, self.aggregate, self.attack, self.share, self.alpha, self.limited)

    @property
    def accuracy(self) -> float:
        """The median over seeds."""
        return statistics.median(self.accuracies)

    def lost(self, honest: PoisoningRow) -> float:
        """Points of accuracy that the attack costs: the median over seeds, each beside the same without it."""
        without = dict(zip(honest.seeds, honest.accuracies, strict=True))
        pairs = zip(self.seeds, self.accuracies, strict=True)
        return statistics.median(100.0 * (without[seed] - accuracy) for seed, accuracy in pairs)


def cells(
    methods: Sequence[str],
    aggregates: Sequence[str],
    attacks: Sequence[str],
    shares: Sequence[float],
) -> Iterator[PoisoningCell]:
    """Of each method and aggregate: at first nobody hostile, then each attack by each share."""
    for method in methods:
        for aggregate in aggregates:
            yield PoisoningCell(method, aggregate, "", 0.0)
            for attack in attacks:
                for share in shares:
                    yield PoisoningCell(method, aggregate, attack, share)


def uneven_cells(methods: Sequence[str], alphas: Sequence[float]) -> Iterator[PoisoningCell]:
    """Honest fleets whose data is uneven, with and without limits."""
    for method in methods:
        for alpha in alphas:
            for limited in (False, True):
                yield PoisoningCell(method, "mean", "", 0.0, alpha, limited)


def job(
    seed: int, method: str = "fedavg", aggregate: str = "mean", alpha: float = 0.0, *, limited: bool = True
) -> RunSpec:
    """Ten devices; a fleet as by default but for its aggregate and, where they are lifted, its limits."""
    fleet_settings: dict[str, Any] = {"aggregate": aggregate}
    if aggregate != "mean":
        fleet_settings["min_results"] = LEAST_RESULTS
    if not limited:
        fleet_settings |= {"norm_limit": 0.0, "influence_limit": 0.0}
    split = PartitionSettings("dirichlet" if alpha else "iid", alpha=alpha or 0.5, devices=DEVICES, seed=seed)
    return RunSpec(
        name="poisoning",
        seed=seed,
        method={"name": method, **METHODS[method]},
        model=ModelSettings("small_cnn", (1, 8, 8), 10, {"width": 8}),
        training=TrainingSettings(rounds=ROUNDS, batch=32, pretrain_epochs=5, learning_rate=0.04),
        data=DataSettings(source="digits", partition=split),
        fleet=msgspec.convert(fleet_settings, FleetSettings),
    )


def run_cell(cell: PoisoningCell, seeds: Sequence[int], engine: Engine) -> PoisoningRow:
    """One after the other."""
    specs = [job(seed, cell.method, cell.aggregate, cell.alpha, limited=cell.limited) for seed in seeds]
    found = [outcome(fleet(spec, engine, cell.attack, round(cell.share * DEVICES))) for spec in specs]
    accuracies, hostile, honest = (list(values) for values in zip(*found, strict=True))
    return PoisoningRow(
        cell.method,
        cell.aggregate,
        cell.attack,
        cell.share,
        list(seeds),
        accuracies,
        hostile,
        honest,
        cell.alpha,
        cell.limited,
    )


def bench_poisoning(
    wanted: Iterable[PoisoningCell], seeds: Sequence[int], engine: Engine, file: Path | None = None
) -> Iterator[PoisoningRow]:
    """The rows of all cells; those that ``file`` has with these seeds are taken from there, new ones added to it.

    Raises ``ConfigError`` for an unknown attack and for a file that holds something else.
    """
    known = {row.cell: row for row in read_rows(file)} if file is not None and file.exists() else {}
    for cell in wanted:
        if cell.attack and cell.attack not in ATTACKS:
            raise ConfigError(f"attack {cell.attack!r} is none of {', '.join(ATTACKS)}")
        row = known.get(cell)
        if row is None or row.seeds != list(seeds):
            row = run_cell(cell, seeds, engine)
            known[cell] = row
            if file is not None:
                write_rows(file, list(known.values()))
        yield row


def read_rows(file: Path) -> list[PoisoningRow]:
    """Raises ``ConfigError`` where the file is none of this bench's."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[PoisoningRow])
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{file} does not hold this bench's rows: {error}; give another file") from None


def write_rows(file: Path, rows: Sequence[PoisoningRow]) -> None:
    """All at once, so that a bench that is cut short leaves whole rows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = b",\n".join(msgspec.json.encode(row) for row in rows)
    write_atomic(file, b"[\n" + lines + b"\n]\n")

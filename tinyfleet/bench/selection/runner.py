"""Runs both policies with the same seeds; each finished run is a file at once and not run again."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec

from tinyfleet.bench.selection.clock import MODEL, mixed_fleet
from tinyfleet.bench.selection.fleet import EmulatedFleet, Point
from tinyfleet.fedcore.files import drop_temporaries, write_atomic
from tinyfleet.fedcore.run_spec import DataSettings, FleetSettings, PartitionSettings, RunSpec, TrainingSettings
from tinyfleet.fedcore.training.engine import Engine

POLICIES = ("random", "capability")
SMOOTHED = 3  # evaluations in a row, whose mean must be at the target: one lucky round is none

# A mask that never changes, so that nothing but the selection differs; five local epochs as in FedTiny's paper.
DEFAULT = RunSpec(
    name="selection",
    method={"name": "static", "density": 0.2},
    training=TrainingSettings(rounds=40, local_epochs=5, pretrain_epochs=2),
    data=DataSettings(limit=3000, partition=PartitionSettings("dirichlet", 0.5, 15)),
    fleet=FleetSettings(cohort=5),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """One policy with one seed, up to the target or to its last round."""

    policy: str
    seed: int
    target: float
    digest: str  # of all that decides its numbers
    target_s: float | None = None  # virtual seconds until the target; None: it was not met
    points: list[Point] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Virtual seconds to the target by seed, in the order of ``seeds``. None where a run did not meet it."""

    seeds: list[int]
    random_s: list[float | None]
    capability_s: list[float | None]
    ratios: list[float | None]  # how many times as long random selection takes
    median_ratio: float | None  # over the seeds that both met; None: there is none


def run_bench(
    base: RunSpec,
    seeds: Sequence[int],
    target: float,
    directory: Path,
    engine: Callable[[], Engine],
    told: Callable[[Curve, bool], None] = lambda curve, finished: None,
) -> list[Curve]:
    """Curves of both policies for each seed. ``told`` hears of each after every step, and of its end."""
    directory.mkdir(parents=True, exist_ok=True)
    drop_temporaries(directory)
    trainer: Engine | None = None
    curves = []
    for seed in seeds:
        for policy in POLICIES:
            spec = spec_of(base, policy, seed)
            path = directory / f"run-{policy}-{seed}.json"
            curve = _read(path, digest_of(spec, target))
            if curve is None:
                trainer = trainer or engine()
                curve = run_one(spec, target, trainer, lambda running: told(running, False))
                write_atomic(path, msgspec.json.encode(asdict(curve)) + b"\n")
            told(curve, True)
            curves.append(curve)
    return curves


def run_one(spec: RunSpec, target: float, engine: Engine, told: Callable[[Curve], None]) -> Curve:
    """Train until the target is met, or the rounds are over."""
    fleet = EmulatedFleet(spec, engine, mixed_fleet(spec.data.partition.devices, spec.seed))
    curve = Curve(spec.fleet.selection, spec.seed, target, digest_of(spec, target))
    while not fleet.finished:
        curve.points.append(fleet.advance())
        told(curve)
        if met(curve):
            return replace(curve, target_s=fleet.seconds)
    return curve


def met(curve: Curve) -> bool:
    """Whether the last evaluations are at the target, in the mean."""
    last = [point.accuracy for point in curve.points if point.accuracy is not None][-SMOOTHED:]
    return len(last) == SMOOTHED and statistics.fmean(last) >= curve.target


def compare(curves: Sequence[Curve]) -> Comparison:
    """Both policies, seed by seed."""
    found = {(curve.policy, curve.seed): curve.target_s for curve in curves}
    seeds = sorted({curve.seed for curve in curves})
    slow, fast = ([found.get((policy, seed)) for seed in seeds] for policy in POLICIES)
    ratios = [a / b if a and b else None for a, b in zip(slow, fast, strict=True)]
    known = [ratio for ratio in ratios if ratio is not None]
    return Comparison(seeds, slow, fast, ratios, statistics.median(known) if known else None)


def spec_of(base: RunSpec, policy: str, seed: int) -> RunSpec:
    """The run of one policy and seed; the seed splits the data too."""
    partition = msgspec.structs.replace(base.data.partition, seed=seed)
    return msgspec.structs.replace(
        base,
        seed=seed,
        data=msgspec.structs.replace(base.data, partition=partition),
        fleet=msgspec.structs.replace(base.fleet, selection=policy),
    )


def digest_of(spec: RunSpec, target: float) -> str:
    """SHA-256 of all that decides a curve's numbers."""
    settings = msgspec.json.encode([msgspec.to_builtins(spec), target, MODEL], order="deterministic")
    return hashlib.sha256(settings).hexdigest()[:16]


def _read(path: Path, digest: str) -> Curve | None:
    try:
        curve = msgspec.json.decode(path.read_bytes(), type=Curve)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return curve if curve.digest == digest else None

"""How far predictions of memory and time are off: every configuration of a grid predicted, then measured.

The cost model is measured first, on its own few probes: none of the grid's models and batches is among them
but ResNet8, at another batch.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

from tinyfleet.fedcore.planning.cost_model import CostModel, features_of_probe
from tinyfleet.fedcore.planning.probe import Probe, probe
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.levers import Levers
from tinyfleet.fedcore.training.registry import REFERENCE

# Model, input, arguments.
MODELS = (
    ModelSettings("small_cnn", (1, 28, 28), 10, {}),
    ModelSettings("resnet8", (3, 32, 32), 10, {}),
    ModelSettings("resnet20", (3, 32, 32), 10, {"norm": "nsconv"}),
    ModelSettings("mobilenet_v2", (3, 32, 32), 10, {"width": 0.5}),
    ModelSettings("resnet18", (3, 32, 32), 10, {}),
    ModelSettings("resnet18", (3, 32, 32), 10, {"norm": "nsconv"}),
)
BATCHES = (16, 64)
PRUNED = Levers(activation_keep=0.3, cache="fp16")
TARGET = 0.15  # of the measured peak


@dataclass(frozen=True, slots=True)
class PlanRow:
    """MB are 10^6 bytes, resident in the whole process at its peak; seconds are those of one step."""

    model: str
    norm: str
    batch: int
    micro_batch: int
    keep: float  # of activations
    cache: str
    density: float
    predicted_mb: float
    measured_mb: float
    engine_mb: float
    predicted_s: float
    measured_s: float

    @property
    def memory_error(self) -> float:
        """Of the measured peak."""
        return self.predicted_mb / self.measured_mb - 1.0

    @property
    def step_error(self) -> float:
        """Of what training takes beyond the engine: the harder test, which the whole peak hides."""
        taken = self.measured_mb - self.engine_mb
        return (self.predicted_mb - self.engine_mb) / taken - 1.0

    @property
    def time_error(self) -> float:
        return self.predicted_s / self.measured_s - 1.0


@dataclass(frozen=True, slots=True)
class Errors:
    """Of a whole grid, absolute: the largest and the median."""

    rows: int
    memory_max: float
    memory_median: float
    step_max: float
    step_median: float
    time_max: float
    time_median: float


def grid(engine: str = REFERENCE.name, steps: int = 3) -> Iterator[Probe]:
    """Every model at two batches, whole and in micro-batches, with exact and with pruned caches."""
    for model in MODELS:
        for batch in BATCHES:
            yield Probe(model, batch, momentum=0.9, steps=steps, engine=engine)
            yield Probe(model, batch, PRUNED, momentum=0.9, density=0.01, steps=steps, engine=engine)
            yield Probe(model, batch, Levers(batch // 4), density=0.1, steps=steps, engine=engine)


def bench_plan(
    cost_model: CostModel, probes: Sequence[Probe], progress: Callable[[PlanRow, int, int], None]
) -> list[PlanRow]:
    """Predict and measure. Raises ``DataError`` where a measurement fails."""
    rows = []
    for request in probes:
        features = features_of_probe(request)
        found = probe(request)
        rows.append(
            PlanRow(
                request.model.name,
                str(request.model.arguments.get("norm", "batch")),
                request.batch,
                request.levers.micro_batch,
                request.levers.activation_keep,
                request.levers.cache,
                request.density,
                cost_model.peak_bytes(features) / 1e6,
                found.peak_bytes / 1e6,
                found.engine_bytes / 1e6,
                cost_model.step_seconds(features),
                found.step_seconds,
            )
        )
        progress(rows[-1], len(rows), len(probes))
    return rows


def errors(rows: Sequence[PlanRow]) -> Errors:
    """What a person wants to know of a grid."""
    figures = []
    for name in ("memory_error", "step_error", "time_error"):
        found = [abs(getattr(row, name)) for row in rows]
        figures += [max(found), statistics.median(found)]
    return Errors(len(rows), *figures)


def scatter(rows: Sequence[PlanRow], path: Path) -> None:
    """Predicted against measured, with the band of ``TARGET``; PNG or SVG by the name."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, kind, unit in zip(figure.subplots(1, 2), ("mb", "s"), ("peak MB", "seconds a step"), strict=True):
        measured = [getattr(row, f"measured_{kind}") for row in rows]
        predicted = [getattr(row, f"predicted_{kind}") for row in rows]
        ends = [min(measured) * 0.8, max(measured) * 1.25]
        axes.fill_between(ends, [e * (1 - TARGET) for e in ends], [e * (1 + TARGET) for e in ends], alpha=0.15)
        axes.plot(ends, ends, linewidth=0.8, color="black")
        axes.scatter(measured, predicted, s=16)
        axes.set(xscale="log", yscale="log", xlabel=f"measured {unit}", ylabel=f"predicted {unit}")
    figure.savefig(path, dpi=120)

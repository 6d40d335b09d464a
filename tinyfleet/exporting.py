"""A run's model state becomes verified files for its runtimes, whoever asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinyfleet.export.report import export_model
from tinyfleet.export.verify import ExportRow
from tinyfleet.fedcore.run_spec import RunSpec

if TYPE_CHECKING:
    from tinyfleet.fedcore.arrays import Mask
    from tinyfleet.fedcore.training.engine import Engine

CALIBRATION_SAMPLES = 256


@dataclass(frozen=True, slots=True)
class LayerDensity:
    """Active and all weights of one maskable layer."""

    name: str
    active: int
    total: int

    @property
    def density(self) -> float:
        return self.active / self.total


@dataclass(frozen=True, slots=True)
class Exported:
    """The files, and the trained model that they were compared with."""

    rows: list[ExportRow]
    accuracy: float  # of the trained model in its engine, on held-out test data
    loss: float
    layers: list[LayerDensity]  # input to output

    @property
    def density(self) -> float:
        """Active share of all maskable weights of the trained model."""
        return sum(layer.active for layer in self.layers) / max(1, sum(layer.total for layer in self.layers))


def export_state(
    spec: RunSpec, blob: Path, directory: Path, engine: Engine, formats: Sequence[str] | None = None
) -> Exported:
    """Export the state in ``blob`` (codec, lossless) and run every file in every runtime that is here.

    Without ``formats`` all that can be written here.

    int8 is calibrated on public data; all numbers come from held-out test data. Raises ``CodecError``
    for a damaged blob, ``DataError`` where the run's data cannot be read.
    """
    from tinyfleet.fedcore.datasets.partition import public_data, test_data
    from tinyfleet.fedcore.methods.method import normalization_entry, normalization_of
    from tinyfleet.fedcore.methods.registry import create, problem_of
    from tinyfleet.fedcore.protocol.codec import decode

    problem = problem_of(spec)
    graph = problem.graph
    state = create(spec.method, problem).deployed(decode(blob.read_bytes()))
    normalise = normalization_of(state)
    test = test_data(spec.data, spec.contract)
    x, y = normalise(test.x), test.y
    public = public_data(spec.data, spec.contract)
    # Spread over all of it: data sets are often sorted by class, and the first few are then one or two.
    spread = np.linspace(0, len(public) - 1, min(len(public), CALIBRATION_SAMPLES)).astype(np.int64)
    calibration = normalise(public.x[spread])
    engine.load(graph, state.params, state.mask)
    evaluation = engine.evaluate(x, y)
    directory.mkdir(parents=True, exist_ok=True)
    rows = export_model(
        graph,
        state.params,
        state.mask,
        directory,
        formats=formats,
        calibration=calibration,
        x=x,
        y=y,
        reference=engine.predict,
        normalization=normalization_entry(normalise),
    )
    layers = [_layer(name, graph.params[name].size, state.mask) for name in graph.maskable]
    return Exported(rows, evaluation.accuracy, evaluation.loss, layers)


def evaluate_state(spec: RunSpec, blob: Path, engine: Engine) -> float:
    """Accuracy of the state in ``blob`` on held-out test data."""
    from tinyfleet.fedcore.datasets.partition import test_data
    from tinyfleet.fedcore.methods.method import normalization_of
    from tinyfleet.fedcore.methods.registry import create, problem_of
    from tinyfleet.fedcore.protocol.codec import decode

    problem = problem_of(spec)
    state = create(spec.method, problem).deployed(decode(blob.read_bytes()))
    test = test_data(spec.data, spec.contract)
    engine.load(problem.graph, state.params, state.mask)
    return engine.evaluate(normalization_of(state)(test.x), test.y).accuracy


def _layer(name: str, total: int, mask: Mask) -> LayerDensity:
    active = int(mask[name].sum()) if name in mask else total
    return LayerDensity(name.removesuffix(".weight"), active, total)

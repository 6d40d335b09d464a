"""What differential privacy costs: accuracy, bytes and seconds beside the same run without it, in process.

The 8 x 8 digits over a hundred devices with a dozen samples each: privacy of whole devices needs many of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tinyfleet.fedcore.run_spec import (
    DataSettings,
    ModelSettings,
    PartitionSettings,
    PrivacySettings,
    RunSpec,
    TrainingSettings,
)
from tinyfleet.fedcore.training.engine import Engine
from tinyfleet.simulation import Simulation, StepRecord

DEVICES, ROUNDS, CLIP = 100, 6, 0.5


@dataclass(frozen=True, slots=True)
class PrivacyCell:
    """One run of the bench; ``norm`` is what follows the model's convolutions."""

    mode: str
    noise: float = 0.0  # in clips
    density: float = 0.1  # 1: dense
    norm: str = "nsconv"


CELLS = (
    PrivacyCell("none"),
    *(PrivacyCell("central", noise) for noise in (0.5, 1.0, 2.0, 4.0)),
    *(PrivacyCell("local", noise) for noise in (0.1, 2.0)),
    PrivacyCell("none", density=1.0),
    *(PrivacyCell("central", noise, density=1.0) for noise in (1.0, 4.0)),
    PrivacyCell("none", norm="batch"),
    PrivacyCell("central", 1.0, norm="batch"),
)


@dataclass(frozen=True, slots=True)
class PrivacyRow:
    """A cell's results; accuracies by seed, on held-out digits."""

    mode: str
    noise: float
    density: float
    norm: str
    values: int  # that an update has: what is clipped, and gets noise
    clip: float
    epsilon: float | None  # after the last round; None: there is no bound
    delta: float
    before: list[float]  # the first round
    accuracies: list[float]  # after the last one
    bytes_up: float  # of a device and round
    bytes_down: float
    seconds: float | None  # of the processor, a round of all devices and the coordinator: median

    @property
    def cell(self) -> PrivacyCell:
        """What it is the row of."""
        return PrivacyCell(self.mode, self.noise, self.density, self.norm)

    @property
    def accuracy(self) -> float:
        return statistics.fmean(self.accuracies)


def job(cell: PrivacyCell, seed: int, devices: int = DEVICES, rounds: int = ROUNDS) -> RunSpec:
    """An even split; a pre-trained model under a random mask, or all of it."""
    method: dict[str, Any] = {"name": "fedavg"}
    if cell.density < 1.0:
        method = {"name": "static", "density": cell.density}
    return RunSpec(
        name="privacy",
        seed=seed,
        method=method,
        model=ModelSettings("small_cnn", (1, 8, 8), 10, {"norm": cell.norm}),
        training=TrainingSettings(rounds=rounds, batch=16, pretrain_epochs=5, learning_rate=0.05),
        data=DataSettings(source="digits", partition=PartitionSettings("iid", devices=devices, seed=seed)),
        privacy=PrivacySettings(cell.mode, CLIP, cell.noise),  # type: ignore[arg-type]
    )


def bench_privacy(
    engine: Engine,
    cells: Sequence[PrivacyCell] = CELLS,
    seeds: Sequence[int] = (0,),
    devices: int = DEVICES,
    rounds: int = ROUNDS,
) -> Iterable[PrivacyRow]:
    """A row a cell, as each is done. Raises ``Unavailable`` without the accountant's library."""
    for cell in cells:
        yield _row(cell, [_run(job(cell, seed, devices, rounds), engine) for seed in seeds])


@dataclass(frozen=True, slots=True)
class _Run:
    spec: RunSpec
    values: int
    before: float
    after: float
    steps: list[StepRecord]
    seconds: list[float]


def _run(spec: RunSpec, engine: Engine) -> _Run:
    simulation = Simulation(spec, engine, evaluate=lambda finished: False)
    state, before = simulation.state, simulation.evaluate().accuracy
    steps, seconds = [], []
    values = sum(int(state.mask[n].sum()) if n in state.mask else v.size for n, v in state.params.items())
    while not simulation.finished:
        started = time.process_time()  # other programs on the machine do not count
        steps.append(simulation.step())
        seconds.append(time.process_time() - started)
    return _Run(simulation.spec, values, before, simulation.evaluate().accuracy, steps, seconds)


def _row(cell: PrivacyCell, runs: Sequence[_Run]) -> PrivacyRow:
    steps = [step for run in runs for step in run.steps]
    privacy = runs[0].spec.privacy
    return PrivacyRow(
        cell.mode,
        cell.noise,
        cell.density,
        cell.norm,
        runs[0].values,
        privacy.clip,
        runs[0].steps[-1].epsilon,
        privacy.delta,
        [run.before for run in runs],
        [run.after for run in runs],
        statistics.fmean(step.bytes_up for step in steps),
        statistics.fmean(step.bytes_down for step in steps),
        statistics.median(second for run in runs for second in run.seconds),
    )

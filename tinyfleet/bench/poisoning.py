"""What hostile devices cost: each attack against each way to aggregate, on the 8 x 8 digits, in process.

Devices are those of a simulation; hostile ones train like all others and then send something else. They are
drawn first by name, and know the task, but not what honest devices send.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from tinyfleet.fedcore.arrays import FloatArray
from tinyfleet.fedcore.datasets.dataset import DeviceData
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.run_spec import (
    DataSettings,
    FleetSettings,
    ModelSettings,
    PartitionSettings,
    RunSpec,
    TrainingSettings,
)
from tinyfleet.fedcore.training.engine import Engine
from tinyfleet.simulation import SimulatedDevice, Simulation

DEVICES, ROUNDS = 10, 6

Attack = Callable[[Payload, Payload], Payload]
"""(task, honest result) -> what is sent."""


def scaled_update(factor: float) -> Attack:
    """The update times ``factor``; statistics stay honest."""

    def attack(task: Payload, result: Payload) -> Payload:
        params = {
            name: values
            if is_statistic(name)
            else task.params[name] + np.float32(factor) * (values - task.params[name])
            for name, values in result.params.items()
        }
        return Payload(result.meta, params, result.mask, result.gradients)

    return attack


def each(change: Callable[[str, FloatArray], FloatArray], samples: int = 1) -> Attack:
    """Every array changed by itself, and the sample count times ``samples``."""

    def attack(task: Payload, result: Payload) -> Payload:
        count = min(1 << 28, int(result.meta["samples"]) * samples)  # type: ignore[arg-type]
        params = {name: change(name, values).astype(np.float32) for name, values in result.params.items()}
        return Payload(result.meta | {"samples": count}, params, result.mask, result.gradients)

    return attack


def is_statistic(name: str) -> bool:
    """True for what batch norm counts."""
    return name.endswith(("running_mean", "running_var"))


def only(suffix: str, value: float) -> Attack:
    """One kind of arrays is ``value`` everywhere."""
    return each(lambda name, values: np.full_like(values, value) if name.endswith(suffix) else values)


def noisy(name: str, values: FloatArray) -> FloatArray:
    """Gaussian noise of deviation 1 on all but variances, the same of all hostile devices."""
    rng = np.random.default_rng(len(name) + values.size)
    return values if name.endswith("running_var") else values + rng.standard_normal(values.shape, np.float32)


def many_samples(task: Payload, result: Payload) -> Payload:
    """The update reversed, with a hundred times the samples."""
    reversed_ = scaled_update(-1)(task, result)
    return each(lambda name, values: values, samples=100)(task, reversed_)


ATTACKS: Mapping[str, Attack] = {
    "update reversed": scaled_update(-1),
    "update x -4": scaled_update(-4),
    "update x -10": scaled_update(-10),
    "update x -1000": scaled_update(-1000),
    "weights x 1000": each(lambda name, values: values * 1000),
    "zeros": each(lambda name, values: values * 0),
    "zeros, samples 2^28": each(lambda name, values: values * 0, samples=1 << 28),
    "reversed, samples x 100": many_samples,
    "Gaussian noise": each(noisy),
    "running variance -1": only("running_var", -1.0),
    "running variance 10^9": only("running_var", 1e9),
    "running mean 10^6": only("running_mean", 1e6),
    "sum exhausted": each(lambda name, values: np.full_like(values, 1.7e16 / 150)),
    "not a number": each(lambda name, values: values * np.float32(np.nan)),
}


class HostileDevice(SimulatedDevice):
    """Sends what its attack makes of its honest result."""

    def __init__(self, data: DeviceData, attack: Attack) -> None:
        super().__init__(data)
        self._attack = attack

    def run(self, blob: bytes, method: Method, engine: Engine, spec: RunSpec) -> bytes:
        held = self._held
        reply = super().run(blob, method, engine, spec)
        task = decode(blob, held=lambda digest: held[1] if held else None)
        result = decode(reply, held=lambda digest: task.mask)
        try:
            return encode(self._attack(task, result), precision="fp32", send_mask=False)
        except CodecError:
            return reply[:-1]  # no honest encoder writes it: what arrives is damaged


@dataclass(frozen=True, slots=True)
class PoisoningRow:
    """One attack against one aggregate; accuracies by seed, on held-out digits after the last round."""

    aggregate: str
    attack: str  # "" where nobody is hostile
    share: float  # of the devices
    accuracies: list[float]
    refused: list[int]  # results, by seed

    @property
    def accuracy(self) -> float:
        return statistics.fmean(self.accuracies)


WEIGHT_SHARE = 0.35  # of one device: what a fleet of strangers' devices would set


def job(seed: int, method: str = "fedavg", **fleet: Any) -> RunSpec:
    """Ten devices, an even split, four rounds."""
    return RunSpec(
        name="poisoning",
        seed=seed,
        method={"name": method},
        model=ModelSettings("small_cnn", (1, 8, 8), 10),
        training=TrainingSettings(rounds=ROUNDS, batch=32, pretrain_epochs=5, learning_rate=0.01),
        data=DataSettings(source="digits", partition=PartitionSettings("iid", devices=DEVICES, seed=seed)),
        fleet=msgspec.convert({"weight_share": WEIGHT_SHARE, **fleet}, FleetSettings),
    )


def poisoned(spec: RunSpec, engine: Engine, attack: Attack | None, hostile: int) -> tuple[float, int]:
    """Accuracy after the last round, and how many results were refused, with so many hostile devices."""
    simulation = Simulation(spec, engine, evaluate=lambda finished: False)
    if attack is not None:
        for index in range(hostile):
            simulation.devices[index] = HostileDevice(simulation.devices[index].data, attack)
    while not simulation.finished:
        simulation.step()
    return simulation.evaluate().accuracy, sum(simulation.refusals.values())


AGGREGATES = ("mean", "clipped", "median", "trimmed", "krum", "multi-krum", "geometric-median")
SHARES = (0.1, 0.2, 0.3)
LEAST_RESULTS = 5  # fewer cannot be told apart by krum


def bench_poisoning(
    engine: Engine,
    aggregates: Sequence[str] = AGGREGATES,
    attacks: Sequence[str] = tuple(ATTACKS),
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = (0,),
    progress: Callable[[PoisoningRow], None] = lambda row: None,
) -> Iterable[PoisoningRow]:
    """Every aggregate: at first with nobody hostile, then with each attack by each share of the devices.

    Raises ``KeyError`` for an unknown attack.
    """
    cells = [("", 0.0), *((attack, share) for attack in attacks for share in shares)]
    for aggregate in aggregates:
        for attack, share in cells:
            fleet: dict[str, Any] = {
                "aggregate": aggregate,
                "min_results": 1 if aggregate == "mean" else LEAST_RESULTS,
            }
            change = ATTACKS[attack] if attack else None
            found = [poisoned(job(seed, **fleet), engine, change, round(share * DEVICES)) for seed in seeds]
            row = PoisoningRow(aggregate, attack, share, [a for a, _ in found], [refused for _, refused in found])
            progress(row)
            yield row

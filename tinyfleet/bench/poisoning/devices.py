"""Simulated fleets of which some devices are hostile. Those know the task and what every honest device sends."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tinyfleet.bench.poisoning.attacks import ATTACKS, FLIPPED, Attack, Scene
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.methods.parts.checks import MAX_SAMPLES
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.sparsity.mask import mask_digest
from tinyfleet.fedcore.training.engine import Engine
from tinyfleet.simulation import SimulatedDevice, Simulation

_MARK = 12345.671875  # stands for a number that no honest encoder writes


class OverheardDevice(SimulatedDevice):
    """An honest device whose reply hostile ones hear before it is sent."""

    def __init__(self, data: DeviceData) -> None:
        super().__init__(data)
        self._reply: bytes | None = None

    def overheard(self, blob: bytes, method: Method, engine: Engine, spec: RunSpec) -> bytes:
        """The reply to this step's task."""
        if self._reply is None:
            self._reply = super().run(blob, method, engine, spec)
        return self._reply

    def run(self, blob: bytes, method: Method, engine: Engine, spec: RunSpec) -> bytes:
        reply = self.overheard(blob, method, engine, spec)
        self._reply = None
        return reply


class HostileDevice(SimulatedDevice):
    """Sends what its attack makes of its own honest result and of those of all ``honest`` devices."""

    def __init__(self, data: DeviceData, attack: Attack, honest: Sequence[OverheardDevice], hostile: int) -> None:
        super().__init__(data)
        self._attack, self._honest, self._hostile = attack, honest, hostile

    @property
    def enrolled(self) -> int:
        """It lies about that, too."""
        return MAX_SAMPLES

    def run(self, blob: bytes, method: Method, engine: Engine, spec: RunSpec) -> bytes:
        held = self._held
        reply = super().run(blob, method, engine, spec)
        task = decode(blob, held=lambda digest: held[1] if held else None)
        known = {mask_digest(task.mask): task.mask} if task.mask else {}
        own = decode(reply, held=known.get)
        others = [d.overheard(blob, method, engine, spec) for d in self._honest]
        honest = [decode(other, held=known.get) for other in others]
        sent = self._attack(Scene(task, own, honest, self._hostile))
        return written(sent, send_mask=not task.mask or mask_digest(sent.mask) != mask_digest(task.mask))


def written(payload: Payload, *, send_mask: bool) -> bytes:
    """``payload`` as a blob, numbers that are not finite as they are: the codec would refuse to write them."""
    odd = {float(v) for values in payload.params.values() for v in np.unique(values[~np.isfinite(values)])[:1]}
    if not odd:
        return encode(payload, precision="fp32", send_mask=send_mask)
    marked = {name: np.where(np.isfinite(v), v, np.float32(_MARK)) for name, v in payload.params.items()}
    blob = encode(replace(payload, params=marked), precision="fp32", send_mask=send_mask, compress=False)
    return blob.replace(struct.pack("<f", _MARK), struct.pack("<f", odd.pop()))


def flipped(data: DeviceData) -> DeviceData:
    """Every label is the one counted from the other end."""

    def turned(part: Dataset) -> Dataset:
        return Dataset(part.x, part.classes - 1 - part.y, part.classes)

    return replace(data, train=turned(data.train), development=turned(data.development))


def fleet(spec: RunSpec, engine: Engine, attack: str, hostile: int) -> Simulation:
    """A simulation whose first ``hostile`` devices make ``attack``. Raises ``KeyError`` for an unknown one."""
    simulation = Simulation(spec, engine, evaluate=lambda finished: False)
    if not attack or not hostile:
        return simulation
    honest = [OverheardDevice(device.data) for device in simulation.devices[hostile:]]
    liars = [
        HostileDevice(flipped(d.data) if attack == FLIPPED else d.data, ATTACKS[attack], honest, hostile)
        for d in simulation.devices[:hostile]
    ]
    simulation.devices = [*liars, *honest]
    return simulation


def outcome(simulation: Simulation) -> tuple[float, int, int]:
    """Accuracy after the last round; how many results of hostile and of honest devices were refused."""
    while not simulation.finished:
        simulation.step()
    hostile = {device.data.name for device in simulation.devices if isinstance(device, HostileDevice)}
    refused = simulation.refusals
    of_hostile = sum(count for device, count in refused.items() if device in hostile)
    return simulation.evaluate().accuracy, of_hostile, sum(refused.values()) - of_hostile

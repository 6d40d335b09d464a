"""The four phases of a secure step: what devices say in them, and what they never do."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tests.fedcore.methods.secure_step import secure, spec_of
from tinyfleet.coordinator.step.aggregate import StepFold
from tinyfleet.fedcore.datasets.dataset import DeviceData
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.secure_sum.errors import SecureSumError
from tinyfleet.fedcore.training.registry import create
from tinyfleet.simulation import SimulatedDevice, Simulation


class Listening(SimulatedDevice):
    """Keeps what it was sent and what it answered."""

    def __init__(self, data: DeviceData) -> None:
        super().__init__(data)
        self.heard: list[tuple[bytes, bytes]] = []

    def run(self, blob: bytes, *job: Any) -> bytes:
        reply = super().run(blob, *job)
        self.heard.append((blob, reply))
        return reply


def listened_to(spec: RunSpec) -> Simulation:
    simulation = Simulation(spec, create(), evaluate=lambda finished: False)
    simulation.devices = [Listening(device.data) for device in simulation.devices]
    return simulation


def test_no_result_of_a_secure_run_says_anything_in_the_clear():
    simulation = listened_to(secure(spec_of("static")))
    while not simulation.finished:
        simulation.step()
    samples = {d.data.name: len(d.data.train) + len(d.data.development) for d in simulation.devices}
    for device in simulation.devices:
        assert len(device.heard) == 8
        for number, (_, reply) in enumerate(device.heard):
            result = decode(reply)
            assert not result.params
            assert not result.gradients
            assert result.meta.keys() == {"step", "samples", "device"}
            # What a device enrolled with is public; in all other phases the number says nothing.
            assert result.meta["samples"] == (samples[device.data.name] if number % 4 == 0 else 1)


def phase_by_phase(phases: int) -> tuple[Simulation, Listening]:
    simulation = listened_to(secure(spec_of("static")))
    for _ in range(phases):
        simulation.step()
    return simulation, simulation.devices[0]


def repeated(simulation: Simulation, device: Listening, change: Any) -> bytes:
    """The last task once more, as ``change`` leaves it: what a restarted coordinator may send, or a lying one."""
    task = decode(device.heard[-1][0], held=lambda digest: device._held[1])
    change(task)
    blob = encode(task, precision="fp32", send_mask=True)
    engine = simulation.engine if simulation.method.needs_engine(task) else None
    return device.run(blob, simulation.method, engine, simulation.spec)


@pytest.mark.parametrize("phases", [1, 2, 3, 4])
def test_a_repeated_task_is_answered_alike(phases):
    """Keys, shares, the vector, what is revealed: a result that was lost on the way is the same again."""
    simulation, device = phase_by_phase(phases)
    task = decode(device.heard[-1][0], held=lambda digest: device._held[1])
    assert simulation.method.needs_engine(task) == (phases == 3)  # a board loads none for the others
    before = decode(device.heard[-1][1]).raw
    assert decode(repeated(simulation, device, lambda task: None)).raw == before


def other_roster(task: Payload) -> None:
    roster = msgspec.json.decode(task.raw["roster"])
    roster["samples"] += 1
    task.raw["roster"] = msgspec.json.encode(roster)


def other_dealers(task: Payload) -> None:
    task.meta["exchange"]["dealt"] = task.meta["exchange"]["dealt"][:3]


def other_survivors(task: Payload) -> None:
    task.meta["exchange"]["names"] = task.meta["exchange"]["names"][:3]


def other_exchange(task: Payload) -> None:
    task.meta["exchange"]["exchange"]["step"] += 1


@pytest.mark.parametrize(
    ("phases", "change"),
    [
        (2, other_roster),
        (3, other_dealers),
        (4, other_dealers),
        (4, other_survivors),
        *((phases, other_exchange) for phases in (2, 3, 4)),
    ],
)
def test_a_device_keeps_to_what_it_once_took_for_true(phases, change):
    simulation, device = phase_by_phase(phases)
    with pytest.raises((ResultError, SecureSumError)):
        repeated(simulation, device, change)


def test_a_device_that_trained_otherwise_sends_no_second_vector():
    """Two vectors under the same masks would tell their difference."""
    simulation, device = phase_by_phase(3)

    def another_model(task: Payload) -> None:
        name = next(iter(task.params))
        task.params[name] = task.params[name] + np.float32(0.25) * (task.params[name] != 0)

    with pytest.raises(SecureSumError, match="another vector"):
        repeated(simulation, device, another_model)


def test_exchanges_that_fail_again_and_again_end_the_run():
    simulation = listened_to(secure(spec_of("static")))
    method, state = simulation.method, simulation.state
    for _ in range(7):
        state = method.finish_round(state, method.begin_fold(state))  # nobody has advertised
        assert state.meta["stage"] == "train: keys"
    with pytest.raises(SecureSumError, match="0 devices advertised"):
        method.finish_round(state, method.begin_fold(state))


def test_one_devices_message_is_not_anothers():
    simulation = listened_to(secure(spec_of("static")))
    task = simulation.method.configure_round(simulation.state)
    fold = StepFold(simulation.method, simulation.state, lambda digest: None, lambda: ())
    blob = encode(task, precision="fp32")
    replies = [d.run(blob, simulation.method, simulation.engine, simulation.spec) for d in simulation.devices]
    names = [device.data.name for device in simulation.devices]
    with pytest.raises(ResultError, match="sent a result of"):
        fold.add(0, names[1], replies[0])
    assert fold.add(0, names[0], replies[0])
    forged = decode(replies[1])
    forged.raw["advert"] = decode(replies[0]).raw["advert"]
    with pytest.raises(ResultError, match="sent a message of"):
        fold.add(0, names[1], encode(forged))

"""The sums that devices make are those that the plain fold makes, whatever method, step and precision."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.fedcore.methods.secure_step import secure_step
from tinyfleet.coordinator.step.aggregate import StepFold
from tinyfleet.demo.spec import demo_spec
from tinyfleet.fedcore.datasets.dataset import DeviceData
from tinyfleet.fedcore.errors import AggregationError, ConfigError, ResultError
from tinyfleet.fedcore.methods import registry
from tinyfleet.fedcore.methods.fedavg import FedAvg, Static
from tinyfleet.fedcore.methods.parts.checks import checked_samples
from tinyfleet.fedcore.methods.summing.combinations import check_secure_aggregation
from tinyfleet.fedcore.methods.summing.phases import taken_apart
from tinyfleet.fedcore.methods.summing.summands import fill, layout_of, terms_of
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.protocol.results import encode_result
from tinyfleet.fedcore.run_spec import (
    PrivacySettings,
    RunSpec,
    SecureAggregationSettings,
    ServerSettings,
    WireSettings,
)
from tinyfleet.fedcore.secure_sum.errors import OutOfReach, SecureSumError
from tinyfleet.fedcore.secure_sum.in_process import Losses
from tinyfleet.fedcore.training.registry import create
from tinyfleet.simulation import SimulatedDevice, Simulation

SUMMED = ("fedavg", "static", "snip", "synflow", "fl_pqsu", "fedtiny", "fedmef", "tinyfleet")
OTHERS = ("prunefl", "feddst", "lotteryfl", "fedrts")


def spec_of(method: str = "static", devices: int = 4, limit: int = 120, **changes: Any) -> RunSpec:
    spec = demo_spec(method, 2, 0.1, data="digits", limit=limit, agents=devices)
    fleet = msgspec.structs.replace(spec.fleet, norm_limit=0.0, influence_limit=0.0, min_results=3)
    training = msgspec.structs.replace(spec.training, pretrain_epochs=1)
    return msgspec.structs.replace(spec, fleet=fleet, training=training, **changes)


def secure(spec: RunSpec, **settings: Any) -> RunSpec:
    return msgspec.structs.replace(spec, secure_aggregation=SecureAggregationSettings(True, **settings))


def states(spec: RunSpec) -> list[bytes]:
    """The method's own state after each of its steps."""
    simulation, found = Simulation(spec, create(), evaluate=lambda finished: False), []
    while not simulation.finished:
        record = simulation.step()
        state = simulation.state
        if not spec.secure_aggregation.enabled:
            found.append(encode(state, precision="fp32"))
        elif record.stage.endswith(": unmask"):
            found.append(encode(taken_apart(state).inner, precision="fp32"))
    assert not simulation.refusals
    return found


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=() if name in ("static", "fedtiny") else pytest.mark.slow) for name in SUMMED],
)
def test_a_secure_run_is_the_plain_one_bit_for_bit(method):
    """Growing rounds and selection stages included: the demo's run adjusts its mask every round."""
    spec = spec_of(method)
    plain, summed = states(spec), states(secure(spec))
    assert len(plain) == (4 if method == "fedtiny" else 2)
    assert summed == plain


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_at_every_precision(precision):
    spec = spec_of("static", wire=WireSettings(precision))
    assert states(secure(spec, threshold=0.7)) == states(spec)


# -- one step -----------------------------------------------------------------------------


def step_of(method: str = "static", precision: str = "fp16"):
    """A method with its state, its task, and devices' results that are drawn and not trained."""
    spec = spec_of(method, wire=WireSettings(precision))
    simulation = Simulation(spec, create())
    return simulation.method, simulation.state, simulation.method.configure_round(simulation.state)


def drawn(task: Payload, device: int, scale: float = 0.1) -> Payload:
    rng = np.random.default_rng(device)
    params = {}
    for name, values in task.params.items():
        moved = values + scale * rng.standard_normal(values.shape, np.float32)
        params[name] = np.abs(moved) if name.endswith("running_var") else moved
        if name in task.mask:
            params[name] = np.where(task.mask[name], params[name], np.float32(0.0))
    return Payload({"step": task.meta["step"], "samples": 50 + device, "loss": 0.5 + device}, params, task.mask)


def plain(method, state, task, results, precision="fp16") -> bytes:
    fold = method.begin_fold(state)
    for result in results:
        blob = encode_result(result, task, WireSettings(precision), method.upload_precision)
        method.fold(fold, decode(blob, held=lambda digest: task.mask))
    return encode(method.finish_round(state, fold), precision="fp32")


@pytest.mark.parametrize(
    ("array", "value"),
    [
        ("running_var", 1e9),  # behind an empty filter: beyond fp16, and in the coarse sum
        ("running_mean", -7e4),
        ("running_var", 5000.0),
        ("weight", 300.0),
        ("bias", -4097.0),
    ],
)
@pytest.mark.parametrize("precision", ["fp16", "fp32", "int8"])
def test_values_beyond_a_sums_reach_make_it_wide(array, value, precision):
    method, state, task = step_of(precision=precision)
    results = {f"d{index}": drawn(task, index) for index in range(4)}
    name = next(name for name in task.params if name.endswith(array))
    where = np.flatnonzero(task.mask[name])[0] if name in task.mask else 0
    results["d1"].params[name].reshape(-1)[where] = value
    expected = plain(method, state, task, results.values(), precision)
    after, exchanged = secure_step(method, state, task, results, 1000, SecureAggregationSettings(True), os.urandom)
    assert encode(after, precision="fp32") == expected
    assert exchanged.vectors == 4 * layout_of(method.sum_stage(task), 1000, {name}).packed_bytes


@pytest.mark.parametrize("losses", [Losses(("d1",)), Losses((), ("d0",)), Losses((), (), ("d3",))])
def test_the_survivors_sum_is_theirs_alone(losses):
    method, state, task = step_of()
    results = {f"d{index}": drawn(task, index) for index in range(5)}
    after, exchanged = secure_step(
        method, state, task, results, 1000, SecureAggregationSettings(True), os.urandom, losses=losses
    )
    left = [results[name] for name in exchanged.survivors]
    assert len(left) == 5 - len(losses.dealing) - len(losses.masking)
    assert encode(after, precision="fp32") == plain(method, state, task, left)


def test_a_device_whose_own_check_fails_sends_nothing():
    method, state, task = step_of()
    results = {f"d{index}": drawn(task, index) for index in range(4)}
    results["d2"].meta["loss"] = float("nan")
    refused = {}
    after, exchanged = secure_step(
        method,
        state,
        task,
        results,
        1000,
        SecureAggregationSettings(True),
        os.urandom,
        refused=lambda device, reason: refused.update({device: reason}),
    )
    assert exchanged.survivors == ("d0", "d1", "d3")
    assert "finite" in refused["d2"]
    left = [results[name] for name in exchanged.survivors]
    assert encode(after, precision="fp32") == plain(method, state, task, left)


def test_growth_at_positions_of_their_own_is_summed():
    method, state, task = step_of("tinyfleet")
    state.meta["round"] = 1
    task = method.configure_round(state)
    assert task.meta["grow"]
    results = {f"d{index}": drawn(task, index) for index in range(4)}
    for index, result in enumerate(results.values()):
        rng = np.random.default_rng(index)
        for name, count in task.meta["grow"].items():
            pruned = np.flatnonzero(~task.mask[name])
            where = np.sort(rng.choice(pruned, count, replace=False))
            values = (10.0 ** rng.uniform(-8, 5, count)).astype(np.float32)  # beyond the limit, too
            result.gradients[name] = SparseVector(where, values)
    expected = plain(method, state, task, results.values())
    after, _ = secure_step(method, state, task, results, 1000, SecureAggregationSettings(True), os.urandom)
    assert encode(after, precision="fp32") == expected


# -- a device's own checks ------------------------------------------------------------------


def test_what_a_device_does_not_send():
    method, _, task = step_of()
    stage = method.sum_stage(task)
    good = drawn(task, 0)
    assert terms_of(stage, good, checked_samples(good), 1000)["samples"].tolist() == [50]
    with pytest.raises(ResultError, match="samples is 1001"):
        terms_of(stage, good, 1001, 1000)
    lacking = Payload(good.meta, dict(list(good.params.items())[1:]), good.mask)
    with pytest.raises(ResultError, match="other arrays"):
        terms_of(stage, lacking, 50, 1000)
    name = next(name for name in task.params if name.endswith("running_var"))
    good.params[name][0] = 1e9
    with pytest.raises(OutOfReach, match="beyond the reach") as raised:
        terms_of(stage, good, 50, 1000)
    assert raised.value.names == (name,)
    good.params[name][0] = 1e14
    with pytest.raises(AggregationError, match="overflows the sum over 1000 samples"):
        terms_of(stage, good, 50, 1000, {name})


def test_a_sum_of_no_samples_is_refused():
    method, state, task = step_of()
    stage = method.sum_stage(task)
    sums = terms_of(stage, drawn(task, 0), 50, 1000) | {"samples": np.array([-3])}
    with pytest.raises(ResultError, match="-3 samples"):
        fill(stage, method.begin_fold(state), sums, 3)


# -- which runs ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", OTHERS)
def test_methods_that_need_more_than_sums_are_refused_by_name(method):
    spec = secure(spec_of(method))
    made = registry.create(spec.method, registry.problem_of(spec))
    with pytest.raises(ConfigError, match=f"method {method} needs more"):
        check_secure_aggregation(spec, made)


@pytest.mark.parametrize("method", SUMMED)
def test_the_others_are_taken(method):
    spec = secure(spec_of(method))
    check_secure_aggregation(spec, registry.create(spec.method, registry.problem_of(spec)))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("aggregate", "median"),
        ("norm_limit", 10.0),
        ("influence_limit", 1.5),
        ("staleness", 1),
        ("selection", "capability"),
        ("min_results", 2),
    ],
)
def test_settings_that_need_single_results_are_refused_by_name(setting, value):
    spec = secure(spec_of())
    method = registry.create(spec.method, registry.problem_of(spec))
    odd = msgspec.structs.replace(spec, fleet=msgspec.structs.replace(spec.fleet, **{setting: value}))
    with pytest.raises(ConfigError, match=f"fleet.{setting}"):
        check_secure_aggregation(odd, method)
    check_secure_aggregation(msgspec.structs.replace(odd, secure_aggregation=SecureAggregationSettings()), method)


@pytest.mark.parametrize("mode", ["central", "local"])
def test_noise_is_not_added_to_what_is_masked(mode):
    spec = msgspec.structs.replace(secure(spec_of()), privacy=PrivacySettings(mode, noise=1.0))
    with pytest.raises(ConfigError, match=r"privacy\.mode"):
        check_secure_aggregation(spec, registry.create(spec.method, registry.problem_of(spec)))


def test_an_odd_number_of_neighbours_is_refused():
    spec = secure(spec_of(), neighbours=5)
    with pytest.raises(ConfigError, match="neighbours = 5 is odd"):
        check_secure_aggregation(spec, registry.create(spec.method, registry.problem_of(spec)))


def test_a_method_that_folds_otherwise_has_to_say_what_it_sums():
    class Otherwise(Static):
        def fold(self, fold: Any, result: Payload) -> None:
            super().fold(fold, result)

    class Both(Otherwise):
        def sum_stage(self, task: Payload) -> Any:
            return super().sum_stage(task)

    spec = secure(spec_of())
    problem = registry.problem_of(spec)
    with pytest.raises(ConfigError, match="needs more"):
        check_secure_aggregation(spec, Otherwise(Static.settings_type(), problem))
    check_secure_aggregation(spec, Both(Static.settings_type(), problem))
    check_secure_aggregation(spec, FedAvg(FedAvg.settings_type(), problem))


# -- the four phases ------------------------------------------------------------------------


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


def test_a_server_optimiser_has_its_turn_with_the_sum():
    spec = spec_of("static")
    training = msgspec.structs.replace(spec.training, server=ServerSettings("fedadam"))
    optimised = msgspec.structs.replace(spec, training=training)
    assert states(secure(optimised)) == states(optimised) != states(spec)

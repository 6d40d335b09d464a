"""The sums that devices make are those that the plain fold makes, whatever method, step and precision."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import pytest

from tests.fedcore.methods.secure_step import secure, secure_step, spec_of
from tinyfleet.fedcore.errors import AggregationError, ResultError
from tinyfleet.fedcore.methods.parts.checks import checked_samples
from tinyfleet.fedcore.methods.summing.phases import taken_apart
from tinyfleet.fedcore.methods.summing.summands import fill, layout_of, terms_of
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.protocol.results import encode_result
from tinyfleet.fedcore.run_spec import RunSpec, SecureAggregationSettings, ServerSettings, WireSettings
from tinyfleet.fedcore.secure_sum.errors import OutOfReach
from tinyfleet.fedcore.secure_sum.in_process import Losses
from tinyfleet.fedcore.training.registry import create
from tinyfleet.simulation import Simulation

SUMMED = ("fedavg", "static", "snip", "synflow", "fl_pqsu", "fedtiny", "fedmef", "tinyfleet")


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


def test_a_server_optimiser_has_its_turn_with_the_sum():
    spec = spec_of("static")
    training = msgspec.structs.replace(spec.training, server=ServerSettings("fedadam"))
    optimised = msgspec.structs.replace(spec, training=training)
    assert states(secure(optimised)) == states(optimised) != states(spec)

"""A result of an earlier step, under another mask: its weights count, what it found out about that mask is left."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fedcore.methods.problems import dataset, devices, problem, run_step
from tests.fedcore.training.engines import NAMES, new_engine
from tinyfleet.coordinator.step.aggregate import StepFold
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.methods.registry import create
from tinyfleet.fedcore.protocol.codec import encode
from tinyfleet.fedcore.run_spec import FleetSettings
from tinyfleet.fedcore.sparsity.mask import active_counts, mask_digest

ADJUSTED = {"density": 0.2, "interval": 1, "stop": 9}
GROWING = {
    "fedtiny": {"candidates": 1, **ADJUSTED},
    "fedmef": ADJUSTED,
    "tinyfleet": ADJUSTED,
    "fedrts": ADJUSTED,
    "prunefl": {"density": 0.2, "interval": 1},
}
OWN_MASKS = {"feddst": {"density": 0.2, "interval": 2, "stop": 9}}


@pytest.fixture(scope="module")
def engine():
    return new_engine(NAMES[0])


def two_steps(name, engine, settings):
    """(method, the state before an earlier step, the state before the present one)."""
    method = create({"name": name, **settings}, problem())
    first = method.initial_state(engine, dataset(96, 1))
    while first.meta["stage"] != "train" or first.meta["round"] < 1:
        first, _ = run_step(method, engine, first, devices())
    second, _ = run_step(method, engine, first, devices())
    return method, first, second


def folded(method, states, engine):
    """The present step's fold with two results of its own, and how to give it a late one of the earlier step."""
    first, second = states
    masks = {
        mask_digest(method.configure_round(state).mask): method.configure_round(state).mask for state in states
    }
    fold = StepFold(method, second, masks.get, lambda: (), FleetSettings(staleness=1))
    for state, chosen in ((second, devices()[:2]), (first, devices()[2:])):
        task = method.configure_round(state)
        for device in chosen:
            result = method.run(task, engine, device, Control())
            blob = encode(result, precision="fp32", send_mask=method.own_masks)
            yield fold, result, (state.meta["step"], device.name, blob)


@pytest.mark.parametrize("name", GROWING)
def test_the_weights_of_a_late_result_count_under_the_mask_that_has_grown(name, engine):
    method, first, second = two_steps(name, engine, GROWING[name])
    assert mask_digest(first.mask) != mask_digest(second.mask), "the mask was not adjusted: this shows nothing"
    results = []
    for fold, result, arguments in folded(method, (first, second), engine):
        assert fold.add(*arguments)
        results.append(result)
    after = fold.finish()
    assert fold.results == fold.admitted == 3
    assert after.meta["metrics"]["samples"] == sum(result.meta["samples"] for result in results)
    if name != "prunefl":  # which decides anew how many there are
        assert active_counts(after.mask) == active_counts(second.mask)
    # Where both masks and the next one are active, it is the mean of all three.
    weights = [result.meta["samples"] for result in results]
    for layer in second.mask:
        both = first.mask[layer] & second.mask[layer] & after.mask[layer]
        mean = np.average([result.params[layer][both] for result in results], axis=0, weights=weights)
        np.testing.assert_allclose(after.params[layer][both], mean, rtol=1e-4, atol=1e-6)


def test_what_a_late_result_found_out_about_its_mask_is_left(engine):
    method, first, second = two_steps("fedtiny", engine, GROWING["fedtiny"])
    *_, (fold, result, arguments) = folded(method, (first, second), engine)
    assert result.gradients
    before = {name: total._fine.copy() for name, total in fold._fold._gradients.items()}
    fold.add(*arguments)
    after = fold._fold._gradients
    assert all(np.array_equal(after[name]._fine, before[name]) for name in before)


def test_where_masks_are_the_devices_own_a_late_result_counts_as_it_is(engine):
    method, first, second = two_steps("feddst", engine, OWN_MASKS["feddst"])
    for fold, _, arguments in folded(method, (first, second), engine):
        assert fold.add(*arguments)
    assert fold.admitted == 3
    fold.finish()


def test_a_late_result_of_a_stage_without_weights_is_refused_with_the_reason(engine):
    method = create({"name": "fedtiny", **GROWING["fedtiny"], "candidates": 4}, problem())
    first = method.initial_state(engine, dataset(96, 1))
    second, _ = run_step(method, engine, first, devices())
    *present, (fold, _, late) = folded(method, (first, second), engine)
    for _, _, arguments in present:
        fold.add(*arguments)
    with pytest.raises(ResultError, match="late, and of a stage without weights"):
        fold.add(*late)
    assert fold.results == 2

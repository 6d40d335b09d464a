"""The judgement of a step's results: each by itself, each beside the others, whatever their order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.coordinator.toy import NO_DATA, create_toy, toy_spec
from tinyfleet.fedcore.cohort.admission import Judgement, judge
from tinyfleet.fedcore.cohort.measure import Measured, measure
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import FleetSettings

FLEET = FleetSettings()


def one(norm=1.0, samples=100, mean=0.0, variance=1.0, losses=(), rewound=0.0):
    means = {"norm.running_mean": np.full(4, mean, np.float32)}
    variances = {"norm.running_var": np.full(4, variance, np.float32)}
    return Measured(samples, {"w": norm}, {"w": 0.05}, {}, means, variances, tuple(losses), {}, rewound)


def cohort(odd, size=10, **common):
    """``size`` devices that are nearly alike, of which the last is ``odd``."""
    alike = {(0, f"d{i}"): one(norm=1.0 + 0.05 * i, **common) for i in range(size - 1)}
    return alike | {(0, "odd"): odd}


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (one(norm=130.0), "norm of its update"),
        (one(mean=1e3), "statistics"),
        (one(variance=1e9), "statistics"),
        (one(variance=0.0), "statistics"),
    ],
)
def test_one_that_is_far_from_the_others_is_refused_with_the_reason(odd, reason):
    judgement = judge(cohort(odd), FLEET)
    assert list(judgement.refused) == [(0, "odd")]
    assert reason in judgement.refused[0, "odd"]


def test_one_channel_that_is_far_off_is_cut_and_not_refused():
    """Behind a filter that is nearly empty it happens to honest devices."""
    odd = one()
    odd.variances["norm.running_var"] = np.array([1, 1, 1, 1e9], np.float32)
    wide = {key: one() for key in cohort(odd)} | {(0, "odd"): odd}
    for entry in wide.values():
        entry.means["wide.running_mean"] = np.zeros(1000, np.float32)
    judgement = judge(wide, FLEET)
    assert not judgement.refused
    assert judgement.limits[0, "odd"].centred["norm.running_var"] < 1e-9


def test_candidates_losses_are_compared_too():
    assert list(judge(cohort(one(losses=(2.0, 400.0)), losses=(2.0, 2.1)), FLEET).refused) == [(0, "odd")]


def test_ordinary_differences_are_admitted():
    judgement = judge(cohort(one(norm=1.3, samples=120, mean=0.01, variance=1.01)), FLEET)
    assert judgement == Judgement()


def test_more_samples_are_more_steps_and_may_move_as_much_farther():
    assert not judge(cohort(one(norm=500.0, samples=1000), size=3), FLEET).refused
    assert judge(cohort(one(norm=500.0, samples=100), size=3), FLEET).refused


def test_a_method_whose_devices_rewind_allows_the_way_back():
    assert not judge(cohort(one(norm=500.0, rewound=600.0), size=3), FLEET).refused


def test_of_two_none_is_the_odd_one_out():
    assert not judge(cohort(one(norm=400.0), size=2), FLEET).refused
    assert judge(cohort(one(norm=400.0), size=3), FLEET).refused


@pytest.mark.parametrize("size", [1, 2])
def test_without_a_cohort_an_update_that_buries_the_model_is_refused(size):
    ruinous = one(norm=501.0)  # of a model whose norm is 5
    judgement = judge(cohort(ruinous, size), FLEET)
    assert list(judgement.refused) == [(0, "odd")]
    assert judgement.refused[0, "odd"].endswith("is 501, that of the model 5: at most 500")
    assert not judge(cohort(one(norm=499.0), size), FLEET).refused
    assert not judge(cohort(one(norm=501.0, rewound=600.0), size), FLEET).refused


def test_limits_can_be_lifted():
    lifted = FleetSettings(norm_limit=0.0, influence_limit=0.0)
    assert judge(cohort(one(norm=1e6, samples=1 << 28)), lifted) == Judgement()


def test_the_order_of_arrival_changes_nothing():
    entries = cohort(one(norm=600.0, samples=1 << 20), size=5)
    found = {str(judge(dict(order), FLEET)) for order in itertools.permutations(entries.items())}
    assert len(found) == 1


# -- by itself --------------------------------------------------------------------------


@pytest.fixture
def task_and_result():
    method = create_toy(toy_spec())
    task = method.configure_round(method.initial_state(None, NO_DATA))
    return method, task, method.answer(task, "a")


def test_a_result_is_measured_against_its_task(task_and_result):
    method, task, result = task_and_result
    changed = [result.params[name] - task.params[name] for name in task.params]
    expected = np.sqrt(sum(np.square(values.astype(np.float64)).sum() for values in changed))
    measured = measure(method, task, result, enrolled=50)
    assert measured.norm == pytest.approx(expected, rel=1e-6)
    assert measured.samples == result.meta["samples"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"params": {"first.bias": np.full(40, np.nan, np.float32)}}, "not finite"),
        ({"params": {"first.bias": np.full(40, np.inf, np.float32)}}, "not finite"),
        ({"params": {"first.bias": np.zeros(3, np.float32)}}, "shape"),
        ({"mask": {"hidden.weight": np.ones((40, 40), np.bool_)}}, "another mask"),
        ({"meta": {"samples": 51}}, "enrolled with 50"),
        ({"meta": {"samples": 1 << 28}}, "enrolled with 50"),
        ({"meta": {"losses": [0.1, -1.0]}}, "never below 0"),
        ({"meta": {"losses": "low"}}, "not a list"),
        ({"meta": {"loss": -0.5}}, "not from 0 up"),
        ({"meta": {"accuracy": 1.5}}, "not from 0 to 1"),
        ({"meta": {"density": -0.5}}, "not from 0 to 1"),
    ],
)
def test_what_cannot_be_an_answer_is_refused(task_and_result, change, reason):
    method, task, result = task_and_result
    bad = Payload(
        result.meta | change.get("meta", {}),
        result.params | change.get("params", {}),
        change.get("mask", result.mask),
    )
    with pytest.raises(ResultError, match=reason):
        measure(method, task, bad, enrolled=50)


def test_values_without_a_mask_are_no_answer_to_a_task_with_one(task_and_result):
    method, task, result = task_and_result
    with pytest.raises(ResultError, match="another mask"):
        measure(method, task, Payload(result.meta, result.params))


def test_a_negative_variance_is_refused_wherever_it_travels():
    from tests.fedcore.methods.problems import problem

    method = create_toy(toy_spec())
    method.problem = problem()
    name = next(n for n in method.problem.graph.params if n.endswith("running_var"))
    spec = method.problem.graph.params[name]
    task = Payload({"step": 0})
    for label in (name, f"3/{name}"):
        result = Payload({"step": 0, "samples": 5}, {label: np.full(spec.shape, -1, np.float32)})
        with pytest.raises(ResultError, match="variance"):
            measure(method, task, result)

"""Robust aggregates against the formulas of their papers, in any order, and refused where they make no sense."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.coordinator.toy import NO_DATA, create_toy, toy_spec
from tests.coordinator.toy_fleet import Fleet
from tinyfleet.coordinator.step.aggregate import StepFold
from tinyfleet.fedcore.cohort.robust import _alike, check_aggregate, geometric_median, krum, median, trimmed_mean
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods import registry
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import FleetSettings, RunSpec

DEVICES = tuple(f"board-{index}" for index in range(5))
KINDS = ("clipped", "median", "trimmed", "krum", "multi-krum", "geometric-median")


@pytest.fixture
def method():
    return create_toy(toy_spec())


def setting(kind):
    return FleetSettings(aggregate=kind, min_results=5, hostile_share=0.2, norm_limit=0.0, influence_limit=0.0)


def aggregated(method, kind, order=DEVICES):
    """The state after one step, its task, and the honest answers by device."""
    state = method.initial_state(None, NO_DATA)
    task = method.configure_round(state)
    answers = {device: method.answer(task, device) for device in DEVICES}
    fold = StepFold(method, state, lambda digest: None, lambda: (), setting(kind))
    for device in order:
        fold.add(0, device, codec.encode(answers[device], precision="fp32"))
    return fold.finish(), task, answers


def stacked(answers, name):
    return np.stack([answers[device].params[name] for device in sorted(answers)]).astype(np.float64)


def reference(kind, task, answers):
    """By the formula, in double precision, over whole vectors."""
    names = sorted(task.params)
    points = np.concatenate([stacked(answers, name).reshape(5, -1) for name in names], axis=1)
    samples = np.array([answers[device].meta["samples"] for device in sorted(answers)], np.float64)
    if kind == "median":
        return np.median(points, axis=0)
    if kind == "trimmed":
        return np.sort(points, axis=0)[1:4].mean(axis=0)
    clipped = []
    if kind == "clipped":
        weights = np.minimum(samples, np.median(samples))  # none does more than the median one, array by array
        for name in names:
            moves = stacked(answers, name) - task.params[name]
            norms = np.array([np.linalg.norm(move) for move in moves])
            most = np.minimum(np.median(norms), np.median(weights * norms) / weights)
            factors = np.minimum(1.0, most / norms).reshape(5, *(1,) * (moves.ndim - 1))
            clipped.append(np.average(task.params[name] + factors * moves, axis=0, weights=weights).reshape(-1))
        return np.concatenate(clipped)
    if kind == "geometric-median":
        point = points.mean(axis=0)
        for _ in range(500):
            near = 1.0 / np.linalg.norm(points - point, axis=1)
            point = (near[:, None] * points).sum(axis=0) / near.sum()
        return point
    squares = np.square(points[:, None] - points[None]).sum(axis=2)
    scores = np.sort(squares, axis=1)[:, 1:3].sum(axis=1)  # of 5 with one hostile: the nearest two
    chosen = np.argsort(scores)[: 1 if kind == "krum" else 4]
    return np.average(points[chosen], axis=0, weights=samples[chosen])


@pytest.mark.parametrize("kind", KINDS)
def test_an_aggregate_is_what_its_formula_says(method, kind):
    state, task, answers = aggregated(method, kind)
    found = np.concatenate([state.params[name].reshape(-1) for name in sorted(task.params)])
    assert found == pytest.approx(reference(kind, task, answers), abs=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_arrival_changes_no_bit(method, kind):
    orders = list(itertools.permutations(DEVICES))[::17]
    assert len({codec.encode(aggregated(method, kind, order)[0], precision="fp32") for order in orders}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_live_fleet_comes_to_the_same_bits(tmp_path, method, kind):
    spec = toy_spec(rounds=1, aggregate=kind, min_results=5, hostile_share=0.2, norm_limit=0.0, influence_limit=0.0)
    fleet = Fleet(tmp_path, devices=5)
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    assert fleet.state_bytes(run) == codec.encode(aggregated(method, kind)[0], precision="fp32")
    fleet.service.close()


def test_krum_prefers_the_crowd_and_the_geometric_median_stays_with_it():
    crowd = [{"w": np.full(3, 0.1 * index, np.float32)} for index in range(5)]
    far = [{"w": np.full(3, 100.0, np.float32)}, {"w": np.full(3, 100.1, np.float32)}]
    assert set(krum([*far, *crowd], 2)[:5]) == {2, 3, 4, 5, 6}
    assert float(geometric_median([*far, *crowd])["w"].max()) < 0.5


def test_gradients_of_a_layer_become_their_centre_where_most_sent_them():
    def result(*entries):
        where, values = zip(*entries, strict=True)
        vector = SparseVector(np.array(where, np.int64), np.array(values, np.float32))
        return Payload({"samples": 1}, {"w": np.zeros(2, np.float32)}, {}, {"w": vector})

    cohort = [result((1, 2.0), (4, 1.0)), result((1, 4.0), (5, 1.0)), result((1, 3.0), (7, 1000.0))]
    for centre, expected in ((median, 3.0), (trimmed_mean, 3.0)):
        vector = _alike(cohort, 1, centre)[0].gradients["w"]
        assert len(vector.positions) == 2
        assert dict(zip(vector.positions.tolist(), vector.values.tolist(), strict=True))[1] == expected
        assert float(np.abs(vector.values).max()) == expected


@pytest.mark.parametrize(
    ("fleet", "name", "reason"),
    [
        (FleetSettings(aggregate="median"), "fedavg", "needs 3 results"),
        (FleetSettings(aggregate="krum", min_results=10, hostile_share=0.4), "fedavg", "needs 11 results"),
        (FleetSettings(aggregate="trimmed", min_results=5, cohort=4), "fedavg", "below fleet.min_results"),
        (FleetSettings(aggregate="trimmed", min_results=5), "feddst", "mask of its own"),
        (FleetSettings(aggregate="median", min_results=5), "lotteryfl", "mask of its own"),
    ],
)
def test_what_makes_no_sense_is_refused(fleet, name, reason):
    problem = registry.problem_of(RunSpec())
    with pytest.raises(ConfigError, match=reason):
        check_aggregate(fleet, registry.create({"name": name}, problem))


def test_the_plain_mean_suits_every_method():
    problem = registry.problem_of(RunSpec())
    for name in ("fedavg", "feddst", "lotteryfl"):
        check_aggregate(FleetSettings(), registry.create({"name": name}, problem))

"""Which results are left out for pointing away from all others, and that uneven honest ones are not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.coordinator.toy import NO_DATA, create_toy, toy_spec
from tinyfleet.coordinator.step.aggregate import StepFold
from tinyfleet.fedcore.cohort.direction import astray
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import FleetSettings

LAYER = "output.weight"  # 3 x 40, under no mask
METHOD = create_toy(toy_spec())
STATE = METHOD.initial_state(None, NO_DATA)
TASK = METHOD.configure_round(STATE)


def answer(device, update):
    """A result that moves one layer alone."""
    result = METHOD.answer(TASK, device)
    params = {name: values.copy() for name, values in TASK.params.items()}
    params[LAYER] += np.asarray(update, np.float32).reshape(params[LAYER].shape)
    return Payload(result.meta | {"samples": 30}, params, result.mask)


def along(count, spread=1.0, seed=0):
    """Updates of devices that agree by half, each with a part of its own."""
    common = np.random.default_rng(99).standard_normal(120)
    rng = np.random.default_rng(seed)
    return [0.01 * (common + spread * rng.standard_normal(120)) for _ in range(count)]


def found(updates, peers=0):
    entries = [((0, f"d{i}"), answer(f"d{i}", update)) for i, update in enumerate(updates)]
    return sorted(device for _, device in astray(METHOD, TASK, lambda: iter(entries), peers=peers))


def test_whoever_agrees_by_half_stays():
    assert found(along(10)) == []


def test_one_that_undoes_what_others_do_is_left_out():
    honest = along(9)
    assert found([*honest, -np.mean(honest, axis=0)]) == ["d9"]


@pytest.mark.parametrize("length", [1e-3, 1.0, 1.5])
def test_its_length_hides_nothing(length):
    honest = along(9)
    assert found([*honest, -length * honest[0]]) == ["d9"]


def test_several_that_hide_each_other_are_all_found():
    honest = along(7)
    against = [-one for one in along(3, seed=1)]
    assert found([*honest, *against]) == ["d7", "d8", "d9"]


def test_several_that_turn_the_sum_round_are_found_beside_single_results_alone():
    honest = along(7, spread=4.0)
    united = -4.0 * np.mean(honest, axis=0)  # as long as they are
    assert found([*honest, united, united, united]) != ["d7", "d8", "d9"]
    assert found([*honest, united, united, united], peers=32) == ["d7", "d8", "d9"]


@pytest.mark.parametrize("peers", [4, 9, 32])
def test_peers_are_a_part_of_all_where_there_are_many(peers):
    assert found([*along(9), -along(1)[0]], peers=peers) == ["d9"]
    assert found(along(10), peers=peers) == []


def test_across_is_not_against():
    honest = along(9)
    across = np.random.default_rng(9).standard_normal(120) * 0.01
    total = np.sum(honest, axis=0)
    across -= total * (across @ total - 1e-4) / (total @ total)
    assert found([*honest, across]) == []


def test_where_each_lacks_what_the_others_have_all_point_apart_and_all_stay():
    rng = np.random.default_rng(1)
    own = 0.01 * rng.standard_normal((10, 120))
    apart = list(own - own.mean(axis=0))  # each is the reverse of the sum of all others
    assert found(apart) == []
    assert found(apart, peers=32) == []
    assert found(list(own - 0.9 * own.mean(axis=0))) == []


def test_fewer_than_half_are_left_out_and_of_few_nobody():
    honest = along(5)
    assert len(found([*honest, *(-one for one in along(5, seed=1))])) < 5
    assert found([*honest[:3], -honest[0]]) == []


def test_where_nothing_moves_there_is_no_direction():
    assert found([np.zeros(120)] * 6) == []
    assert found([*along(6), np.zeros(120)]) == []


def test_results_without_updates_have_no_direction():
    entries = [((0, f"d{i}"), Payload({"samples": 30, "losses": [1.0, 2.0]})) for i in range(6)]
    assert astray(METHOD, TASK, lambda: iter(entries)) == frozenset()


# -- in a step --------------------------------------------------------------------------


def step(updates, order, fleet=None, *, restarted=False):
    """Bytes of the state after a step of these devices' updates, folded in this order."""
    blobs = {f"d{i}": codec.encode(answer(f"d{i}", one), precision="fp32") for i, one in updates.items()}
    stored = [(0, f"d{i}", blobs[f"d{i}"]) for i in order]
    fleet = fleet or FleetSettings(influence_limit=4.0)
    fold = StepFold(METHOD, STATE, lambda digest: None, lambda: stored if restarted else (), fleet)
    if not restarted:
        for entry in stored:
            fold.add(*entry)
    assert not fold.judgement.refused
    return codec.encode(fold.finish(), precision="fp32")


def test_the_step_is_that_of_all_others_in_any_order_and_after_a_restart():
    updates = dict(enumerate([*along(6), -0.9 * along(1)[0]]))
    without = step({i: updates[i] for i in range(6)}, range(6))
    for order in itertools.islice(itertools.permutations(range(7)), 0, 5040, 997):
        assert step(updates, order) == without
    assert step(updates, range(7), restarted=True) == without


@pytest.mark.parametrize("aggregate", ["median", "trimmed", "multi-krum"])
def test_robust_aggregates_do_without_it_too(aggregate):
    fleet = FleetSettings(influence_limit=4.0, aggregate=aggregate, min_results=5)
    updates = dict(enumerate([*along(8), -0.9 * along(1)[0]]))
    without = step({i: updates[i] for i in range(8)}, range(8), fleet)
    assert step(updates, range(9), fleet) == without


def test_without_a_limit_everything_counts():
    fleet = FleetSettings(influence_limit=0.0)
    updates = dict(enumerate([*along(6), -0.9 * along(1)[0]]))
    assert step(updates, range(7), fleet) != step({i: updates[i] for i in range(6)}, range(6), fleet)

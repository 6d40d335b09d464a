"""The live fold: idempotent, exact in any order, unharmed by what does not fit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.coordinator.toy import NO_DATA, ToyMethod, create_toy, toy_spec
from tinyfleet.coordinator.step.aggregate import StepFold
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import FleetSettings

DEVICES = ("a", "b", "c", "d")


class Fragile(ToyMethod):
    """Breaks its promise: changes the fold, then stumbles over a result without a loss."""

    def fold(self, fold, result):
        fold.arrays.add(result.params, 1000)
        result.meta["loss"]
        fold.arrays.add({name: -value for name, value in result.params.items()}, 1000)
        super().fold(fold, result)


@pytest.fixture
def method():
    return create_toy(toy_spec())


def blobs_of(method):
    state = method.initial_state(None, NO_DATA)
    task = method.configure_round(state)
    return state, {device: codec.encode(method.answer(task, device), precision="fp32") for device in DEVICES}


def finished(fold):
    return codec.encode(fold.finish(), precision="fp32")


def test_any_order_and_any_restart_give_the_same_bytes(method):
    state, blobs = blobs_of(method)
    outcomes = set()
    for order in itertools.permutations(DEVICES):
        for restart in range(3):
            stored = [(0, device, blobs[device]) for device in order[:restart]]
            fold = StepFold(method, state, lambda digest: None, lambda stored=stored: stored)
            assert fold.results == restart
            for device in order[restart:]:
                assert fold.add(0, device, blobs[device])
            outcomes.add(finished(fold))
    assert len(outcomes) == 1


def test_a_result_counts_once_per_step_and_device(method):
    state, blobs = blobs_of(method)
    fold = StepFold(method, state, lambda digest: None, lambda: ())
    assert fold.add(0, "a", blobs["a"])
    assert not fold.add(0, "a", blobs["b"])
    assert fold.results == 1


def test_a_result_under_an_unknown_mask_is_refused(method):
    state, _ = blobs_of(method)
    answer = method.answer(method.configure_round(state), "a")
    fold = StepFold(method, state, lambda digest: None, lambda: ())
    with pytest.raises(ResultError, match="cannot be decoded"):
        fold.add(0, "a", codec.encode(answer, precision="fp32", send_mask=False))
    assert fold.results == 0


@pytest.mark.parametrize("meta", [{}, {"step": 1}, {"step": "0"}, {"step": 0, "samples": 5}])
def test_a_refused_result_leaves_the_fold_as_it_was(method, meta):
    state, blobs = blobs_of(method)
    fragile = Fragile(method.settings, method.problem)
    kept = [(0, "a", blobs["a"])]
    fold = StepFold(fragile, state, lambda digest: None, lambda: kept)
    before = finished(fold)
    bad = Payload(meta, {name: np.ones(s.shape, np.float32) for name, s in method.problem.graph.params.items()})
    with pytest.raises(ResultError):
        fold.add(0, "b", codec.encode(bad, precision="fp32"))
    assert fold.results == 1
    assert finished(fold) == before
    assert fold.add(0, "b", blobs["b"])


# -- what counts ------------------------------------------------------------------------


def scaled(method, state, device, factor):
    """``device``'s update times ``factor``."""
    task = method.configure_round(state)
    answer = method.answer(task, device)
    params = {n: task.params[n] + np.float32(factor) * (v - task.params[n]) for n, v in answer.params.items()}
    return codec.encode(Payload(answer.meta, params, answer.mask), precision="fp32")


def test_an_excluded_result_leaves_the_state_of_the_others_whatever_the_order(method):
    state, blobs = blobs_of(method)
    honest = StepFold(method, state, lambda digest: None, lambda: ())
    for device in DEVICES:
        honest.add(0, device, blobs[device])
    hostile = blobs | {"x": scaled(method, state, "x", 1e5)}
    for kept in (0, 16 * 2**20):
        for order in itertools.permutations(hostile):
            stored = []
            fold = StepFold(method, state, lambda digest: None, lambda stored=stored: stored)
            fold._kept_bytes = 16 * 2**20 - kept  # without room, results are read from the disk again
            for device in order:
                assert fold.add(0, device, hostile[device])
                stored.append((0, device, hostile[device]))
            assert list(fold.judgement.refused) == [(0, "x")]
            assert (fold.results, fold.admitted) == (5, 4)
            assert finished(fold) == finished(honest)


def test_a_full_sum_refuses_none_that_comes_after(method):
    state, blobs = blobs_of(method)
    task = method.configure_round(state)
    huge = {name: np.full_like(v, 1e14) for name, v in task.params.items()}
    for name, active in task.mask.items():
        huge[name][~active] = 0.0
    greedy = codec.encode(Payload({"step": 0, "samples": 150, "loss": 0.5}, huge, task.mask), precision="fp32")
    outcomes = set()
    for order in itertools.permutations(("greedy", "greedier", "a", "b")):
        # Without a limit on norms, only the sum's own range is left.
        fleet = FleetSettings(norm_limit=0.0, influence_limit=0.0)
        fold = StepFold(method, state, lambda digest: None, lambda: (), fleet)
        for device in order:
            assert fold.add(0, device, blobs.get(device, greedy))
        assert {device for _, device in fold.judgement.refused} == {"greedy", "greedier"}
        outcomes.add(finished(fold))
    assert len(outcomes) == 1


def test_a_device_that_weighs_too_much_counts_with_less(method):
    state, _ = blobs_of(method)
    task = method.configure_round(state)
    answers = {device: method.answer(task, device) for device in (*DEVICES, "e")}
    answers["a"].meta["samples"] = 1 << 20
    fold = StepFold(method, state, lambda digest: None, lambda: (), FleetSettings())
    for device, answer in answers.items():
        fold.add(0, device, codec.encode(answer, precision="fp32"))
    samples = sorted(answer.meta["samples"] for answer in answers.values())
    weight = fold.judgement.limits[0, "a"].samples
    assert weight == int(1.5 * samples[2])
    assert fold.finish().meta["metrics"]["samples"] == sum(samples[:-1]) + weight

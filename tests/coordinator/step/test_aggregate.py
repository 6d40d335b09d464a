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

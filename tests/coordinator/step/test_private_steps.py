"""A step of a private run: what its fold takes, what it makes of it, and that no device decides over another."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.coordinator.toy import NO_DATA, create_toy, toy_spec
from tinyfleet.coordinator.step.aggregate import StepFold
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.privacy.admissible import admission_of
from tinyfleet.fedcore.privacy.noise import StepPrivacy
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import PrivacySettings, RunSpec

DEVICES = tuple(f"board-{index}" for index in range(5))
KEY = bytes(range(32))


@pytest.fixture
def method():
    return create_toy(toy_spec())


@pytest.fixture
def state(method):
    return method.initial_state(None, NO_DATA)


def fold_of(method, state, mode="central", stored=(), noise=0.1):
    settings = PrivacySettings(mode, 0.3, noise)
    fleet = admission_of(RunSpec(privacy=settings))
    key = KEY if mode == "central" else b""
    return StepFold(method, state, lambda digest: None, lambda: stored, fleet, StepPrivacy(settings, key))


def blob(result):
    return codec.encode(result, precision="fp32")


def answers(method, state):
    task = method.configure_round(state)
    return {device: method.answer(task, device) for device in DEVICES}


def finished(fold):
    return codec.encode(fold.finish(), precision="fp32")


def test_the_order_of_arrival_and_a_restart_change_no_bit(method, state):
    blobs = {device: blob(result) for device, result in answers(method, state).items()}
    found = set()
    for order in itertools.islice(itertools.permutations(DEVICES), 0, 120, 17):
        fold = fold_of(method, state)
        for device in order:
            fold.add(0, device, blobs[device])
        found.add(finished(fold))
    resumed = fold_of(method, state, stored=[(0, device, blobs[device]) for device in DEVICES[:3]])
    for device in DEVICES[3:]:
        resumed.add(0, device, blobs[device])
    found.add(finished(resumed))
    assert len(found) == 1


def test_looking_at_a_fold_does_not_change_what_it_comes_to(method, state):
    """The number of admitted results is asked for after each arrival."""
    fold, unseen = fold_of(method, state), fold_of(method, state)
    for device, result in answers(method, state).items():
        for one in (fold, unseen):
            one.add(0, device, blob(result))
        assert fold.admitted == fold.results
    assert finished(fold) == finished(fold) == finished(unseen)


@pytest.mark.parametrize("scale", [1e3, 1e15, 3e37])
def test_no_honest_result_is_refused_for_a_hostile_one(method, state, scale):
    """Which is refused alone for what it is, or cut to the clip like all others."""
    fold = fold_of(method, state)
    sent = answers(method, state)
    for device in DEVICES[:2]:
        hostile = {name: np.full_like(value, scale) for name, value in sent[device].params.items()}
        sent[device] = Payload(sent[device].meta, hostile, sent[device].mask)
    refused = []
    for device, result in sent.items():
        try:
            fold.add(0, device, blob(result))
        except ResultError:
            refused.append(device)
    assert set(refused) <= set(DEVICES[:2])
    assert not fold.judgement.refused
    task = method.configure_round(state)
    after = fold.finish()
    moved = sum(float(np.square(after.params[n] - task.params[n]).sum()) for n in task.params)
    size = sum(int(task.mask[n].sum()) if n in task.mask else v.size for n, v in task.params.items())
    assert np.sqrt(moved) < 0.3 + 1.2 * 0.1 * 0.3 * np.sqrt(size) / len(DEVICES[2:]), "a clip, and the noise"


def test_what_a_device_says_of_itself_changes_nothing(method, state):
    sent = answers(method, state)
    loud = {
        d: Payload(r.meta | {"samples": 49, "loss": -1e9, "more": "x"}, r.params, r.mask) for d, r in sent.items()
    }
    folds = []
    for results in (sent, loud):
        fold = fold_of(method, state)
        for device, result in results.items():
            fold.add(0, device, blob(result))
        folds.append(finished(fold))
    assert folds[0] == folds[1]


def test_a_step_tells_no_loss(method, state):
    for mode in ("central", "local"):
        fold = fold_of(method, state, mode)
        for device, result in answers(method, state).items():
            fold.add(0, device, blob(result))
        metrics = fold.finish().meta["metrics"]
        assert "loss" not in metrics
        assert metrics["samples"] == len(DEVICES)

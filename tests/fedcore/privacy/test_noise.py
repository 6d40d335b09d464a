"""The mean of clipped updates with noise, and what a device sends: sensitivity, distribution, repetition."""

from __future__ import annotations

import numpy as np
import pytest

from tests.coordinator.toy import NO_DATA, create_toy, toy_spec
from tests.fedcore.methods.problems import problem
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods import registry
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.privacy.clipping import BITS, StepBase
from tinyfleet.fedcore.privacy.noise import (
    LEAST_VARIANCE,
    DeviceNoise,
    noisy_mean,
    private_result,
    reduced,
    sound,
    untold,
)
from tinyfleet.fedcore.run_spec import PrivacySettings

KEY, OTHER = bytes(32), bytes(range(32))
HARDLY = 2.0**-BITS  # the least noise that there is: one unit
DEVICES = tuple(f"board-{index}" for index in range(6))


@pytest.fixture
def method():
    return create_toy(toy_spec())


@pytest.fixture
def task(method):
    return method.configure_round(method.initial_state(None, NO_DATA))


def terms(noise=1.0, clip=0.5, mode="central"):
    return PrivacySettings(mode, clip, noise)


def difference(params, task):
    return np.concatenate([(params[n] - task.params[n]).reshape(-1).astype(np.float64) for n in sorted(params)])


def mean_of(method, task, devices=DEVICES, key=KEY, **given):
    results = (method.answer(task, device) for device in devices)
    return noisy_mean(terms(**given), key, method, task, results)


# -- coordinator ------------------------------------------------------------------------


def test_without_noise_it_is_the_mean_of_the_clipped_updates(method, task):
    expected = 0.0
    for device in DEVICES:
        change = difference(method.answer(task, device).params, task)
        expected = expected + change * min(1.0, 0.2 / np.sqrt(np.square(change).sum()))
    found = difference(mean_of(method, task, noise=HARDLY, clip=0.2).params, task)
    assert np.allclose(found, expected / len(DEVICES), atol=1e-6)
    assert np.sqrt(np.square(found).sum()) > 0.05  # so the clip was less than the updates


def test_every_device_weighs_the_same_whatever_it_says(method, task):
    honest = [method.answer(task, device) for device in DEVICES]
    boasting = [Payload(r.meta | {"samples": 1 << 28}, r.params, r.mask) for r in honest]
    one, other = (noisy_mean(terms(), KEY, method, task, iter(results)) for results in (honest, boasting))
    assert all((one.params[name] == other.params[name]).all() for name in one.params)


def test_noise_is_of_the_clip_over_the_number_of_devices(method, task):
    quiet = difference(mean_of(method, task, noise=HARDLY).params, task)
    loud = difference(mean_of(method, task, noise=2.0).params, task)
    support = np.concatenate(
        [task.mask.get(n, np.ones(v.shape, np.bool_)).reshape(-1) for n, v in sorted(task.params.items())]
    )
    noise = (loud - quiet)[support] / (2.0 * 0.5 / len(DEVICES))
    assert not loud[~support].any(), "noise only where all devices have weights"
    assert abs(noise.mean()) < 4.5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1.0) < 4.5 * np.sqrt(2 / noise.size)


def test_the_order_of_results_changes_no_bit(method, task):
    one, other = mean_of(method, task), mean_of(method, task, DEVICES[::-1])
    assert all((one.params[name] == other.params[name]).all() for name in one.params)


def test_the_same_results_have_the_same_noise_and_others_another(method, task):
    """Were it the same noise, the difference of two releases would be a device's update, plain to see."""
    again = difference(mean_of(method, task).params, task)
    assert (again == difference(mean_of(method, task).params, task)).all()
    fewer = difference(mean_of(method, task, DEVICES[:-1]).params, task)
    left = again * len(DEVICES) - fewer * (len(DEVICES) - 1)
    assert np.std(left[left != 0]) > 0.5  # of two independent noises of 0.5 each: 0.7; of the update: below 0.05
    other_key = difference(mean_of(method, task, key=OTHER).params, task)
    assert np.std(other_key - again) > 0


def test_noise_of_another_step_is_another_noise(method, task):
    later = Payload(task.meta | {"step": 5}, task.params, task.mask)
    results = [method.answer(task, device) for device in DEVICES]
    one, other = (noisy_mean(terms(), KEY, method, t, iter(results)) for t in (task, later))
    assert any((one.params[name] != other.params[name]).any() for name in one.params)


def test_one_device_moves_the_sum_by_the_clip_at_most(method, task):
    """With and without any one, however hostile: exactly, in integers."""
    base = StepBase(task.params, task.mask)
    hostile = {name: np.full(value.shape, 3e38, np.float32) for name, value in task.params.items()}
    for params in (hostile, method.answer(task, "a").params, {n: -v for n, v in hostile.items()}):
        units = base.clipped(params, 0.5)
        assert sum(int(v) ** 2 for values in units.values() for v in values) <= (1 << BITS) ** 2


def test_without_a_result_there_is_no_mean(method, task):
    with pytest.raises(ResultError, match="no result"):
        noisy_mean(terms(), KEY, method, task, iter(()))


def test_what_is_no_update_is_taken_off_a_result(method, task):
    gradients = {"hidden.weight": SparseVector(np.array([0]), np.array([1.0], np.float32))}
    full = method.answer(task, "a")
    told = Payload(full.meta | {"accuracy": 0.9, "secret": 1}, full.params, full.mask, gradients)
    kept = reduced(told)
    assert kept.meta == {"step": 0, "samples": 1, "loss": 0.0}
    assert not kept.gradients


def test_the_state_has_no_loss_that_nobody_told():
    state = untold(Payload({"metrics": {"loss": 0.0, "samples": 3}}))
    assert state.meta == {"metrics": {"samples": 3}}


def test_noise_leaves_variances_that_are_ones():
    method = registry.create({"name": "fedavg"}, problem())
    name = next(n for n in method.problem.graph.params if n.endswith("running_var"))
    before = {name: np.array([4.0, 4.0], np.float32)}
    found = sound(method, before, {name: np.array([-1.0, 9.0], np.float32)})
    assert found[name].tolist() == pytest.approx([4.0 * LEAST_VARIANCE, 9.0])


# -- device -----------------------------------------------------------------------------


def sent(method, task, mode="local", noise=1.0, key=KEY, **given):
    released = DeviceNoise(key, **given)
    return private_result(terms(noise, mode=mode), method, task, method.answer(task, "a"), released)


def test_a_device_sends_its_clipped_update_and_nothing_else(method, task):
    result = sent(method, task, "central")
    assert result.meta == {"step": 0, "samples": 1}
    change = difference(result.params, task)
    honest = difference(method.answer(task, "a").params, task)
    assert np.allclose(change, honest * min(1.0, 0.5 / np.sqrt(np.square(honest).sum())), atol=1e-6)


def test_local_noise_is_of_the_clip_on_every_update(method, task):
    quiet, loud = (difference(sent(method, task, noise=noise).params, task) for noise in (HARDLY, 3.0))
    noise = (loud - quiet)[(loud - quiet) != 0] / (3.0 * 0.5)
    assert noise.size > 500
    assert abs(noise.mean()) < 4.5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1.0) < 4.5 * np.sqrt(2 / noise.size)


def test_a_repeated_task_sends_the_same_bits(method, task):
    one, other = sent(method, task), sent(method, task)
    assert all((one.params[name] == other.params[name]).all() for name in one.params)


def test_the_release_is_noted_before_there_is_noise(method, task):
    noted = []
    sent(method, task, release=lambda step, digest: noted.append((step, digest)))
    sent(method, task, release=lambda step, digest: noted.append((step, digest)))
    assert noted[0] == noted[1]
    assert noted[0][0] == 0

    def refuse(step, digest):
        raise ResultError("another update was released")

    with pytest.raises(ResultError, match="another update"):
        sent(method, task, release=refuse)


def test_a_run_without_privacy_sends_its_result_untouched(method, task):
    result = method.answer(task, "a")
    assert private_result(PrivacySettings(), method, task, result, None) is result

"""Runs without public data: inputs measured by the devices, exactly, and a random start; or a clear refusal."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tinyfleet.demo.spec import demo_spec
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData, Normalization
from tinyfleet.fedcore.errors import ConfigError, ResultError
from tinyfleet.fedcore.methods.method import normalization_of
from tinyfleet.fedcore.methods.own_normalization import InputFold, measured
from tinyfleet.fedcore.methods.registry import method_of, names
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.sparsity.mask import density
from tinyfleet.fedcore.training.registry import available, create
from tinyfleet.simulation import simulate

TASK = Payload({"step": 0, "stage": "input_statistics"})
NEEDS = {"snip": "choose synflow", "prunefl": "choose feddst"}

needs_engine = pytest.mark.skipif(not available(), reason="a run needs an engine")


def device(x, name="one"):
    y = np.zeros(len(x), np.int64)
    return DeviceData(name, Dataset(x[1:], y[1:], 2), Dataset(x[:1], y[:1], 2))


def images(seed, count, channels=3):
    return np.random.default_rng(seed).integers(0, 255, (count, channels, 5, 4), dtype=np.uint8)


def folded(*results, channels=3):
    fold = InputFold(channels)
    for result in results:
        fold.add(result)
    return fold.normalization()


def test_two_samples_by_hand():
    x = np.array([[[[0.0, 1.0]]], [[[2.0, 5.0]]]], np.float32)
    result = measured(TASK, device(x))
    assert (result.meta["sums"], result.meta["squares"]) == ([8.0], [30.0])
    assert (result.meta["samples"], result.meta["values"], result.meta["scale"]) == (2, 4, 1.0)
    found = folded(result, channels=1)
    assert (found.mean, found.std) == ((2.0,), (np.sqrt(30 / 4 - 4),))


def test_it_is_that_of_all_samples_together_in_any_order():
    parts = [images(seed, count) for seed, count in ((0, 7), (1, 40), (2, 13))]
    whole = Normalization.of(Dataset(np.concatenate(parts), np.zeros(60, np.int64), 2))
    results = [measured(TASK, device(part)) for part in parts]
    found = folded(*results)
    assert found.scale == whole.scale == 255.0
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(found.std, whole.std, rtol=1e-9)
    assert folded(*results[::-1]) == folded(results[1], results[2], results[0]) == found


def test_far_from_zero_nothing_is_lost_between_devices():
    parts = [np.full((3, 1, 2, 2), value, np.float32) for value in (1e6, 1e6 + 1)]
    found = folded(*(measured(TASK, device(part)) for part in parts), channels=1)
    assert found.mean == (1e6 + 0.5,)
    assert found.std == pytest.approx((0.5,))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sums": [1.0]}, "no list of 3 sums"),
        ({"sums": [1.0, 2.0, float("nan")]}, "not a finite number"),
        ({"sums": [1e300, 0.0, 0.0]}, "contradict"),
        ({"squares": [-1.0, 1.0, 1.0]}, "contradict"),
        ({"values": 1}, "1 values of 7 samples"),
        ({"values": True}, "not an integer"),
        ({"scale": 0.0}, "full scale 0"),
        ({"scale": 1.0}, "full scale is 1, that of the others 255"),
        ({"samples": 0}, "samples"),
    ],
)
def test_sums_that_are_none_are_refused_and_change_nothing(change, said):
    good = measured(TASK, device(images(0, 7)))
    fold = InputFold(3)
    fold.add(good)
    before = fold.normalization()
    with pytest.raises(ResultError, match=said):
        fold.add(Payload(good.meta | change))
    assert (fold.devices, fold.normalization()) == (1, before)


def without_public(method, rounds=3, **settings):
    spec = demo_spec("fedtiny", rounds, 0.05, data="digits", agents=3)
    data = msgspec.structs.replace(spec.data, public_fraction=0.0, limit=400)
    return msgspec.structs.replace(spec, method={"name": method, **settings}, data=data)


@needs_engine
@pytest.mark.parametrize("name", names())
def test_every_method_runs_without_public_data_or_says_what_to_do(name):
    if name in NEEDS:
        with pytest.raises(ConfigError, match=NEEDS[name]):
            method_of(without_public(name, pretrained=False))
        return
    records = []
    state = simulate(without_public(name, pretrained=False), create(), on_step=records.append)
    assert records[0].stage == "input_statistics"
    assert state.meta["round"] == 3
    found = normalization_of(state)
    assert found.scale == 255.0
    assert 0.2 < found.mean[0] < 0.4
    assert all(np.isfinite(value).all() for value in state.params.values())


def test_a_method_that_pre_trains_says_how_it_would_not():
    with pytest.raises(ConfigError, match=r"method.pretrained = false, or raise data.public_fraction"):
        method_of(without_public("fedavg"))


@needs_engine
def test_the_default_method_narrows_its_mask_to_the_density():
    records = []
    state = simulate(without_public("tinyfleet", rounds=6, density=0.05), create(), on_step=records.append)
    densities = [record.density for record in records[1:]]
    assert densities == sorted(densities, reverse=True)
    assert 0.05 < densities[0] < 0.2
    assert density(state.mask) == pytest.approx(0.05, abs=1e-4)
    assert densities[2:] == [densities[2]] * 4

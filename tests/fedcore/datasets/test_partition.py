from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfleet.fedcore.datasets import partition
from tinyfleet.fedcore.datasets.partition import device_data, partition_indices, public_data, split
from tinyfleet.fedcore.errors import ConfigError, DataError
from tinyfleet.fedcore.run_spec import MOST_COUNTED, DataSettings, PartitionSettings


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.sampled_from(["iid", "dirichlet"]), st.floats(0.3, 5.0), st.integers(0, 5))
def test_every_sample_goes_to_one_device(devices, kind, alpha, seed):
    labels = np.random.default_rng(seed).integers(0, 5, 400)
    asked = PartitionSettings(kind=kind, alpha=alpha, devices=devices, seed=seed)
    parts = partition_indices(labels, asked)
    assert len(parts) == devices
    assert sorted(np.concatenate(parts)) == list(range(400))
    assert min(map(len, parts)) >= partition.LEAST_SAMPLES
    again = partition_indices(labels, asked)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_a_small_alpha_is_less_balanced():
    labels = np.repeat(np.arange(10), 200)

    def skew(alpha):
        parts = partition_indices(labels, PartitionSettings(kind="dirichlet", alpha=alpha, devices=4))
        return np.mean([np.bincount(labels[p], minlength=10).max() / len(p) for p in parts])

    assert skew(0.3) > skew(100.0) + 0.05


def test_what_cannot_be_split_says_so():
    with pytest.raises(DataError, match="fewer devices"):
        partition_indices(np.zeros(30, np.int64), PartitionSettings(kind="dirichlet", devices=4))
    with pytest.raises(DataError, match="30 samples cannot be split over 2147483647 devices; take fewer"):
        partition_indices(np.zeros(30, np.int64), PartitionSettings(kind="iid", devices=MOST_COUNTED))


@given(st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 300), st.booleans())
def test_test_public_and_pool_never_overlap(test, public, limit, own_test):
    labels = np.random.default_rng(0).integers(0, 4, 200)
    asked = DataSettings(test_fraction=test, public_fraction=public, limit=limit)
    parts = split(labels, asked, own_test)
    everything = np.concatenate(parts)
    assert len(np.unique(everything)) == len(everything)
    if own_test:
        assert not len(parts.test)
    if not limit or limit >= 200:
        assert len(everything) == 200


@pytest.fixture
def source(tmp_path):
    """600 samples that carry their own number."""
    x = np.arange(600, dtype=np.float32).reshape(-1, 1, 1, 1)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(600) % 6)
    return f"arrays:{tmp_path / 'data.npz'}"


def numbers(data):
    return {int(v) for v in data.x.reshape(-1)}


def test_devices_public_and_test_data_are_disjoint_and_whole(source):
    asked = DataSettings(source=source, partition=PartitionSettings(kind="dirichlet", devices=3))
    parts = [numbers(public_data(asked)), numbers(partition.test_data(asked))]
    for index in range(3):
        own = device_data(asked, index, f"agent-{index}")
        assert len(own.development) == pytest.approx(0.1 * (len(own.train) + len(own.development)), abs=1)
        parts += [numbers(own.train), numbers(own.development)]
    assert sum(map(len, parts)) == 600
    assert set().union(*parts) == set(range(600))


def test_the_test_data_does_not_depend_on_the_run(source):
    first = DataSettings(source=source, partition=PartitionSettings(kind="iid", devices=3, seed=1))
    second = DataSettings(source=source, partition=PartitionSettings(kind="dirichlet", devices=2, seed=9))
    assert numbers(partition.test_data(first)) == numbers(partition.test_data(second))


def test_the_development_set_depends_on_the_device_s_name_alone(source):
    asked = DataSettings(source=source)
    first, again, other = (device_data(asked, 0, name) for name in ("a", "a", "b"))
    assert numbers(first.development) == numbers(again.development) != numbers(other.development)


def test_an_index_outside_the_partition_is_refused(source):
    with pytest.raises(ConfigError, match="devices 0 to 0"):
        device_data(DataSettings(source=source), 1, "a")

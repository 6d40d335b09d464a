from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.fedcore.datasets.dataset import Dataset, Normalization, batches

PLAIN = Normalization((0.0,), (1.0,), 1.0)


@given(st.integers(1, 70), st.integers(1, 20), st.booleans())
def test_every_sample_comes_once_and_no_batch_has_one_sample_but_need(size, batch, shuffled):
    data = Dataset(np.arange(size, dtype=np.float32).reshape(-1, 1, 1, 1), np.arange(size), size)
    rng = np.random.default_rng(0) if shuffled else None
    parts = list(batches(data, batch, PLAIN, rng))
    seen = np.concatenate([y for _, y in parts])
    assert sorted(seen) == list(range(size))
    assert all(np.array_equal(x.reshape(-1), y) for x, y in parts)
    if size > 1 and batch > 1:
        assert min(len(y) for _, y in parts) > 1, "batch norm has no variance over one sample"


def test_normalisation_is_measured_per_channel():
    rng = np.random.default_rng(0)
    images = Dataset(rng.integers(0, 256, (50, 3, 8, 8), dtype=np.uint8), np.zeros(50, np.int64), 2)
    normalised = Normalization.of(images)(images.x)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std(axis=(0, 2, 3)), 1, atol=1e-4)

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.fedcore.sparsity.mask import largest
from tinyfleet.fedcore.sparsity.topk import StreamingTopK


@given(
    st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.25, 1.0, 3.0, 7.5]), max_size=80),
    st.integers(0, 20),
    st.integers(1, 17),
    st.randoms(use_true_random=False),
)
def test_streaming_equals_sorting_everything_in_any_order_of_tiles(stream, count, tile, random):
    values = np.array(stream, np.float32)
    positions = np.arange(len(values)) * 3 + 1
    starts = list(range(0, len(values), tile))
    random.shuffle(starts)
    top = StreamingTopK(count)
    for start in starts:
        top.push(positions[start : start + tile], values[start : start + tile])
    result = top.result()
    expected = largest(values, positions, count)
    assert np.array_equal(result.positions, expected)
    assert np.array_equal(result.values, values[(expected - 1) // 3])


def test_the_buffer_stays_within_twice_k():
    rng = np.random.default_rng(0)
    top = StreamingTopK(100)
    for start in range(0, 100_000, 5_000):
        top.push(np.arange(start, start + 5_000), rng.standard_normal(5_000, np.float32))
        assert len(top._positions) <= 200
    assert len(top.result().positions) == 100

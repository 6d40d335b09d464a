from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.fedcore.secure_sum.errors import OutOfReach, SecureSumError
from tinyfleet.fedcore.secure_sum.ring import Layout, Segment
from tinyfleet.fedcore.secure_sum.stream import add_stream


@given(
    bits=st.integers(2, 64),
    size=st.integers(0, 70),
    shift=st.integers(0, 8),
    seed=st.integers(0, 2**32),
    devices=st.integers(1, 5),
)
def test_a_masked_sum_is_the_sum(bits, size, shift, seed, devices):
    """Packed, unpacked, added, masks off: exact up to the ends of the range, whatever the width."""
    layout = Layout((Segment("a", size, bits, shift), Segment("b", 3, 64)))
    rng = np.random.default_rng(seed)
    most = ((1 << (min(bits + shift, 63) - 1)) - 1 >> shift) // devices
    total = np.zeros(layout.size, np.uint64)
    plain = {"a": np.zeros(size, np.int64), "b": np.zeros(3, np.int64)}
    for device in range(devices):
        terms = {
            "a": rng.integers(-most, most, size, np.int64, endpoint=True) << shift,
            "b": rng.integers(-(2**60), 2**60, 3, np.int64),
        }
        words = layout.words(terms)
        add_stream(words, bytes([device]) * 32)
        packed = layout.pack(words)
        assert len(packed) == layout.packed_bytes
        total += layout.unpack(packed)
        plain = {name: plain[name] + terms[name] for name in plain}
    for device in range(devices):
        add_stream(total, bytes([device]) * 32, subtract=True)
    for name, values in layout.integers(total).items():
        assert (values == plain[name]).all()


def test_blocks_join_at_whole_bytes():
    layout = Layout((Segment("a", (1 << 16) + 3, 13), Segment("b", 1, 5)))
    values = np.random.default_rng(0).integers(-4096, 4096, (1 << 16) + 3, np.int64)
    words = layout.words({"a": values, "b": np.array([-16])})
    found = layout.integers(layout.unpack(layout.pack(words)))
    assert (found["a"] == values).all()
    assert found["b"] == -16


@pytest.mark.parametrize("value", [128, -129])
def test_a_term_beyond_its_segment_is_refused(value):
    with pytest.raises(OutOfReach, match="beyond its segment of 8 bits"):
        Layout((Segment("a", 1, 8),)).words({"a": np.array([value])})


def test_a_term_that_is_too_fine_is_refused():
    with pytest.raises(OutOfReach, match="finer"):
        Layout((Segment("a", 1, 8, shift=4),)).words({"a": np.array([24])})


@pytest.mark.parametrize("change", [-1, 1, 1 << 20])
def test_another_size_is_refused_before_it_is_unpacked(change):
    layout = Layout((Segment("a", 1000, 11),))
    with pytest.raises(SecureSumError, match="this exchange's has 1375"):
        layout.unpack(bytes(max(0, 1375 + change)))

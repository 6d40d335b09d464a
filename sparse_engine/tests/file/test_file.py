"""Model files: what is written comes back, and nothing else is taken for one."""

from __future__ import annotations

import contextlib
import copy
import json
import tracemalloc
import zlib

import numpy as np
import pytest
from checks import masks, numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from structures import BRANCH, DOWN, SHORTCUT, STEM, add, flatten, linear, whole

from sparse_engine import Layer, Model, ModelError, Op
from sparse_engine.file.sections import FAR, decode_positions, encode_positions
from sparse_engine.file.stored_model import END, START, dump, load_bytes, read

MODEL = whole(*STEM, *DOWN, *SHORTCUT, add("sum", "y", "z"))
NORMALISED = Model(
    (3, 20),
    (
        Layer("c", Op.CONV, ("input",), 3, 4, (5,), (2,), (1,), bias=True, weight_norm="active"),
        Layer("a", Op.HARD_SWISH, ("c",), gain=1.7),
        flatten("a"),
        linear("out", "flat", 36, 3),
    ),
)


def example(model=MODEL, density=0.3, seed=1):
    rng = np.random.default_rng(seed)
    params, mask = numbers(model, rng), masks(model, rng, density)
    return {n: v * mask[n] if n in mask else v for n, v in params.items()}, mask


def parts(content):
    """Header as JSON, and sections."""
    end = START.size + START.unpack(content[: START.size])[2]
    return json.loads(content[START.size : end]), content[end : -END.size]


def sealed(document, sections):
    header = document if isinstance(document, bytes) else json.dumps(document).encode()
    content = START.pack(b"TFSE", 1, len(header)) + header + sections
    return content + END.pack(zlib.crc32(content))


@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("model", [MODEL, NORMALISED, whole(*STEM, *BRANCH)], ids=["down", "1d", "branch"])
def test_it_comes_back(model, density, tmp_path):
    params, mask = example(model, density)
    content = dump(model, params, mask, metadata={"model": "example"})
    path = tmp_path / "model.tfse"
    path.write_bytes(content)
    for stored in (load_bytes(content), read(path)):
        assert stored.model == model
        assert stored.metadata == {"model": "example"}
        assert stored.arrays.keys() == params.keys()
        for name, value in params.items():
            np.testing.assert_array_equal(stored.arrays[name].dense(), value)
            kept = mask[name] if name in mask else np.ones(value.shape, np.bool_)
            np.testing.assert_array_equal(stored.arrays[name].positions, np.flatnonzero(kept))


def test_half_precision_is_of_weights_only():
    params, mask = example()
    stored = load_bytes(dump(MODEL, params, mask, "fp16"))
    for name, value in params.items():
        expected = value.astype(np.float16).astype(np.float32) if name in mask else value
        np.testing.assert_array_equal(stored.arrays[name].dense(), expected)
    assert len(dump(MODEL, params, mask, "fp16")) < len(dump(MODEL, params, mask))


def test_without_a_mask_zeros_are_left_out():
    params, _ = example()
    params["stem.weight"][:] = 0
    params["stem.weight"][1, 1, 2, 0] = 3
    (position,) = load_bytes(dump(MODEL, params)).arrays["stem.weight"].positions
    assert position == np.ravel_multi_index((1, 1, 2, 0), (4, 2, 3, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("stem.weight"), "stem.weight is to have shape"),
        (lambda p: p.update({"stem.weight": np.zeros((1, 2), np.float32)}), "stem.weight is to have shape"),
        (lambda p: p["head.bias"].fill(np.nan), "head.bias holds a number that is not finite"),
        (lambda p: p["stem.weight"].fill(1e5), "too large for fp16; write fp32"),
    ],
)
def test_what_cannot_be_written(change, message):
    params, _ = example()
    change(params)
    with pytest.raises(ModelError, match=message):
        dump(MODEL, params, precision="fp16")
    with pytest.raises(ModelError, match="let a vector of classes be its last"):
        dump(Model((2, 4, 4), STEM[:1]), params)


@settings(deadline=None, database=None, derandomize=True)
@given(st.integers(1, 3000), st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.2, 0.9, 1.0]), st.integers(0, 99))
def test_positions(size, density, seed):
    positions = np.flatnonzero(np.random.default_rng(seed).random(size) < density)
    kind, coded = encode_positions(positions, size)
    assert len(coded) <= -(-size // 8)
    found = decode_positions(kind, np.frombuffer(coded, np.uint8), len(positions), size, "x")
    np.testing.assert_array_equal(found, positions)


def test_gaps_by_hand():
    assert encode_positions(np.array([0, 1, 300, 5000]), 10_000) == (
        "gaps",
        bytes([0, 0, FAR, 43, *[FAR] * 18, 109]),
    )
    assert 1 + 1 + FAR + 43 == 300
    assert 301 + 18 * FAR + 109 == 5000
    assert encode_positions(np.array([0, 9]), 12) == ("gaps", bytes([0, 8]))
    assert encode_positions(np.array([0, 1, 9]), 12) == ("bitmap", bytes([0b11, 0b10]))


@pytest.mark.parametrize(
    ("kind", "coded", "count"),
    [("gaps", [0, 5], 1), ("gaps", [0, FAR], 1), ("gaps", [20], 1), ("bitmap", [1, 2], 1), ("bitmap", [0, 128], 1),
     ("bitmap", [3, 0], 3), ("whole", [], 11)],
)  # fmt: skip
def test_positions_that_are_not_there(kind, coded, count):
    with pytest.raises(ModelError, match="damaged model file: array 'x' has"):
        decode_positions(kind, np.array(coded, np.uint8), count, 12, "x")


def test_every_truncation_and_every_flipped_byte_is_refused():
    content = dump(MODEL, *example())
    for length in range(len(content)):
        with pytest.raises(ModelError):
            load_bytes(content[:length])
    with pytest.raises(ModelError, match="checksum"):
        load_bytes(content + b"\0")
    for index in range(len(content)):
        broken = bytearray(content)
        broken[index] ^= 1 << index % 8
        with pytest.raises(ModelError):
            load_bytes(bytes(broken))


@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_forged_checksum_lets_no_other_error_out(changes):
    content = dump(MODEL, *example())[: -END.size]
    broken = bytearray(content)
    for place, value in changes:
        broken[int(place * len(broken))] = value
    forged = bytes(broken) + END.pack(zlib.crc32(broken))
    try:
        stored = load_bytes(forged)
    except ModelError:
        return
    for array in stored.arrays.values():
        assert (np.diff(array.positions) > 0).all()
        assert len(array.positions) == len(array.values)
        assert not len(array.positions) or array.positions[-1] < np.prod(array.shape)


ABSURD = [0, -1, 1.5, True, None, "3", 2**31, 2**62, 10**30, [], {}, [2**20] * 4, "x" * 300]


def places(value, path=()):
    """Paths of all values of a document."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


@pytest.mark.parametrize("absurd", ABSURD, ids=lambda value: repr(value)[:20])
def test_absurd_headers_are_refused_without_memory(absurd):
    document, sections = parts(dump(NORMALISED, *example(NORMALISED)))
    tracemalloc.start()
    for path in places(document):
        changed = copy.deepcopy(document)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        if path:
            holder[path[-1]] = absurd
        else:
            changed = absurd
        with contextlib.suppress(ModelError):  # metadata may be anything, a gain another one
            load_bytes(sealed(changed, sections))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"input_shape": NaN}', b"1" * 5000],
    ids=["empty", "open", "deep", "no UTF-8", "NaN", "long number"],
)
def test_headers_that_are_no_json(header):
    with pytest.raises(ModelError, match="damaged model file"):
        load_bytes(sealed(header, b""))


@pytest.mark.parametrize("key", ["layers", "arrays"])
def test_missing_and_repeated_rows(key):
    document, sections = parts(dump(MODEL, *example()))
    for rows in (document[key][1:], document[key][:-1], [*document[key], document[key][0]], document[key][::-1]):
        with pytest.raises(ModelError, match="damaged model file"):
            load_bytes(sealed(document | {key: rows}, sections))


def test_other_files_are_told_apart(tmp_path):
    path = tmp_path / "model.tfse"
    for content in (b"", b"TFL3" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="not a model file of the sparse engine"):
            read(path)
    path.write_bytes(START.pack(b"TFSE", 2, 0) + bytes(100))
    with pytest.raises(ModelError, match="version 2, and this engine reads 1"):
        read(path)

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinyfleet.fedcore.errors import CodecError, ConfigError, UnknownMask
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.protocol import positions as coded
from tinyfleet.fedcore.protocol.codec import decode, encode, mask_ref, quantise
from tinyfleet.fedcore.sparsity.allocation import uniform_counts
from tinyfleet.fedcore.sparsity.mask import apply_mask, mask_digest, random_mask

shapes = st.lists(st.integers(1, 6), min_size=0, max_size=4).map(tuple)
finite = st.floats(-1e4, 1e4, width=32)


@st.composite
def payloads(draw):
    params, mask, gradients = {}, {}, {}
    for name in draw(st.lists(st.sampled_from(["a.weight", "b.weight", "n.bias", "é"]), unique=True)):
        shape = draw(shapes)
        params[name] = draw(hnp.arrays(np.float32, shape, elements=finite))
        if draw(st.booleans()):
            mask[name] = draw(hnp.arrays(np.bool_, shape))
            if shape:
                where = np.flatnonzero(~mask[name])
                values = draw(hnp.arrays(np.float32, len(where), elements=finite))
                gradients[name] = SparseVector(where, values)
    apply_mask(params, {name: active for name, active in mask.items() if active.ndim})
    mask = {name: active for name, active in mask.items() if active.ndim}
    meta = draw(st.dictionaries(st.text(max_size=5), st.integers(-5, 5) | st.text(max_size=5), max_size=3))
    raw = draw(st.dictionaries(st.sampled_from(["x", "y"]), st.binary(max_size=200)))
    return Payload(meta, params, mask, gradients, raw)


def assert_equal(a: Payload, b: Payload) -> None:
    assert a.meta == b.meta
    assert a.params.keys() == b.params.keys()
    assert a.mask.keys() == b.mask.keys()
    assert a.gradients.keys() == b.gradients.keys()
    assert a.raw == b.raw
    for name in a.params:
        assert a.params[name].shape == b.params[name].shape
        assert np.array_equal(a.params[name], b.params[name]), name
    for name in a.mask:
        assert np.array_equal(a.mask[name], b.mask[name])


@given(payloads(), st.booleans())
def test_fp32_loses_nothing(payload, compress):
    decoded = decode(encode(payload, precision="fp32", compress=compress))
    assert_equal(payload, decoded)
    for name, vector in payload.gradients.items():
        assert np.array_equal(vector.positions, decoded.gradients[name].positions)
        assert np.array_equal(vector.values, decoded.gradients[name].values)


@given(payloads(), st.sampled_from(["fp16", "int8"]))
def test_what_arrives_stays_as_it_is_however_often_it_travels(payload, precision):
    first = decode(encode(payload, precision=precision))
    assert_equal(first, decode(encode(first, precision=precision)))
    for name, vector in payload.gradients.items():
        assert np.array_equal(vector.positions, first.gradients[name].positions)
        peak = np.abs(vector.values).max(initial=0)
        np.testing.assert_allclose(
            first.gradients[name].values, vector.values, atol=peak * 2**-11 + 2.0**-100
        )  # below: too little to be scaled up, and to train by


@given(payloads(), st.sampled_from(["fp32", "fp16", "int8"]))
def test_quantise_is_what_the_other_side_decodes(payload, precision):
    payload.mask = {}
    decoded = decode(encode(payload, precision=precision))
    expected = quantise(payload.params, precision)
    assert all(np.array_equal(expected[name], decoded.params[name]) for name in expected)


@given(payloads(), st.sampled_from(["fp32", "fp16"]))
def test_a_held_mask_need_not_travel(payload, precision):
    digest = mask_digest(payload.mask)
    blob = encode(payload, precision=precision, send_mask=False)
    decoded = decode(blob, held=lambda asked: payload.mask if asked == digest else None)
    assert_equal(decode(encode(payload, precision=precision)), decoded)
    assert mask_ref(blob) == (digest if payload.mask else None)
    if payload.mask:
        with pytest.raises(UnknownMask) as caught:
            decode(blob)
        assert caught.value.digest == digest


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(payloads(), st.booleans(), st.data())
def test_a_damaged_blob_gives_a_codec_error_or_a_payload_and_nothing_else(payload, compress, data):
    blob = bytearray(encode(payload, compress=compress))
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "splice", "header"]))
    if kind == "flip":
        for _ in range(data.draw(st.integers(1, 4))):
            blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        del blob[data.draw(st.integers(0, len(blob) - 1)) :]
    elif kind == "grow":
        blob += data.draw(st.binary(min_size=1, max_size=80))
    elif kind == "splice":
        start = data.draw(st.integers(0, len(blob) - 1))
        del blob[start : start + data.draw(st.integers(1, 70))]
    else:
        text = bytes(blob)
        for digit in data.draw(st.lists(st.sampled_from(b"0123456789"), min_size=1, max_size=3)):
            text = text.replace(bytes([digit]), b"9" * data.draw(st.sampled_from([1, 1, 9])))
        blob = bytearray(text)
    try:
        decoded = decode(bytes(blob), max_decoded_bytes=1 << 20)
    except CodecError:
        return
    assert all(np.isfinite(array).all() for array in decoded.params.values())
    assert all(np.isfinite(vector.values).all() for vector in decoded.gradients.values())


def lie(blob: bytes, old: bytes, new: bytes) -> bytes:
    assert old in blob
    length = int.from_bytes(blob[4:8], "little") + len(new) - len(old)
    return blob[:4] + length.to_bytes(4, "little") + blob[8:].replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"shape":[64,8]', b'"shape":[64,800000000]'),
        (b'"body":2048', b'"body":17179869184'),
        (b'"kind":"fp32"', b'"kind":"fp16"'),
        (b'"kind":"fp32"', b'"kind":"fp64"'),
        (b'"name":"w"', b'"name":"w","extra":1'),
        (b'"body":2048', b'"body":2047'),
    ],
)
def test_a_lying_header_is_refused_before_memory_is_taken(old, new):
    payload = Payload({}, {"w": np.ones((64, 8), np.float32)})
    blob = encode(payload, precision="fp32", compress=False)
    tracemalloc.start()
    with pytest.raises(CodecError):
        decode(lie(blob, old, new))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_a_compressed_body_cannot_grow_beyond_its_word():
    payload = Payload({}, {"w": np.zeros(1_000_000, np.float32)})
    blob = encode(payload, precision="fp32")
    assert len(blob) < 10_000
    with pytest.raises(CodecError, match="at most"):
        decode(blob, max_decoded_bytes=1_000_000)
    small = lie(blob, b'"shape":[1000000]', b'"shape":[1]')
    with pytest.raises(CodecError):
        decode(lie(small, b'"body":4000000', b'"body":64'), max_decoded_bytes=1 << 20)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_never_travel(bad):
    for payload in (
        Payload({}, {"w": np.full(3, bad, np.float32)}),
        Payload({}, {}, {}, {"w": SparseVector(np.arange(3), np.full(3, bad, np.float32))}),
    ):
        with pytest.raises(CodecError, match=r"w: .*not finite"):
            encode(payload)
    blob = bytearray(encode(Payload({}, {"w": np.ones(3, np.float32)}), precision="fp32", compress=False))
    blob[-64:-60] = np.float32(bad).tobytes()
    with pytest.raises(CodecError, match="not finite"):
        decode(bytes(blob))


def test_values_beyond_fp16_stay_fp32_and_unknown_precisions_are_refused():
    big = {"v": np.array([1e6, 1.0], np.float32)}
    assert np.array_equal(quantise(big, "fp16")["v"], big["v"])
    with pytest.raises(ConfigError, match="fp8"):
        quantise(big, "fp8")


@given(hnp.arrays(np.bool_, st.integers(0, 300)))
def test_positions_survive_both_codings(active):
    where = np.flatnonzero(active)
    assert np.array_equal(coded.decode_gaps(coded.encode_gaps(where), len(where), len(active)), where)
    assert np.array_equal(coded.decode_bitmap(coded.encode_bitmap(active), len(active)), active)


@given(st.lists(st.integers(0, 1 << 33), unique=True, min_size=1, max_size=30))
def test_wide_gaps(positions):
    where = np.array(sorted(positions))
    assert np.array_equal(coded.decode_gaps(coded.encode_gaps(where), len(where), 1 << 34), where)


@pytest.mark.parametrize(("density", "precision", "most"), [(0.01, "fp16", 300_000), (0.01, "int8", 170_000)])
def test_resnet18_is_small_on_the_wire(density, precision, most):
    from tinyfleet.fedcore.models.registry import build
    from tinyfleet.fedcore.run_spec import ModelSettings

    graph = build(ModelSettings(name="resnet18", input_shape=(3, 32, 32), classes=10))
    weights = {name: graph.params[name].shape for name in graph.maskable}
    mask = random_mask(weights, uniform_counts(weights, density), np.random.default_rng(0))
    params = graph.initial_params(0)
    apply_mask(params, mask)
    assert len(encode(Payload({}, params, mask), precision=precision, send_mask=False)) < most


def test_a_header_without_raw_bytes_does_not_mention_them():
    """Blobs of runs that have none are what they were before there were any."""
    assert b'"raw"' not in encode(Payload({"step": 1}, {"b": np.ones(3, np.float32)}))
    assert b'"raw":[{"name":"x","size":2}]' in encode(Payload(raw={"x": b"ab"}))


@pytest.mark.parametrize("size", [b"99999999", b"165", b"0"])
def test_raw_bytes_that_lie_about_their_size_are_refused(size):
    blob = encode(Payload(raw={"x": bytes(100)}), compress=False)
    with pytest.raises(CodecError):
        decode(lie(blob, b'"size":100', b'"size":' + size), max_decoded_bytes=1 << 20)

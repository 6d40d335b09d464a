"""What comes over the network: control messages in both directions, chunks, blobs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import struct
from pathlib import Path

import msgspec
import numpy as np

from tests.compatibility.record import DOWN, UP
from tests.fuzz.mutation import damaged, damaged_json, json_bytes, vary_json
from tests.fuzz.target import Prepared, Target
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.foreign.bounds import check_bounds
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.protocol import chunks, codec, messages, positions, topics, values
from tinyfleet.fedcore.protocol.messages import Manifest, TaskOffer
from tinyfleet.fedcore.protocol.signed.envelope import Address, Direction, seal, unseal
from tinyfleet.fedcore.protocol.signed.signatures import SigningKey
from tinyfleet.fedcore.sparsity.mask import mask_digest

MOST_DECODED = 64 << 20
DIGEST = "ab" * 32


def _up(directory: Path) -> Prepared:
    return Prepared(messages.decode_up, [messages.encode(message) for message in UP], vary_json)


def _down(directory: Path) -> Prepared:
    def parse(data: bytes) -> object:
        message = messages.decode_down(data)
        if isinstance(message, TaskOffer):
            check_bounds(message.spec, "spec")
        messages.encode(message)
        return message

    return Prepared(parse, [messages.encode(message) for message in DOWN], vary_json)


def _envelopes(directory: Path) -> Prepared:
    key = SigningKey(bytes(range(32)))
    address = Address("ab" * 16, "board-1", "s1", "s2")
    sealed = [
        seal(key, Direction.UP, address, number, messages.encode(message)) for number, message in enumerate(UP)
    ]

    def parse(data: bytes) -> object:
        envelope = unseal(data)
        if envelope.signed_by(key.public, Direction.UP):
            messages.decode_up(bytes(envelope.body))
        return envelope

    return Prepared(parse, sealed, vary_json)


def _topics(directory: Path) -> Prepared:
    def parse(data: bytes) -> object:
        device = topics.device_of(data.decode("utf-8", "surrogateescape"))
        assert device is None or (topics.valid_device(device) and "/" not in device)
        return device

    return Prepared(parse, [topics.up("board-1").encode(), topics.up_chunk("b").encode()])


def _chunks(directory: Path) -> Prepared:
    """One line of JSON, the manifest; then chunk messages, each after its length."""

    def parse(data: bytes) -> object:
        head, _, rest = data.partition(b"\n")
        try:
            manifest = msgspec.json.decode(head, type=Manifest)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise CodecError("no manifest") from None
        for file in directory.iterdir():
            file.unlink()
        receiver = chunks.Receiver(directory, manifest, 1 << 20)
        while len(rest) > 2:
            size = int.from_bytes(rest[:2], "little")
            with contextlib.suppress(CodecError):
                receiver.accept(chunks.unpack_chunk(rest[2 : 2 + size]))
            rest = rest[2 + size :]
        receiver.request(8)
        again = chunks.Receiver(directory, manifest, 1 << 20)
        return again.finish()

    def whole(size: int, chunk: int) -> bytes:
        blob = random.Random(size).randbytes(size)
        manifest = Manifest(hashlib.sha256(blob).hexdigest(), size, chunk)
        sent = [
            chunks.pack_chunk(manifest.sha256, index, blob[index * chunk : (index + 1) * chunk])
            for index in range(manifest.count)
        ]
        return msgspec.json.encode(manifest) + b"\n" + b"".join(len(s).to_bytes(2, "little") + s for s in sent)

    def vary(rng: random.Random, seed: bytes) -> bytes:
        head, _, rest = seed.partition(b"\n")
        if rng.random() < 0.5:
            head = vary_json(rng, head)
        return head + b"\n" + (damaged(rng, rest) if rng.random() < 0.7 else rest)

    return Prepared(parse, [whole(100, 40), whole(1, 1), whole(0, 5), whole(3000, 1000)], vary)


def _payload() -> Payload:
    rng = np.random.default_rng(3)
    mask = {"w": rng.random((8, 9)) < 0.2, "v": rng.random(300) < 0.02}
    params = {name: (rng.standard_normal(m.shape) * m).astype(np.float32) for name, m in mask.items()}
    params["b"] = rng.standard_normal(8).astype(np.float32)
    gradients = {"w": SparseVector(np.flatnonzero(~mask["w"])[:7], rng.standard_normal(7).astype(np.float32))}
    return Payload({"step": 1, "samples": 3, "loss": 0.5}, params, mask, gradients)


def _blobs(directory: Path) -> Prepared:
    payload = _payload()
    digest = mask_digest(payload.mask)
    seeds = [
        codec.encode(payload, precision=precision, send_mask=send, compress=compress)
        for precision in ("fp32", "fp16", "int8")
        for send in (True, False)
        for compress in (True, False)
    ]

    def parse(data: bytes) -> object:
        codec_ref = codec.mask_ref(data)
        found = codec.decode(
            data, held=lambda asked: payload.mask if asked == digest else None, max_decoded_bytes=MOST_DECODED
        )
        assert codec_ref is None or found.mask is not None
        assert all(np.isfinite(value).all() for value in found.params.values())
        return found

    return Prepared(parse, seeds, _vary_blob)


def _vary_blob(rng: random.Random, seed: bytes) -> bytes:
    kind = rng.random()
    if kind < 0.3:
        return damaged(rng, seed)
    length = struct.unpack_from("<I", seed, 4)[0]
    head, body = seed[8 : 8 + length], seed[8 + length :]
    if kind < 0.7:
        head = json_bytes(damaged_json(rng, json.loads(head)))
    else:
        body = damaged(rng, body)
    return seed[:4] + struct.pack("<I", len(head)) + head + body


def _positions(directory: Path) -> Prepared:
    """Two counts of eight bytes, a kind, then the coded bytes."""

    def parse(data: bytes) -> object:
        if len(data) < 17:
            raise CodecError("short")
        count, size = struct.unpack_from("<QQ", data)
        coded = np.frombuffer(data, np.uint8, offset=17)
        # As the codec bounds them before it asks.
        if count > MOST_DECODED // 12 or size > positions.MAX_SIZE:
            raise CodecError("beyond what is decoded")
        if data[16] % 2:
            found = positions.decode_bitmap(coded, size)
            assert len(found) == size
        else:
            found = positions.decode_gaps(coded, count, size)
            assert (np.diff(found) > 0).all()
            assert not count or (found[0] >= 0 and found[-1] < size)
        return found

    where = np.flatnonzero(np.random.default_rng(1).random(5000) < 0.02)
    active = np.zeros(5000, np.bool_)
    active[where] = True
    far = np.array([0, 1, 127, 128, 16_384, 2**21, 2**28, 2**33])
    seeds = [
        struct.pack("<QQB", len(where), 5000, 0) + positions.encode_gaps(where).tobytes(),
        struct.pack("<QQB", 0, 5000, 1) + positions.encode_bitmap(active).tobytes(),
        struct.pack("<QQB", len(far), 2**33 + 1, 0) + positions.encode_gaps(far).tobytes(),
    ]
    return Prepared(parse, seeds)


def _values(directory: Path) -> Prepared:
    """A kind, a scale of eight bytes, then as many whole items as there are."""

    def parse(data: bytes) -> object:
        if len(data) < 9:
            raise CodecError("short")
        kind = values.PRECISIONS[data[0] % 3]
        (scale,) = struct.unpack_from("<d", data, 1)
        if not np.isfinite(scale):
            raise CodecError("as the codec has it")
        items = (len(data) - 9) // values.ITEM_BYTES[kind] * values.ITEM_BYTES[kind]
        found = values.from_bytes(np.frombuffer(data, np.uint8, items, 9), kind, scale)
        assert np.isfinite(found).all()
        return found

    numbers = np.random.default_rng(2).standard_normal(20).astype(np.float32)
    seeds = [
        bytes([index]) + struct.pack("<d", scale) + values.to_bytes(numbers, kind, scale)
        for index, kind in enumerate(values.PRECISIONS)
        for scale in (1.0, 0.01)
    ]
    return Prepared(parse, seeds)


WIRE = (
    Target("messages-up", (CodecError,), _up),
    Target("messages-down", (CodecError,), _down),
    Target("envelopes", (CodecError,), _envelopes),
    Target("topics", (), _topics),
    Target("chunks", (CodecError,), _chunks),
    Target("blobs", (CodecError,), _blobs),
    Target("positions", (CodecError,), _positions),
    Target("values", (CodecError,), _values),
)

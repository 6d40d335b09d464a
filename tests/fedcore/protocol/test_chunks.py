from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kills.damage import OF_FILES, lock_up
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.protocol.chunks import (
    DEFAULT_CHUNK_BYTES,
    Chunk,
    Receiver,
    chunk_bytes,
    manifest_of,
    pack_chunk,
    read_chunk,
    unpack_chunk,
)
from tinyfleet.fedcore.protocol.messages import Manifest


class Place:
    """A fresh folder for each example of a property."""

    def __enter__(self):
        self.path = Path(tempfile.mkdtemp())
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path)


def blob_in(folder, data, chunk_size):
    path = folder / "blob"
    path.write_bytes(data)
    return path, manifest_of(path, chunk_size)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 70), st.randoms(use_true_random=False), st.data())
def test_chunks_arrive_reordered_and_twice_over_restarts(data, chunk_size, random, draw):
    with Place() as folder:
        path, manifest = blob_in(folder, data, chunk_size)
        order = list(range(manifest.count)) * 2
        random.shuffle(order)
        receiver = Receiver(folder, manifest)
        for index in order:
            if draw.draw(st.booleans()):
                receiver = Receiver(folder, manifest)  # a restart
            chunk = unpack_chunk(pack_chunk(manifest.sha256, index, read_chunk(path, manifest, index)))
            fresh = receiver.accept(chunk)
            assert fresh is not receiver.accept(chunk) or not fresh
        assert receiver.complete
        assert receiver.request(8) is None
        assert receiver.finish().read_bytes() == data
        assert {entry.name for entry in folder.iterdir()} == {"blob", manifest.sha256}


@settings(deadline=None)
@given(st.integers(0, 40), st.sets(st.integers(0, 39)), st.integers(1, 10))
def test_requests_name_the_first_missing_range(count, present, limit):
    with Place() as folder:
        data = bytes(range(count))
        path, manifest = blob_in(folder, data, 1)
        receiver = Receiver(folder, manifest)
        for index in present & set(range(count)):
            receiver.accept(Chunk(manifest.sha256, index, read_chunk(path, manifest, index)))
        missing = [index for index in range(count) if index not in present]
        asked = receiver.request(limit)
        if not missing:
            assert asked is None
        else:
            start, number = asked
            assert start == missing[0]
            assert 1 <= number <= limit
            assert set(range(start, start + number)) <= set(missing)


def test_a_damaged_blob_is_found_dropped_and_fetched_anew(tmp_path):
    path, manifest = blob_in(tmp_path, b"0123456789", 4)
    receiver = Receiver(tmp_path, manifest)
    for index in range(3):
        data = read_chunk(path, manifest, index)
        receiver.accept(Chunk(manifest.sha256, index, b"xxxx" if index == 1 else data))
    with pytest.raises(CodecError, match="damaged"):
        receiver.finish()
    again = Receiver(tmp_path, manifest)
    assert again.request(8) == (0, 3)
    for index in range(3):
        again.accept(Chunk(manifest.sha256, index, read_chunk(path, manifest, index)))
    assert again.finish().read_bytes() == b"0123456789"


@pytest.mark.parametrize(
    ("index", "data", "message"),
    [(0, b"abc", "must have 4"), (0, b"abcde", "must have 4"), (2, b"ab", "it has 2"), (1 << 31, b"", "it has 2")],
)
def test_chunks_that_do_not_fit_are_refused(tmp_path, index, data, message):
    manifest = Manifest("0" * 64, 7, 4)
    with pytest.raises(CodecError, match=message):
        Receiver(tmp_path, manifest).accept(Chunk("0" * 64, index, data))
    with pytest.raises(CodecError, match="was asked for"):
        Receiver(tmp_path, manifest).accept(Chunk("1" * 64, 0, b"abcd"))


def test_a_manifest_cannot_ask_for_more_than_is_allowed(tmp_path):
    with pytest.raises(CodecError, match="at most 1000"):
        Receiver(tmp_path, Manifest("0" * 64, 1 << 40, 1 << 16), max_bytes=1000)
    with pytest.raises(CodecError, match="chunks"):
        Receiver(tmp_path, Manifest("0" * 64, 1 << 24, 1))
    assert not list(tmp_path.iterdir())


@given(st.binary(max_size=60))
def test_any_message_is_a_chunk_or_a_codec_error(payload):
    try:
        chunk = unpack_chunk(payload)
    except CodecError:
        assert len(payload) < 36
    else:
        assert pack_chunk(chunk.sha256, chunk.index, chunk.data) == payload


def test_a_blob_that_shrank_is_not_sent(tmp_path):
    path, manifest = blob_in(tmp_path, b"0123456789", 4)
    path.write_bytes(b"0123")
    with pytest.raises(CodecError, match="shorter"):
        read_chunk(path, manifest, 1)
    with pytest.raises(CodecError, match="missing"):
        Receiver(tmp_path, manifest).finish()


@pytest.mark.parametrize("hurt", [h for h in OF_FILES if h is not lock_up], ids=lambda hurt: hurt.__name__)
@pytest.mark.parametrize("suffix", [".part", ".have"])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_has_come_is_damaged_meanwhile_and_the_blob_is_whole_in_the_end(tmp_path, hurt, suffix, restarted):
    _, manifest = blob_in(tmp_path, bytes(range(100)) * 3, 30)
    chunks = [Chunk(manifest.sha256, n, read_chunk(tmp_path / "blob", manifest, n)) for n in range(manifest.count)]
    folder = tmp_path / "received"
    folder.mkdir()
    receiver = Receiver(folder, manifest)
    for chunk in chunks[:4]:
        receiver.accept(chunk)
    (path,) = folder.glob(f"*{suffix}")
    hurt(path)
    if restarted:
        receiver = Receiver(folder, manifest)
    for _ in range(3):
        while (span := receiver.request(8)) is not None:
            for chunk in chunks[span[0] : span[0] + span[1]]:
                receiver.accept(chunk)
        try:
            whole = receiver.finish()
            break
        except CodecError:
            receiver = Receiver(folder, manifest)
    assert whole.read_bytes() == (tmp_path / "blob").read_bytes()


@pytest.mark.parametrize(
    ("payload", "chunk"),
    [(None, DEFAULT_CHUNK_BYTES), (65_000, 64_964), (10**6, DEFAULT_CHUNK_BYTES), (100, DEFAULT_CHUNK_BYTES)],
)
def test_chunks_are_of_a_size_that_the_broker_takes(payload, chunk):
    assert chunk_bytes(payload) == chunk
    assert chunk_bytes(payload) <= DEFAULT_CHUNK_BYTES

from __future__ import annotations

import hashlib

import pytest

from tinyfleet.edge_agent.task import inbox as module
from tinyfleet.edge_agent.task.inbox import REPEAT_S, REQUEST_CHUNKS, Inbox
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.protocol.chunks import pack_chunk
from tinyfleet.fedcore.protocol.messages import Manifest

SIZE = 100


def blob_of(count: int, seed: int = 0) -> tuple[Manifest, bytes]:
    data = bytes((seed + i // SIZE) % 251 for i in range(count * SIZE - 7))
    return Manifest(hashlib.sha256(data).hexdigest(), len(data), SIZE), data


def chunk(manifest: Manifest, data: bytes, index: int) -> bytes:
    return pack_chunk(manifest.sha256, index, data[index * SIZE : (index + 1) * SIZE])


def fetch(inbox: Inbox, manifest: Manifest, data: bytes, now: float = 0.0) -> int:
    """Serve every request; returns how many there were."""
    requests = 0
    while inbox.finished() is None:
        request = inbox.due(now)
        assert request is not None
        assert request.count <= REQUEST_CHUNKS
        requests += 1
        for index in range(request.start, request.start + request.count):
            inbox.accept(chunk(manifest, data, index), now)
    return requests


@pytest.mark.parametrize("count", [1, 7, 8, 9, 30])
def test_a_blob_comes_in_ranges_and_is_whole(tmp_path, count):
    manifest, data = blob_of(count)
    inbox = Inbox(tmp_path / "i", 10**6)
    inbox.open(manifest)
    assert fetch(inbox, manifest, data) == -(-count // REQUEST_CHUNKS)
    assert inbox.finished().read_bytes() == data
    assert inbox.due(0.0) is None


def test_a_range_is_asked_for_once_until_it_falls_silent(tmp_path):
    manifest, data = blob_of(20)
    inbox = Inbox(tmp_path / "i", 10**6)
    inbox.open(manifest)
    first = inbox.due(0.0)
    assert inbox.due(REPEAT_S - 0.1) is None
    inbox.accept(chunk(manifest, data, 0), REPEAT_S - 0.1)
    assert inbox.due(REPEAT_S + 0.1) is None, "it is still coming in"
    again = inbox.due(2 * REPEAT_S)
    assert (first.start, again.start) == (0, 1)
    inbox.ask_again()
    assert inbox.due(2 * REPEAT_S) == again, "after a reconnect at once"


def test_order_gaps_and_duplicates_do_not_matter(tmp_path):
    manifest, data = blob_of(12)
    inbox = Inbox(tmp_path / "i", 10**6)
    inbox.open(manifest)
    inbox.due(0.0)
    for index in (5, 3, 3, 0, 7, 11, 2):
        inbox.accept(chunk(manifest, data, index), 0.0)
    inbox.ask_again()
    fetch(inbox, manifest, data)
    assert inbox.finished().read_bytes() == data


def test_a_restart_asks_for_no_more_than_what_is_missing(tmp_path):
    manifest, data = blob_of(8)
    before = Inbox(tmp_path / "i", 10**6)
    before.open(manifest)
    for index in range(5):
        before.accept(chunk(manifest, data, index), 0.0)
    after = Inbox(tmp_path / "i", 10**6)
    after.open(manifest)
    request = after.due(0.0)
    assert (request.start, request.count) == (5, 3)
    after.ask_again()
    fetch(after, manifest, data)
    assert after.finished().read_bytes() == data


def test_a_blob_that_is_here_needs_no_chunk(tmp_path):
    manifest, data = blob_of(3)
    inbox = Inbox(tmp_path / "i", 10**6)
    inbox.open(manifest)
    fetch(inbox, manifest, data)
    inbox.close()
    inbox.open(manifest)
    assert inbox.due(0.0) is None
    path = inbox.finished()
    path.write_bytes(b"rotten")
    inbox.open(manifest)
    assert inbox.finished() is None
    fetch(inbox, manifest, data)
    assert inbox.finished().read_bytes() == data


def test_a_wrong_hash_starts_anew(tmp_path):
    manifest, data = blob_of(2)
    inbox = Inbox(tmp_path / "i", 10**6)
    inbox.open(manifest)
    inbox.accept(pack_chunk(manifest.sha256, 0, b"\x99" * SIZE), 0.0)
    inbox.accept(chunk(manifest, data, 1), 0.0)
    with pytest.raises(CodecError):
        inbox.finished()
    inbox.open(manifest)
    assert inbox.finished() is None
    fetch(inbox, manifest, data)
    assert inbox.finished().read_bytes() == data


def test_strangers_and_garbage(tmp_path):
    manifest, data = blob_of(2)
    other, other_data = blob_of(2, seed=9)
    inbox = Inbox(tmp_path / "i", 10**6)
    inbox.accept(chunk(manifest, data, 0), 0.0)  # nothing is being fetched
    inbox.open(manifest)
    inbox.accept(chunk(other, other_data, 0), 0.0)
    with pytest.raises(CodecError):
        inbox.accept(b"\x00garbage", 0.0)
    assert inbox.due(0.0).start == 0


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    manifest, _ = blob_of(5)
    with pytest.raises(CodecError, match="inbox_limit"):
        Inbox(tmp_path / "i", manifest.size - 1).open(manifest)
    with pytest.raises(CodecError, match="larger ones"):
        Inbox(tmp_path / "i", 10**9).open(Manifest(manifest.sha256, 10**6, 1))
    monkeypatch.setattr(module, "SPARE_BYTES", 1 << 60)
    with pytest.raises(CodecError, match="free"):
        Inbox(tmp_path / "j", 10**6).open(manifest)


def test_old_blobs_make_room(tmp_path):
    inbox = Inbox(tmp_path / "i", 10**6)
    for seed in range(5):
        manifest, data = blob_of(3, seed=seed)
        inbox.open(manifest)
        fetch(inbox, manifest, data)
    partial, _ = blob_of(3, seed=7)
    inbox.open(partial)
    inbox.open(manifest)
    assert len(list((tmp_path / "i").iterdir())) <= module.KEPT_BLOBS
    assert inbox.finished().read_bytes() == data

"""Results of many devices at once: so much is under way, and who does not send holds nobody up."""

from __future__ import annotations

import random

import pytest

from tinyfleet.coordinator.wire.transfers import MAX_DOWNLOADS, MOST_UNDER_WAY, REQUEST_CHUNKS, Downloads
from tinyfleet.fedcore.protocol.chunks import Chunk, manifest_of
from tinyfleet.fedcore.protocol.messages import ChunkRequest, ResultOffer

CHUNK = 10


class Outgoing:
    """Collects what is asked for."""

    def __init__(self):
        self.asked = []

    def send(self, device, message):
        assert isinstance(message, ChunkRequest)
        self.asked.append((device, message))
        return True


class Fetching:
    """``Downloads`` with devices that hold results."""

    def __init__(self, directory):
        self.now = 1000.0
        self.outgoing = Outgoing()
        self.downloads = Downloads(directory / "incoming", self.outgoing, timeout_s=5.0, clock=lambda: self.now)
        self.directory = directory
        self.blobs = {}
        self.done = []

    def offer(self, device, chunks):
        path = self.directory / "blob"
        path.write_bytes(random.Random(f"{device}{chunks}").randbytes(chunks * CHUNK))
        manifest = manifest_of(path, CHUNK)
        self.blobs[manifest.sha256] = path.read_bytes()
        self.downloads.begin(device, ResultOffer("r", 0, manifest, 1.0, 1.0, 1, "torch", "0" * 64))

    def under_way(self):
        return sum(download.expected for download in self.downloads._open.values())

    def deliver(self, silent=()):
        """All that was asked for arrives; how many chunks."""
        asked, self.outgoing.asked = self.outgoing.asked, []
        count = 0
        for device, request in asked:
            for index in range(request.start, request.start + request.count):
                if device in silent:
                    continue
                count += 1
                data = self.blobs[request.sha256][index * CHUNK : (index + 1) * CHUNK]
                found = self.downloads.accept(device, Chunk(request.sha256, index, data))
                if found is not None:
                    assert self.downloads.take(found).read_bytes() == self.blobs[request.sha256]
                    self.done.append(device)
        assert self.under_way() == self.downloads._under_way
        return count


@pytest.fixture
def fetching(tmp_path):
    return Fetching(tmp_path)


def test_of_all_devices_together_so_many_chunks_are_under_way(fetching):
    devices = [f"d{number}" for number in range(40)]
    for device in devices:
        fetching.offer(device, 20)
    most, sent = 0, 0
    while fetching.outgoing.asked:
        most = max(most, fetching.under_way())
        sent += fetching.deliver()
    assert sorted(fetching.done) == sorted(devices)
    assert sent == 40 * 20, "nothing was sent twice"
    assert MOST_UNDER_WAY - REQUEST_CHUNKS < most < MOST_UNDER_WAY + REQUEST_CHUNKS


def test_devices_that_offer_and_send_nothing_hold_nobody_up(fetching):
    hostile = [f"h{number}" for number in range(20)]
    for device in hostile:
        for chunks in range(9, 9 + MAX_DOWNLOADS + 3):
            fetching.offer(device, chunks)
    for number in range(30):
        fetching.offer(f"d{number}", 12)
    waited = 0
    while len(fetching.done) < 30:
        fetching.deliver(silent=hostile)
        fetching.now += 5.0
        waited += 1
        fetching.downloads.tick(fetching.now)
        assert waited < 40
    asked = [request.count for device, request in fetching.outgoing.asked if device in hostile]
    assert set(asked) == {1}, "who was late is asked for little"


def test_a_slow_link_is_not_asked_twice(fetching):
    """A chunk every four seconds, with a patience of five."""
    fetching.offer("slow", 16)
    sent = 0
    while not fetching.done:
        asked, fetching.outgoing.asked = fetching.outgoing.asked, []
        for device, request in asked:
            for index in range(request.start, request.start + request.count):
                fetching.now += 4.0
                fetching.downloads.tick(fetching.now)
                sent += 1
                data = fetching.blobs[request.sha256][index * CHUNK : (index + 1) * CHUNK]
                found = fetching.downloads.accept(device, Chunk(request.sha256, index, data))
                if found is not None:
                    fetching.downloads.take(found)
                    fetching.done.append(device)
    assert sent == 16


def test_what_is_forgotten_is_under_way_no_more(fetching):
    for number in range(20):
        fetching.offer(f"d{number}", 20)
    fetching.downloads.forget("r", 0)
    assert fetching.under_way() == fetching.downloads._under_way == 0
    fetching.outgoing.asked.clear()
    fetching.offer("next", 4)
    fetching.deliver()
    assert fetching.done == ["next"]
    fetching.offer("again", 20)
    fetching.downloads.clear()
    assert fetching.downloads._under_way == 0

from __future__ import annotations

import numpy as np
import pytest

from tinyfleet.coordinator.config import AllowanceSettings
from tinyfleet.coordinator.store.blobs import BlobStore
from tinyfleet.coordinator.wire.task_blobs import TaskBlobs
from tinyfleet.coordinator.wire.transfers import OfferedBlobs
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import decode
from tinyfleet.fedcore.run_spec import WireSettings


class Nobody:
    connected = False
    chunk_bytes = 96 * 1024


@pytest.fixture
def made(tmp_path):
    store = BlobStore(tmp_path)
    offered = OfferedBlobs(Nobody(), AllowanceSettings(), lambda: 0.0)
    task = Payload(
        {"stage": "train"},
        {"w": np.ones(4, np.float32)},
        {"w": np.array([True, False, True, True])},
        raw={"all": b"1"},
    )

    def make(addressed=lambda device: {}):
        return store, offered, TaskBlobs(task, WireSettings(), store, offered, addressed)

    return make


def test_a_task_for_all_is_one_blob_with_its_mask_and_one_without(made):
    _, offered, blobs = made()
    blobs.offer_all(["a", "b"])
    assert blobs.manifest("a", with_mask=True) == blobs.manifest("c", with_mask=True)
    assert blobs.manifest("a", with_mask=True) != blobs.manifest("a", with_mask=False)
    assert blobs.digests == offered.digests
    assert len(blobs.digests) == 2


def test_what_is_for_one_device_is_in_its_blob_alone(made):
    store, _, blobs = made(lambda device: {"own": device.encode()} if device != "c" else {})
    digests = {name: blobs.manifest(name, with_mask=True).sha256 for name in "abcd"}
    assert len(set(digests.values())) == 4
    for name, sha256 in digests.items():
        own = {} if name == "c" else {"own": name.encode()}
        assert decode(store.read(sha256)).raw == {"all": b"1", **own}


def test_a_damaged_blob_of_one_device_is_made_again(made):
    store, offered, blobs = made(lambda device: {"own": device.encode()})
    manifest = blobs.manifest("a", with_mask=True)
    blobs.manifest("b", with_mask=True)
    store.path(manifest.sha256).write_bytes(b"damaged")
    chunk = offered._open[manifest.sha256].chunk(0)
    assert decode(chunk).raw["own"] == b"a"

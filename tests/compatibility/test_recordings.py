"""What earlier versions wrote is read as it was meant: see docs/compatibility.md."""

from __future__ import annotations

import base64
import dataclasses
import json
import sqlite3

import msgspec
import numpy as np
import pytest

from tests.compatibility.record import API, DOWN, HERE, UP, payload, read
from tinyfleet.coordinator.errors import StoreError
from tinyfleet.coordinator.store.database.schema import SCHEMA_VERSION
from tinyfleet.coordinator.store.store import Store
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol import messages as wire
from tinyfleet.fedcore.protocol.version import OLDEST_PROTOCOL, PROTOCOL, common_protocol

DOCUMENT = HERE.parents[1] / "docs" / "compatibility.md"
SPOKEN = range(OLDEST_PROTOCOL, PROTOCOL + 1)


def recording(name):
    return json.loads((HERE / name).read_text(encoding="utf-8"))


# -- the wire -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", SPOKEN)
@pytest.mark.parametrize(("direction", "decode"), [("up", wire.decode_up), ("down", wire.decode_down)])
def test_every_recorded_message_is_read_whole(version, direction, decode):
    for document in recording(f"messages-{version}.json")[direction]:
        message = decode(json.dumps(document).encode())
        again = json.loads(wire.encode(message))
        assert {key: again[key] for key in document} == document


@pytest.mark.parametrize(("messages", "direction"), [(UP, "up"), (DOWN, "down")])
def test_the_present_version_is_recorded_with_every_kind_and_field(messages, direction):
    """So a change of any message shows here: it is a new version, or a recording made before a first release."""
    union = {"up": wire.UpMessage, "down": wire.DownMessage}[direction]
    assert {type(message) for message in messages} == set(union.__args__)
    assert recording(f"messages-{PROTOCOL}.json")[direction] == [json.loads(wire.encode(m)) for m in messages]
    for message in messages:
        for field in msgspec.structs.fields(message):
            value = getattr(message, field.name)
            assert field.name == "protocol" or value != field.default, f"{type(message).__name__}.{field.name}"


def test_sides_agree_on_the_newest_version_that_both_speak():
    assert common_protocol(3, newest=5, oldest=2) == 3
    assert common_protocol(9, newest=5, oldest=2) == 5, "the newer side takes the older's newest"
    assert common_protocol(1, newest=5, oldest=2) is None


# -- files --------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "error"), [("fp32", 0.0), ("fp16", 0.01), ("int8", 0.06)])
def test_a_recorded_blob_is_read(precision, error):
    found = codec.decode(base64.b64decode(recording("blobs-1.json")[precision]))
    expected = payload()
    assert found.meta == expected.meta
    assert np.array_equal(found.mask["w"], expected.mask["w"])
    for name, value in expected.params.items():
        np.testing.assert_allclose(found.params[name], value, atol=error)


def test_a_recorded_outbox_still_has_its_result(tmp_path):
    entry = recording("outbox-1.json")
    (tmp_path / entry["description"]["blob"]).write_bytes(base64.b64decode(entry["content"]))
    (tmp_path / entry["name"]).write_text(json.dumps(entry["description"]))
    outbox = Outbox(tmp_path, max_bytes=10**6, max_age_s=1e12, wall_clock=lambda: 2e9)
    offer = outbox.get("run-1", 2)
    assert json.loads(msgspec.json.encode(offer)) == entry["description"]["offer"]


def test_a_blob_of_another_version_is_refused_by_name():
    blob = bytearray(base64.b64decode(recording("blobs-1.json")["fp32"]))
    blob[3:4] = b"9"
    with pytest.raises(CodecError):
        codec.decode(bytes(blob))


# -- the store ----------------------------------------------------------------------------


def restored(folder, version):
    connection = sqlite3.connect(folder / "coordinator.db")
    connection.executescript((HERE / f"store-{version}.sql").read_text(encoding="utf-8"))
    connection.close()
    return Store(folder, clock=lambda: 2000.0)


@pytest.mark.parametrize("version", sorted(int(path.stem.split("-")[1]) for path in HERE.glob("store-*.sql")))
def test_a_recorded_store_is_read_and_written_on(tmp_path, version):
    store = restored(tmp_path, version)
    assert json.loads(msgspec.json.encode(read(store))) == recording(f"store-{version}.json")
    store.runs.request_stop(store.runs.all()[0].run)
    store.close()


def test_the_present_store_is_recorded():
    assert (HERE / f"store-{SCHEMA_VERSION}.sql").exists()


def test_a_store_of_a_later_version_is_refused_with_both_versions(tmp_path):
    restored(tmp_path, SCHEMA_VERSION).close()
    with sqlite3.connect(tmp_path / "coordinator.db") as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match=rf"{SCHEMA_VERSION + 1}.*{SCHEMA_VERSION}"):
        Store(tmp_path)


# -- the command line's JSON ----------------------------------------------------------------


@pytest.mark.parametrize("name", API)
def test_no_key_of_the_json_output_is_gone(name):
    fields = {field.name for field in dataclasses.fields(API[name])}
    assert set(recording("api-1.json")[name]) <= fields


# -- the page -----------------------------------------------------------------------------


def test_the_page_names_the_versions():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"protocol {PROTOCOL}" in text
    assert f"schema {SCHEMA_VERSION}" in text

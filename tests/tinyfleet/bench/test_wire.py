from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tinyfleet.bench.wire import bench_wire
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker


def test_blob_sizes_fall_with_density_and_precision():
    rows = bench_wire(["resnet8"], [0.05, 1.0], ["fp32", "fp16", "int8"], repeats=1)
    size = {(row.density, row.precision): row.bytes_up for row in rows}
    assert size[1.0, "fp32"] > size[1.0, "fp16"] > size[1.0, "int8"] > size[0.05, "fp16"] > size[0.05, "int8"]
    dense = rows[0].dense_bytes
    assert size[1.0, "fp32"] == pytest.approx(dense, rel=0.1)
    for row in rows:
        assert row.bytes_down_new_mask > row.bytes_down or row.density == 1.0
        assert row.encode_ms > 0 < row.decode_ms


@pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed")
def test_resnet18_at_one_percent_stays_under_300_kb_at_the_socket():
    (row,) = bench_wire(["resnet18"], [0.01], ["fp16"], repeats=1)
    assert row.bytes_down < row.socket_bytes_down < 300_000
    assert row.bytes_up < row.socket_bytes_up < 300_000
    assert row.dense_bytes > 44_000_000


def test_the_command_writes_its_rows(tmp_path):
    from tinyfleet.cli.app import app

    file = tmp_path / "wire.json"
    words = [
        "bench",
        "wire",
        "--model",
        "small_cnn",
        "--density",
        "0.1",
        "--precision",
        "fp16",
        "--json",
        str(file),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(file.read_text())
    assert {
        "model",
        "density",
        "precision",
        "bytes_down",
        "bytes_up",
        "dense_bytes",
        "encode_ms",
        "decode_ms",
    } <= set(row)

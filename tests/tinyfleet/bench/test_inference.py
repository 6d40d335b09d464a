"""Deployed models side by side: every file computes the same, and the sparse one is the smallest."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("onnxruntime")

from tinyfleet.bench import inference
from tinyfleet.bench.inference import NATIVE, bench_inference, interleaved
from tinyfleet.bench.inference_memory import Request, measure
from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.table import missing_formats
from tinyfleet.fedcore.errors import DataError

needs_engine = pytest.mark.skipif(bool(missing_formats()), reason="the native engine is not installed")


@needs_engine
def test_the_command_writes_its_rows(tmp_path):
    from tinyfleet.cli.app import app

    file = tmp_path / "inference.json"
    words = ["bench", "inference", "--model", "resnet8", "--density", "0.05", "--rounds", "1", "--json", str(file)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "over native" in result.output
    rows = {row["format"]: row for row in json.loads(file.read_text())}
    assert {NATIVE, "onnx-fp32"} <= rows.keys()
    for name, row in rows.items():
        assert row["latency_ratio"] == pytest.approx(row["latency_ms"] / rows[NATIVE]["latency_ms"])
        assert row["cpu_ratio"] == pytest.approx(row["cpu_ms"] / rows[NATIVE]["cpu_ms"])
        assert row["max_rel_error"] < (0.3 if name == "tflite-int8" else 1e-5)
        assert 0 < row["memory_mb"] < row["peak_mb"]
        assert row["file_bytes"] >= rows[NATIVE]["file_bytes"]
    assert rows[NATIVE]["memory_mb"] < rows["onnx-fp32"]["memory_mb"]


def test_without_the_engine_there_is_nothing_to_compare(monkeypatch):
    monkeypatch.setattr(inference, "missing_formats", lambda: {NATIVE: "the native engine is not installed: pip"})
    with pytest.raises(ExportError, match="nothing to compare: the native engine is not installed: pip"):
        bench_inference(["resnet8"], [0.1], 1, lambda what, done, total: None)


def test_a_file_that_nothing_runs_is_named(tmp_path):
    path = tmp_path / "broken.tfse"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"running .*broken\.tfse failed: "):
        measure(Request(str(path), (3, 32, 32)))


class Counted:
    def __init__(self, calls, name):
        self.calls, self.name = calls, name

    def run(self, x):
        self.calls.append(self.name)


def test_files_take_turns():
    calls = []
    times = interleaved({name: Counted(calls, name) for name in "ab"}, None, 3)
    assert "".join(calls) == ("a" * 6 + "b" * 6) * 3
    assert times.keys() == {"a", "b"}
    assert min(min(both) for both in times.values()) > 0

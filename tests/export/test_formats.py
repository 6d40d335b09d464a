"""Formats are a table: what stands in it is written, verified and listed, wherever it comes from."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("flatbuffers")

from tests.export.test_export import realistic, samples
from tests.fedcore.training.graphs import one_dimensional_graph
from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.format import ExportFormat
from tinyfleet.export.formats.limits import FP32
from tinyfleet.export.formats.table import FORMATS, chosen_formats
from tinyfleet.export.report import export_model
from tinyfleet.export.runtimes import open_all
from tinyfleet.export.verify import check


class Shift:
    """A runtime that adds what its file says to the first logit of zeros."""

    name = "shift"

    def __init__(self, path):
        self.value = float(path.read_text())

    def run(self, x):
        logits = np.zeros((len(x), 4), np.float32)
        logits[:, 0] += self.value
        return logits

    def latency_ms(self, sample):
        return 1.0


def from_outside(value):
    return ExportFormat(
        "shift", "fp32", "shift", "channels first", FP32, lambda export: str(value).encode(),
        lambda path: iter([Shift(path)]), density=lambda content, graph: len(content) / 10,
    )  # fmt: skip


def exported(directory):
    graph = one_dimensional_graph()
    x = samples(graph, 3)
    expected = np.zeros((3, 4), np.float32)
    expected[:, 0] = 1.0
    return export_model(
        graph, *realistic(graph), directory, formats=("shift-fp32",), calibration=x, x=x, y=np.zeros(3, np.int64),
        reference=lambda _: expected,
    )  # fmt: skip


def test_a_format_from_outside_is_written_verified_and_listed(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "shift-fp32", from_outside(1.0))
    (row,) = exported(tmp_path)
    check([row])
    assert (row.format, row.runtime, row.accuracy, row.density) == ("shift", "shift", 1.0, 0.3)
    assert (tmp_path / "sensor-fp32.shift").read_text() == "1.0"
    assert json.loads((tmp_path / "export.json").read_text())["input_layout"]["shift"] == "channels first"
    monkeypatch.setitem(FORMATS, "shift-fp32", from_outside(2.0))
    with pytest.raises(ExportError, match=r"sensor-fp32\.shift in shift: error 1"):
        check(exported(tmp_path))


def test_names_say_kind_and_precision_and_no_two_formats_share_a_file():
    assert all(name == each.name for name, each in FORMATS.items())
    files = [each.file_name("m") for each in FORMATS.values()]
    assert len(set(files)) == len(files) == 6
    assert FORMATS["sparse-fp16"].file_name("resnet8") == "resnet8-fp16.tfse"


def test_what_is_asked_for_must_be_there():
    assert [each.name for each in chosen_formats(["tflite-int8", "onnx-fp32"])] == ["tflite-int8", "onnx-fp32"]
    with pytest.raises(ExportError, match="'onnx-fp8' is unknown; did you mean 'onnx-fp"):
        chosen_formats(["onnx-fp8"])


def test_a_file_that_no_runtime_knows_is_named(tmp_path):
    with pytest.raises(ExportError, match=r"model\.bin: nothing here runs such files"):
        next(open_all(tmp_path / "model.bin"))

"""What a report refuses, and what it says of files that nothing here can run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.export.test_export import realistic, samples
from tests.fedcore.training.graphs import one_dimensional_graph
from tinyfleet.export import runtimes
from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.onnx import write_onnx
from tinyfleet.export.inference_graph import merge
from tinyfleet.export.report import export_model
from tinyfleet.export.runtimes import BATCH, OnnxRuntime
from tinyfleet.export.verify import ExportRow, check

ROW = ExportRow("onnx", "fp32", "model-fp32.onnx", 1, 0.0, 1.0, 0.5, 0.1, "onnxruntime")


@pytest.mark.parametrize(
    ("kind", "precision", "most", "least"),
    [("onnx", "fp32", 1e-4, 0.999), ("tflite", "fp16", 5e-3, 0.99), ("tflite", "int8", 10.0, 0.9)],
)
def test_the_limits(kind, precision, most, least):
    row = replace(ROW, format=kind, precision=precision, max_rel_error=most, argmax_agreement=least)
    check([row])
    worse = [replace(row, argmax_agreement=least - 0.01)]
    if precision != "int8":
        worse.append(replace(row, max_rel_error=most * 1.01))
    for bad in worse:
        with pytest.raises(ExportError, match=r"model-fp32\.onnx in onnxruntime"):
            check([row, bad])


@pytest.mark.parametrize("name", ["onnx-fp32", "sparse-fp16", "tflite-int8"])
@pytest.mark.parametrize("error", [np.nan, np.inf])
def test_logits_that_are_not_numbers_are_refused(name, error):
    kind, precision = name.split("-")
    with pytest.raises(ExportError, match="do not deploy it"):
        check([replace(ROW, format=kind, precision=precision, max_rel_error=float(error))])


def exported(directory, count=3):
    graph = one_dimensional_graph()
    params, mask = realistic(graph)
    x = samples(graph, count)
    return export_model(
        graph, params, mask, directory, formats=("onnx-fp32", "onnx-fp32"), calibration=x, x=x,
        y=np.zeros(count, np.int64), reference=lambda x: np.ones((len(x), 4), np.float32),
    )  # fmt: skip


def test_a_file_without_its_runtime_is_listed_as_unverified(tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "missing_runtimes", lambda: {"onnxruntime": "not installed"})
    assert exported(tmp_path) == []
    manifest = json.loads((tmp_path / "export.json").read_text())
    assert manifest["unverified"] == ["sensor-fp32.onnx"]
    assert manifest["sha256"].keys() == {"sensor-fp32.onnx"}
    assert manifest["verified"] == []


def test_verified_files_are_not_listed_as_unverified(tmp_path):
    assert {row.runtime for row in exported(tmp_path)} == {"onnxruntime"}
    assert json.loads((tmp_path / "export.json").read_text())["unverified"] == []


def test_nothing_is_verified_on_no_samples(tmp_path):
    with pytest.raises(ExportError, match="held-out samples"):
        exported(tmp_path, count=0)


def test_batches_give_what_single_samples_give(tmp_path):
    graph = one_dimensional_graph()
    path = tmp_path / "model.onnx"
    path.write_bytes(write_onnx(merge(graph, *realistic(graph)), {}))
    runtime, x = OnnxRuntime(path), samples(graph, BATCH + 3)
    logits = runtime.run(x)
    assert logits.shape == (BATCH + 3, 4)
    alone = np.concatenate([runtime.run(x[i : i + 1]) for i in (0, BATCH - 1, BATCH, BATCH + 2)])
    np.testing.assert_allclose(logits[[0, BATCH - 1, BATCH, BATCH + 2]], alone, rtol=1e-5, atol=1e-6)


def test_files_are_compacted_unless_asked_otherwise(tmp_path):
    graph = one_dimensional_graph()
    params, _ = realistic(graph)
    params["wide.weight"][3:] = 0.0
    params["wide.weight"][:, 1:] = 0.0
    mask = {"wide.weight": params["wide.weight"] != 0.0}
    x = samples(graph, 3)
    path = tmp_path / "reference.onnx"
    path.write_bytes(write_onnx(merge(graph, params, mask), {}))
    rows = {}
    for compact in (True, False):
        (rows[compact],) = export_model(
            graph, params, mask, tmp_path / str(compact), formats=("onnx-fp32",), calibration=x, x=x,
            y=np.zeros(3, np.int64), reference=OnnxRuntime(path).run, compact=compact,
        )  # fmt: skip
        check([rows[compact]])
    assert rows[True].file_bytes < rows[False].file_bytes
    assert 2 * rows[False].multiply_adds == graph.flops()
    # Of the stem one filter in 6 is read, of the wide layer 3 in 12: (15 * 10 + 3 * 3 * 10 + 3 * 4).
    assert rows[True].multiply_adds <= 15 * 10 + 3 * 3 * 10 + 3 * 4
    assert rows[True].density == rows[False].density == 9 / 216

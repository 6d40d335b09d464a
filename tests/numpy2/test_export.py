"""Exporting without torch and with numpy 2: what a gateway with a newer numpy does."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from tinyfleet.export.formats.onnx import write_onnx
from tinyfleet.export.inference_graph import merge
from tinyfleet.export.report import export_model
from tinyfleet.export.runtimes import OnnxRuntime, missing_runtimes
from tinyfleet.export.verify import check
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.allocation import erk_counts
from tinyfleet.fedcore.sparsity.mask import apply_mask, density, magnitude_mask

pytestmark = pytest.mark.skipif(int(np.__version__[0]) < 2, reason="this environment has numpy 1")


def test_this_environment_has_no_torch():
    assert importlib.util.find_spec("torch") is None, "make it anew: make clean numpy2"


@pytest.mark.parametrize("name", ["small_cnn", "resnet8", "mobilenet_v2", "sensor_cnn"])
def test_a_sparse_model_is_exported_and_verified(name, tmp_path):
    shape = (6, 100) if name == "sensor_cnn" else (3, 32, 32)
    graph = build(ModelSettings(name=name, input_shape=shape, classes=5))
    params = graph.initial_params(0)
    mask = magnitude_mask(params, erk_counts({n: graph.params[n].shape for n in graph.maskable}, 0.3))
    apply_mask(params, mask)
    x = np.random.default_rng(0).standard_normal((40, *shape)).astype(np.float32)
    path = tmp_path / "reference.onnx"
    path.write_bytes(write_onnx(merge(graph, params, mask), {}))
    reference = OnnxRuntime(path)
    rows = export_model(
        graph, params, mask, tmp_path / "out", formats=("onnx-fp32", "tflite-fp32", "tflite-fp16"), calibration=x,
        x=x, y=reference.run(x).argmax(1), reference=reference.run,
    )  # fmt: skip
    check(rows)
    assert {row.runtime for row in rows} == {"onnxruntime", "ai-edge-litert"}
    assert rows[0].density == pytest.approx(density(mask))


def test_int8_is_calibrated_and_verified(tmp_path):
    graph = build(ModelSettings(name="resnet8", input_shape=(3, 32, 32), classes=5))
    params = graph.initial_params(0)
    mask = magnitude_mask(params, erk_counts({n: graph.params[n].shape for n in graph.maskable}, 0.05))
    apply_mask(params, mask)
    x = np.random.default_rng(0).standard_normal((40, 3, 32, 32)).astype(np.float32)
    path = tmp_path / "reference.onnx"
    path.write_bytes(write_onnx(merge(graph, params, mask), {}))
    reference = OnnxRuntime(path)
    (row,) = export_model(
        graph, params, mask, tmp_path, formats=("tflite-int8",), calibration=x, x=x,
        y=reference.run(x).argmax(1), reference=reference.run,
    )  # fmt: skip
    assert row.max_rel_error < 0.1, row


def test_the_runtime_that_needs_numpy_1_is_named():
    assert "tflite-runtime" in missing_runtimes()

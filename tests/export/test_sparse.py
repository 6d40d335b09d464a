"""Files of the native engine: only what is left is stored, and it computes what the ONNX file does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sparse_engine")
pytest.importorskip("onnxruntime")

import sparse_engine
from tests.export.test_export import realistic, relative, samples
from tests.fedcore.training.graphs import one_dimensional_graph, residual_graph
from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.onnx import write_onnx
from tinyfleet.export.formats.sparse_writer import measured_density, multiply_adds, write_sparse
from tinyfleet.export.formats.table import missing_formats
from tinyfleet.export.inference_graph import merge
from tinyfleet.export.report import export_model
from tinyfleet.export.runtimes import OnnxRuntime, SparseEngine
from tinyfleet.export.verify import check
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.mask import density
from tinyfleet.fedcore.training.native import facts as native_facts

pytestmark = pytest.mark.skipif(bool(missing_formats()), reason="the native engine is not installed")


def logits(content, runtime, x, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    return runtime(path).run(x)


@pytest.mark.parametrize("graph", [residual_graph(), residual_graph(norms=False), one_dimensional_graph()])
def test_it_computes_what_the_onnx_file_does(graph, tmp_path):
    model, x = merge(graph, *realistic(graph, share=0.3)), samples(graph, 21)
    expected = logits(write_onnx(model, {}), OnnxRuntime, x, tmp_path)
    for precision, limit in (("fp32", 1e-5), ("fp16", 5e-3)):
        found = logits(write_sparse(model, precision, {}), SparseEngine, x, tmp_path)
        assert relative(found, expected) < limit


def test_what_a_file_holds():
    graph = build(ModelSettings(name="resnet8", input_shape=(3, 32, 32), classes=7))
    params, mask = realistic(graph, share=0.02)
    model = merge(graph, params, mask)
    content = write_sparse(model, "fp16", {"model": "resnet8"})
    stored = sparse_engine.load_bytes(content)
    assert stored.metadata == {"model": "resnet8"}
    assert not any(layer.op is sparse_engine.Op.BATCH_NORM for layer in stored.model.layers)
    for name, active in mask.items():
        np.testing.assert_array_equal(stored.arrays[name].positions, np.flatnonzero(active))
    assert measured_density(content, graph) == pytest.approx(density(mask))
    weights = sum(len(array.values) for name, array in stored.arrays.items() if name.endswith(".weight"))
    biases = sum(len(array.values) for name, array in stored.arrays.items() if name.endswith(".bias"))
    # Two bytes a value, little more than one a position, four a bias; the rest is the header.
    assert 3 * weights + 4 * biases < len(content) < 3.3 * weights + 4 * biases + 6000
    dense = multiply_adds(merge(graph, realistic(graph)[0], {}))
    assert 2 * dense == graph.flops()
    assert multiply_adds(model) < 0.1 * dense


def test_a_bias_of_zeros_is_left_out():
    graph = one_dimensional_graph()
    params, mask = realistic(graph)
    model = merge(graph, params, mask)
    plain = replace(
        model,
        layers=tuple(
            layer if layer.bias is None else replace(layer, bias=np.zeros_like(layer.bias))
            for layer in model.layers
        ),
    )
    arrays = sparse_engine.load_bytes(write_sparse(plain, "fp32", {})).arrays
    assert not any(name.endswith(".bias") for name in arrays)
    assert len(sparse_engine.load_bytes(write_sparse(model, "fp32", {})).arrays) > len(arrays)


def test_rows_and_file_names(tmp_path):
    graph = residual_graph()
    params, mask = realistic(graph, share=0.3)
    x = samples(graph, 20)
    expected = logits(write_onnx(merge(graph, params, mask), {}), OnnxRuntime, x, tmp_path)
    rows = export_model(
        graph, params, mask, tmp_path, formats=("sparse-fp32", "sparse-fp16"), calibration=x, x=x,
        y=expected.argmax(1), reference=lambda _: expected, normalization={"mean": [0.5]},
    )  # fmt: skip
    check(rows)
    assert [row.runtime for row in rows] == ["sparse-engine"] * 2
    assert rows[1].file_bytes < rows[0].file_bytes
    path = tmp_path / "residual-fp32.tfse"
    assert sparse_engine.load(path).metadata["normalization"] == '{"mean": [0.5]}'


def test_without_the_engine_it_is_left_out_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(native_facts, "fault", lambda: "is not installed")
    graph = one_dimensional_graph()
    params, mask = realistic(graph)
    x = samples(graph, 5)
    arguments = {"calibration": x, "x": x, "y": np.zeros(5, np.int64), "reference": lambda x: np.ones((len(x), 4))}
    assert set(missing_formats()) == {"sparse-fp32", "sparse-fp16"}
    rows = export_model(graph, params, mask, tmp_path, **arguments)
    assert {row.format for row in rows} == {"onnx", "tflite"}
    with pytest.raises(
        ExportError, match="'sparse-fp32' cannot be written: the native engine is not installed: pip"
    ):
        export_model(graph, params, mask, tmp_path, formats=("sparse-fp32",), **arguments)


def test_weights_beyond_half_precision_are_named():
    nodes = (Node("pool", Op.GLOBAL_AVG_POOL, (INPUT,)), Node("out", Op.LINEAR, ("pool",), 2, 3, bias=True))
    graph = Graph("wide", (2, 4, 4), 3, nodes, ())
    params = graph.initial_params(0)
    params["out.weight"][0, 0] = 1e5
    model = merge(graph, params, {})
    with pytest.raises(
        ExportError, match=r"wide cannot be .* out\.weight holds 100000, too large for fp16; write fp32"
    ):
        write_sparse(model, "fp16", {})
    assert write_sparse(model, "fp32", {})

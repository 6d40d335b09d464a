"""Exported files against the trained model, in every runtime that is installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx")
pytest.importorskip("flatbuffers")

from tests.fedcore.training.graphs import one_dimensional_graph, residual_graph
from tinyfleet.export import runtimes
from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.onnx import write_onnx
from tinyfleet.export.formats.table import FORMATS, missing_formats
from tinyfleet.export.formats.tflite.writer import write_tflite
from tinyfleet.export.inference_graph import merge
from tinyfleet.export.report import export_model
from tinyfleet.export.runtimes import OnnxRuntime, missing_runtimes, open_all
from tinyfleet.export.verify import check
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op, Role
from tinyfleet.fedcore.models.registry import build, names
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.allocation import uniform_counts
from tinyfleet.fedcore.sparsity.mask import apply_mask, density, random_mask
from tinyfleet.fedcore.training.registry import available, create

needs_engine = pytest.mark.skipif(not available(), reason="no training engine is installed")


def realistic(graph, seed=0, share=None):
    """Params with lived-in norms, and a random mask."""
    rng = np.random.default_rng(seed)
    params = graph.initial_params(seed)
    for name, spec in graph.params.items():
        if spec.role in (Role.RUNNING_MEAN, Role.NORM_SHIFT, Role.BIAS):
            params[name] = rng.normal(0, 0.2, spec.shape).astype(np.float32)
        elif spec.role in (Role.RUNNING_VAR, Role.NORM_SCALE):
            params[name] = rng.uniform(0.5, 1.5, spec.shape).astype(np.float32)
    mask = {}
    if share:
        shapes = {name: graph.params[name].shape for name in graph.maskable}
        mask = random_mask(shapes, uniform_counts(shapes, share), rng)
        apply_mask(params, mask)
    return params, mask


def trained_on(graph, params, mask):
    engine = create()
    engine.load(graph, params, mask)
    return engine.predict


def samples(graph, count, seed=5):
    return np.random.default_rng(seed).standard_normal((count, *graph.input_shape)).astype(np.float32)


def relative(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


@needs_engine
@pytest.mark.parametrize("graph", [residual_graph(), residual_graph(norms=False), one_dimensional_graph()])
def test_every_format_computes_what_the_model_does(graph, tmp_path):
    params, mask = realistic(graph, share=0.4)
    x = samples(graph, 70)
    reference = trained_on(graph, params, mask)
    y = reference(x).argmax(1)
    rows = export_model(
        graph, params, mask, tmp_path, calibration=samples(graph, 128, 1), x=x, y=y, reference=reference
    )
    check(rows)
    for row in rows:
        limit = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.15}[row.precision]
        assert row.max_rel_error < limit, row
        assert row.accuracy == row.argmax_agreement, "the labels are the model's own decisions"
        assert row.latency_ms > 0
        assert row.file_bytes == Path(row.path).stat().st_size
    runtimes = {"onnxruntime", "ai-edge-litert", "tflite-runtime", "sparse-engine"} - missing_runtimes().keys()
    assert {row.runtime for row in rows} == runtimes
    assert {(row.format, row.precision) for row in rows} == {
        tuple(name.split("-")) for name in FORMATS if name not in missing_formats()
    }
    for row in rows:
        assert row.density == (None if row.format == "tflite" else pytest.approx(density(mask)))
    manifest = json.loads((tmp_path / "export.json").read_text())
    assert manifest["sha256"].keys() == {Path(row.path).name for row in rows}


@needs_engine
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in ("resnet18", "vgg11", "mobilenet_v2") else ())
        for n in names()
    ],
)
def test_every_model_exports(name, tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "LATENCY_SECONDS", 0.0)  # the fewest runs; how fast they are is not asked here
    shape = (6, 100) if name == "sensor_cnn" else (3, 32, 32)
    graph = build(ModelSettings(name=name, input_shape=shape, classes=7))
    params, mask = realistic(graph, share=0.3)
    x = samples(graph, 12)
    reference = trained_on(graph, params, mask)
    formats = {"onnx-fp32", "tflite-fp32", "tflite-int8", "sparse-fp32"} - missing_formats().keys()
    rows = export_model(
        graph, params, mask, tmp_path, formats=sorted(formats), calibration=samples(graph, 32, 1), x=x,
        y=np.zeros(12, np.int64), reference=reference,
    )  # fmt: skip
    for row in rows:
        assert row.max_rel_error < {"fp32": 2e-5, "int8": 0.3}[row.precision], row
    assert len({row.path for row in rows}) == len(formats)


@needs_engine
def test_the_padded_pool_of_the_imagenet_stem(tmp_path):
    settings = ModelSettings(
        name="resnet18", input_shape=(3, 33, 31), classes=4, arguments={"stem": "imagenet", "width": 8}
    )
    graph = build(settings)
    params, mask = realistic(graph)
    x = samples(graph, 5)
    rows = export_model(
        graph, params, mask, tmp_path, formats=("onnx-fp32", "tflite-fp32"), calibration=x, x=x,
        y=np.zeros(5, np.int64), reference=trained_on(graph, params, mask),
    )  # fmt: skip
    assert all(row.max_rel_error < 2e-5 for row in rows)


@st.composite
def small_graphs(draw):
    channels, first = draw(st.integers(1, 3)), draw(st.integers(5, 11))
    size = first
    nodes, last, width = [], INPUT, channels
    for index in range(draw(st.integers(1, 3))):
        kernel = draw(st.sampled_from([1, 2, 3, 5]))
        padding = draw(st.integers(0, kernel // 2))
        stride = draw(st.integers(1, 2))
        after = (size + 2 * padding - kernel) // stride + 1
        if after < 2:
            break
        depthwise = index > 0 and draw(st.booleans())
        out = width if depthwise else draw(st.integers(1, 6))
        name = f"conv{index}"
        nodes.append(
            Node(
                name, Op.CONV, (last,), width, out, (kernel, kernel), (stride, stride), (padding, padding),
                width if depthwise else 1, draw(st.booleans()),
            )
        )  # fmt: skip
        last, width, size = name, out, after
        if draw(st.booleans()):
            nodes.append(Node(f"norm{index}", Op.BATCH_NORM, (last,), out, out))
            last = f"norm{index}"
        if draw(st.booleans()):
            nodes.append(Node(f"act{index}", draw(st.sampled_from([Op.RELU, Op.RELU6])), (last,)))
            last = f"act{index}"
    if draw(st.booleans()):
        nodes.append(Node("twice", Op.ADD, (last, last)))
        last = "twice"
    if size >= 2 and draw(st.booleans()):
        nodes.append(Node("max", Op.MAX_POOL, (last,), kernel=(2, 2), stride=(2, 2), padding=(0, 0)))
        last, size = "max", (size - 2) // 2 + 1
    if draw(st.booleans()):
        nodes.append(Node("flat", Op.FLATTEN, (last,)))
        width *= size * size
    else:
        nodes.append(Node("flat", Op.GLOBAL_AVG_POOL, (last,)))
    nodes.append(Node("out", Op.LINEAR, ("flat",), width, 3, bias=True))
    return Graph("random", (channels, first, first), 3, tuple(nodes), ())


@needs_engine
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(small_graphs(), st.integers(0, 3))
def test_random_graphs_agree(tmp_path, graph, seed):
    params, _ = realistic(graph, seed)
    x = samples(graph, 3, seed)
    expected = trained_on(graph, params, {})(x)
    model = merge(graph, params, {})
    for suffix, content in (("onnx", write_onnx(model, {})), ("tflite", write_tflite(model))):
        path = tmp_path / f"random.{suffix}"
        path.write_bytes(content)
        for runtime in open_all(path):
            assert np.abs(runtime.run(x) - expected).max() < 1e-4 * max(1.0, np.abs(expected).max()), runtime.name


def test_merging_keeps_zeros_and_needs_no_engine():
    graph = residual_graph()
    params, mask = realistic(graph, share=0.2)
    model = merge(graph, params, mask)
    assert not any(layer.op is Op.BATCH_NORM for layer in model.layers)
    for layer in model.layers:
        if layer.node.weight in mask:
            assert not layer.weight[~mask[layer.node.weight]].any()


def bad(*nodes, shape=(2, 6, 6)):
    return Graph("bad", shape, 2, nodes, ())


def test_what_cannot_be_exported_says_so():
    conv = Node("c", Op.CONV, (INPUT,), 2, 4, (3, 3), (1, 1), (1, 1))
    norm = Node("n", Op.BATCH_NORM, ("r",), 4, 4)
    graph = bad(conv, Node("r", Op.RELU, ("c",)), norm)
    with pytest.raises(ExportError, match="batch_norm n"):
        merge(graph, graph.initial_params(0), {})
    graph = bad(conv, Node("f", Op.FLATTEN, ("c",)), Node("r", Op.RELU, ("f",)))
    with pytest.raises(ExportError, match=r"f: a flattened image must go into linear layers, not \['r'\]"):
        write_tflite(merge(graph, graph.initial_params(0), {}))


def test_unknown_formats_and_missing_calibration(tmp_path):
    graph = one_dimensional_graph()
    params, mask = realistic(graph)
    x = samples(graph, 2)
    arguments = {"x": x, "y": np.zeros(2, np.int64), "reference": lambda x: np.zeros((len(x), 4), np.float32)}
    with pytest.raises(ExportError, match="did you mean 'onnx-fp32'"):
        export_model(graph, params, mask, tmp_path, formats=("onnx-fp8",), calibration=x, **arguments)
    with pytest.raises(ExportError, match="calibration samples"):
        export_model(graph, params, mask, tmp_path, formats=("tflite-int8",), calibration=x[:0], **arguments)


@needs_engine
def test_a_file_that_computes_something_else_is_named(tmp_path):
    graph = one_dimensional_graph()
    params, mask = realistic(graph)
    x = samples(graph, 20)
    rows = export_model(
        graph, params, mask, tmp_path, formats=("onnx-fp32",), calibration=x, x=x, y=np.zeros(20, np.int64),
        reference=lambda x: -trained_on(graph, params, mask)(x),
    )  # fmt: skip
    with pytest.raises(ExportError, match=r"sensor-fp32\.onnx in onnxruntime"):
        check(rows)


@needs_engine
@pytest.mark.filterwarnings("ignore")
def test_the_onnx_file_computes_what_torch_s_own_exporter_writes(tmp_path):
    import torch

    from tinyfleet.fedcore.training.torch.forward import Mode, forward

    graph = residual_graph()
    params, mask = realistic(graph, share=0.5)

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tensors = {name: torch.from_numpy(value) for name, value in params.items()}

        def forward(self, x):
            return forward(graph, self.tensors, x, Mode(training=False))

    x = samples(graph, 4)
    path = tmp_path / "torch.onnx"
    torch.onnx.export(Module().eval(), (torch.from_numpy(x),), str(path), dynamo=False)
    ours = tmp_path / "ours.onnx"
    ours.write_bytes(write_onnx(merge(graph, params, mask), {"model": "residual"}))
    assert relative(OnnxRuntime(ours).run(x), OnnxRuntime(path).run(x)) < 1e-5

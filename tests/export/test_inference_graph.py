"""Normalised weights and ReLU gains merge into plain layers that compute what the engine does."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("flatbuffers")

from tests.export.test_export import realistic, relative, samples, trained_on
from tests.fedcore.training.graphs import conv
from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.onnx import write_onnx
from tinyfleet.export.formats.tflite.writer import write_tflite
from tinyfleet.export.inference_graph import merge
from tinyfleet.export.report import export_model
from tinyfleet.export.runtimes import open_all
from tinyfleet.export.verify import check
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op, Role
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.registry import available

needs_engine = pytest.mark.skipif(not available(), reason="no training engine is installed")
MODELS = {"resnet8": {"width": 8}, "resnet20": {"width": 4}, "small_cnn": {}, "mobilenet_v2": {"width": 0.25}}


def model(name, norm, share=0.1, width=None):
    """A graph with random gains and biases, and a random mask."""
    shape = (6, 60) if name == "sensor_cnn" else (3, 16, 16)
    arguments = {"norm": norm, **({"width": width} if width else MODELS.get(name, {}))}
    graph = build(ModelSettings(name=name, input_shape=shape, classes=5, arguments=arguments))
    params, mask = realistic(graph, share=share)
    rng = np.random.default_rng(7)
    for key, spec in graph.params.items():
        if spec.role is Role.GAIN:
            params[key] = rng.uniform(0.5, 1.5, spec.shape).astype(np.float32)
    return graph, params, mask


@needs_engine
@pytest.mark.parametrize("norm", ["nsconv", "nsconv-all"])
@pytest.mark.parametrize("name", [*MODELS, "sensor_cnn"])
def test_merged_models_compute_what_the_engine_does(name, norm, tmp_path):
    graph, params, mask = model(name, norm)
    x = samples(graph, 9)
    expected = trained_on(graph, params, mask)(x)
    merged = merge(graph, params, mask)
    for suffix, content in (("onnx", write_onnx(merged, {})), ("tflite", write_tflite(merged))):
        path = tmp_path / f"model.{suffix}"
        path.write_bytes(content)
        for runtime in open_all(path):
            assert relative(runtime.run(x), expected) < 1e-4, runtime.name
    for layer in merged.layers:
        if layer.node.weight in mask:
            assert not layer.weight[~mask[layer.node.weight]].any()


@needs_engine
def test_every_precision_of_a_normalised_model(tmp_path):
    graph, params, mask = model("resnet8", "nsconv", share=0.5, width=16)
    x = samples(graph, 60)
    reference = trained_on(graph, params, mask)
    rows = export_model(
        graph, params, mask, tmp_path, calibration=samples(graph, 128, 1), x=x, y=reference(x).argmax(1),
        reference=reference,
    )  # fmt: skip
    check(rows)
    for row in rows:
        assert row.max_rel_error < {"fp32": 1e-4, "fp16": 5e-3, "int8": 0.15}[row.precision], row


def relu(name, source, gain):
    return Node(name, Op.RELU, (source,), gain=gain)


def chain(*nodes):
    tail = [Node("pool", Op.GLOBAL_AVG_POOL, (nodes[-1].name,)), Node("out", Op.LINEAR, ("pool",), 4, 2, bias=True)]
    return Graph("chain", (3, 6, 6), 2, (*nodes, *tail), ())


STEM = (conv("stem", INPUT, 3, 4, bias=True), relu("act", "stem", 2.0))


@needs_engine
@pytest.mark.parametrize(
    "nodes",
    [
        (conv("main", "act", 4, 4, bias=True), Node("sum", Op.ADD, ("main", "act"))),
        (conv("main", "act", 4, 4, bias=True), Node("sum", Op.ADD, ("act", "main"))),
        (Node("half", Op.MAX_POOL, ("act",), kernel=(2, 2), stride=(2, 2), padding=(0, 0)),
         conv("main", "half", 4, 4), relu("again", "main", 3.0), Node("sum", Op.ADD, ("again", "again"))),
        (conv("a", "act", 4, 4), conv("b", "act", 4, 4), Node("sum", Op.ADD, ("a", "b")), relu("last", "sum", 0.5)),
    ],
)  # fmt: skip
def test_gains_meet_at_additions(nodes, tmp_path):
    graph = chain(*STEM, *nodes)
    params, _ = realistic(graph)
    x = samples(graph, 4)
    path = tmp_path / "model.onnx"
    path.write_bytes(write_onnx(merge(graph, params, {}), {}))
    for runtime in open_all(path):
        assert relative(runtime.run(x), trained_on(graph, params, {})(x)) < 1e-5


def test_a_branch_that_others_read_keeps_its_scale():
    shared = (conv("main", "act", 4, 4), Node("sum", Op.ADD, ("main", "act")), conv("other", "main", 4, 4))
    graph = chain(*STEM, *shared)
    with pytest.raises(ExportError, match="unequal gains 1 and 2"):
        merge(graph, graph.initial_params(0), {})


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((relu("next", "act", 1.5), Node("sum", Op.ADD, ("next", "act"))), "unequal gains 3 and 2"),
        ((Node("six", Op.RELU6, ("act",)),), "six: a relu6 of an input with gain 2"),
        ((relu("none", "act", 0.0),), "gain 0.0 is not positive"),
    ],
)
def test_gains_that_cannot_be_merged(nodes, message):
    graph = chain(*STEM, *nodes)
    with pytest.raises(ExportError, match=message):
        merge(graph, graph.initial_params(0), {})


def test_a_model_ends_without_a_gain():
    graph = Graph("bare", (3, 6, 6), 4, (*STEM, Node("pool", Op.GLOBAL_AVG_POOL, ("act",))), ())
    with pytest.raises(ExportError, match="pool ends the model with a gain"):
        merge(graph, graph.initial_params(0), {})


def test_gains_multiply_along_an_identity_path():
    graph, params, mask = model("resnet20", "nsconv", share=None)
    merged = {layer.name: layer for layer in merge(graph, params, mask).layers}
    first, second = (np.abs(merged[f"stage1.{unit}.conv2"].bias) for unit in (0, 1))
    gains = {node.name: node.gain for node in graph.nodes}
    before, after = gains["stem.act"], gains["stem.act"] * gains["stage1.0.act"]
    np.testing.assert_allclose(first * before, np.abs(params["stage1.0.conv2.bias"]), rtol=1e-6)
    np.testing.assert_allclose(second * after, np.abs(params["stage1.1.conv2.bias"]), rtol=1e-6)
    assert before > 1.0

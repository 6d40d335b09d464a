"""Compaction removes what does nothing, and the outputs stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("flatbuffers")

from tests.export.test_export import realistic, relative, samples, small_graphs
from tests.fedcore.training.graphs import conv, one_dimensional_graph, residual_graph
from tinyfleet.export.compact import compact, multiply_adds
from tinyfleet.export.formats.onnx import write_onnx
from tinyfleet.export.formats.tflite.writer import write_tflite
from tinyfleet.export.inference_graph import merge
from tinyfleet.export.runtimes import OnnxRuntime, open_all
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op
from tinyfleet.fedcore.models.registry import build, names
from tinyfleet.fedcore.run_spec import ModelSettings

WIDTHS = {"resnet18": 16, "vgg11": 16, "mobilenet_v2": 0.5}


def logits(model, x, directory):
    path = directory / "model.onnx"
    path.write_bytes(write_onnx(model, {}))
    return OnnxRuntime(path).run(x)


def lines_mask(graph, share, rng):
    """Whole rows and columns of every maskable weight off, leaving about ``share``; the first of each stay."""
    mask = {}
    for name in graph.maskable:
        shape = graph.params[name].shape
        rows, columns = (rng.random(size) < share**0.5 for size in shape[:2])
        rows[0] = columns[0] = True
        mask[name] = np.broadcast_to((rows[:, None] & columns).reshape(*shape[:2], *[1] * (len(shape) - 2)), shape)
    return mask


@pytest.mark.parametrize("share", [0.01, 0.05])
@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("name", names())
def test_sparse_models_keep_their_outputs(name, structured, share, tmp_path):
    shape = (6, 60) if name == "sensor_cnn" else (3, 16, 16)
    for norm in ("batch", "nsconv"):
        arguments = {"norm": norm} | ({"width": WIDTHS[name]} if name in WIDTHS else {})
        graph = build(ModelSettings(name=name, input_shape=shape, classes=7, arguments=arguments))
        params, mask = realistic(graph, share=share)
        if structured:
            mask = lines_mask(graph, share, np.random.default_rng(1))
        model = merge(graph, params, mask)
        small = compact(model)
        x = samples(graph, 3)
        assert relative(logits(small, x, tmp_path), logits(model, x, tmp_path)) < 1e-5
        assert multiply_adds(model) * 2 == graph.flops()
        most = 0.5 if structured else 1.0 if share == 0.05 else 0.999
        assert multiply_adds(small) <= most * multiply_adds(model)
        path = tmp_path / "small.tflite"
        path.write_bytes(write_tflite(small))
        for runtime in open_all(path):
            assert relative(runtime.run(x), logits(model, x, tmp_path)) < 1e-5


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(small_graphs(), st.integers(0, 1000), st.sampled_from([0.1, 0.4, 0.8]))
def test_random_graphs_keep_their_outputs(tmp_path, graph, seed, share):
    params, _ = realistic(graph, seed)
    rng = np.random.default_rng(seed)
    for node in graph.nodes:
        if node.op in (Op.CONV, Op.LINEAR):
            params[node.weight] *= rng.random(params[node.weight].shape) < share
            params[node.weight][rng.random(len(params[node.weight])) > share] = 0.0
    model, x = merge(graph, params, {}), samples(graph, 3, seed)
    small, expected = compact(model), logits(model, x, tmp_path)
    assert np.abs(logits(small, x, tmp_path) - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())
    assert [layer.shape for layer in compact(small).layers] == [layer.shape for layer in small.layers]


def shapes(graph, params):
    model = merge(graph, params, {})
    return {layer.name: layer.shape[0] for layer in compact(model).layers}


def plain(kernel=3):
    """Stem (8) -> ReLU -> next (6) -> ReLU -> pool -> output (3), all weights and biases positive."""
    nodes = (
        conv("stem", INPUT, 2, 8, kernel=3, bias=True), Node("stem_act", Op.RELU, ("stem",)),
        conv("next", "stem_act", 8, 6, kernel=kernel, bias=True), Node("next_act", Op.RELU, ("next",)),
        Node("pool", Op.GLOBAL_AVG_POOL, ("next_act",)), Node("output", Op.LINEAR, ("pool",), 6, 3, bias=True),
    )  # fmt: skip
    graph = Graph("plain", (2, 6, 6), 3, nodes, ())
    rng = np.random.default_rng(0)
    params = {name: rng.uniform(0.5, 1.0, spec.shape).astype(np.float32) for name, spec in graph.params.items()}
    return graph, params


def test_a_model_without_dead_channels_stays_as_it_is():
    model = merge(*plain(), {})
    small = compact(model)
    for before, after in zip(model.layers, small.layers, strict=True):
        assert before.node == after.node
        assert before.shape == after.shape
        if before.weight is not None:
            assert np.array_equal(before.weight, after.weight)
            assert np.array_equal(before.bias, after.bias)


def test_a_channel_that_nobody_reads_goes():
    graph, params = plain()
    params["next.weight"][:, [1, 5]] = 0.0
    assert shapes(graph, params) == {
        "stem": 6, "stem_act": 6, "next": 6, "next_act": 6, "pool": 6, "output": 3,
    }  # fmt: skip


def test_a_silent_filter_goes_and_takes_its_inputs_along():
    graph, params = plain()
    params["next.weight"][:, :4] = 0.0
    params["next.weight"][2, 0] = 1.0  # the only reader of channel 0
    params["next.weight"][2, 1:] = 0.0
    params["output.weight"][:, 2] = 0.0
    assert shapes(graph, params)["next"] == 5
    assert shapes(graph, params)["stem"] == 4


@pytest.mark.parametrize(
    ("kernel", "bias", "left"),
    [(3, -1.0, 5), (1, -1.0, 5), (1, 0.0, 5), (1, 0.7, 5), (3, 0.7, 6)],
    ids=["padded, zero", "zero", "no bias", "constant", "padded, constants share a channel"],
)
def test_dead_filters_of_every_kind(kernel, bias, left, tmp_path):
    graph, params = plain(kernel)
    params["stem.weight"][:3] = 0.0
    params["stem.bias"][:3] = bias * np.array([1.0, 0.5, 0.8])
    model, x = merge(graph, params, {}), samples(graph, 4)
    small = compact(model)
    assert {layer.name: layer.shape[0] for layer in small.layers}["stem"] == left
    assert relative(logits(small, x, tmp_path), logits(model, x, tmp_path)) < 1e-6


def residual(dead_in):
    """The residual test graph with filters 0 to 2 of the named layers dead and silent."""
    graph = residual_graph(norms=False)
    params, _ = realistic(graph)
    for name in dead_in:
        params[f"{name}.weight"][:3] = 0.0
        if f"{name}.bias" in params:
            params[f"{name}.bias"][:3] = 0.0
    return graph, params


def test_tied_channels_go_together_or_not_at_all(tmp_path):
    assert shapes(*residual(["shortcut"]))["sum"] == 16
    assert shapes(*residual(["depthwise"]))["sum"] == 16
    graph, params = residual(["shortcut", "wide", "depthwise"])
    after = shapes(graph, params)
    tied = ("wide", "wide_relu", "depthwise", "shortcut", "sum", "sum_relu", "pool")
    assert {after[name] for name in tied} == {13}
    assert after["flat"] == 13 * 4
    small = {layer.name: layer for layer in compact(merge(graph, params, {})).layers}
    node = small["depthwise"].node
    assert node.groups == node.in_channels == node.out_channels == 13
    assert small["hidden"].weight.shape == (24, 13 * 4)


def test_one_channel_stays_in_a_layer_that_is_all_dead(tmp_path):
    graph = one_dimensional_graph()
    params, _ = realistic(graph)
    params["wide.weight"][:] = 0.0
    assert shapes(graph, params) == {
        "stem": 1, "relu": 1, "wide": 1, "wide_relu": 1, "pool": 1, "output": 4,
    }  # fmt: skip
    model, x = merge(graph, params, {}), samples(graph, 2)
    assert relative(logits(compact(model), x, tmp_path), logits(model, x, tmp_path)) < 1e-6


def test_layers_that_are_left_alone_keep_their_channels(tmp_path):
    """A grouped convolution, and a flat image that something else than a linear layer reads."""
    nodes = (
        conv("stem", INPUT, 2, 8, kernel=1), conv("grouped", "stem", 8, 8, groups=2),
        Node("flat", Op.FLATTEN, ("grouped",)), Node("act", Op.RELU, ("flat",)),
        Node("output", Op.LINEAR, ("act",), 8 * 9, 3, bias=True),
    )  # fmt: skip
    graph = Graph("left", (2, 3, 3), 3, nodes, ())
    params, _ = realistic(graph)
    for name in ("stem", "grouped", "output"):
        params[f"{name}.weight"][0] = 0.0
    model, x = merge(graph, params, {}), samples(graph, 2)
    small = compact(model)
    assert [layer.shape for layer in small.layers] == [layer.shape for layer in model.layers]
    assert relative(logits(small, x, tmp_path), logits(model, x, tmp_path)) < 1e-6


def test_multiply_adds_are_half_the_flops():
    graph = residual_graph()
    assert 2 * multiply_adds(merge(graph, graph.initial_params(0), {})) == graph.flops()

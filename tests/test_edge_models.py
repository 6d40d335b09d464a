"""Networks of edge devices, small: both engines agree step by step, and every file computes what was trained."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sparse_engine")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

from tests.edge_models import EDGE_MODELS
from tests.export.test_export import realistic, relative, samples
from tinyfleet.export.compact import compact, multiply_adds
from tinyfleet.export.formats.onnx import write_onnx
from tinyfleet.export.inference_graph import merge
from tinyfleet.export.report import export_model
from tinyfleet.export.runtimes import open_all
from tinyfleet.fedcore.models.graph import Op
from tinyfleet.fedcore.sparsity.mask import density
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.levers import Levers
from tinyfleet.fedcore.training.registry import create

MORE_LEVERS = (Levers(micro_batch=5, recompute=2), Levers(recompute=1))
LEAST_ERRORS = {"fp32": 1e-4, "fp16": 5e-3, "int8": 0.2}


def loaded(name, graph, params, mask):
    engine = create(name)
    engine.load(graph, params, mask)
    return engine


@pytest.mark.parametrize(
    "levers",
    [Levers(), *(pytest.param(levers, marks=pytest.mark.slow) for levers in MORE_LEVERS)],
    ids=str,
)
@pytest.mark.parametrize("name", EDGE_MODELS)
def test_engines_agree_over_five_steps(name, levers):
    graph = EDGE_MODELS[name]
    params, mask = realistic(graph, share=0.5)
    x, y = samples(graph, 12), np.arange(12) % 4
    engines = [loaded(engine, graph, params, mask) for engine in ("native", "torch")]
    settings = StepSettings(0.02, momentum=0.9, levers=levers)
    for _ in range(5):
        native, torch = (engine.train_step(x, y, settings) for engine in engines)
        assert native == pytest.approx(torch, abs=1e-4)
    assert relative(*(engine.predict(x) for engine in engines)) < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", EDGE_MODELS)
def test_pruned_caches_are_alike_in_both_engines(name):
    graph = EDGE_MODELS[name]
    params, mask = realistic(graph, share=0.5)
    x, y = samples(graph, 12), np.arange(12) % 4
    losses = []
    for engine in ("native", "torch"):
        made = loaded(engine, graph, params, mask)
        settings = StepSettings(0.02, momentum=0.9, levers=Levers(activation_keep=0.4))
        losses.append([made.train_step(x, y, settings) for _ in range(2)])
    # What is kept is a sample's threshold in torch, and exact in the native engine.
    np.testing.assert_allclose(losses[0], losses[1], atol=0.05)


@pytest.mark.parametrize("name", EDGE_MODELS)
def test_growth_finds_the_same_weights_in_both_engines(name):
    graph = EDGE_MODELS[name]
    params, mask = realistic(graph, share=0.5)
    x, y = samples(graph, 8), np.arange(8) % 4
    found = [loaded(e, graph, params, mask).dense_gradients(x, y, graph.maskable) for e in ("native", "torch")]
    for weight in graph.maskable:
        np.testing.assert_allclose(found[0][weight], found[1][weight], rtol=1e-3, atol=2e-5, err_msg=weight)


@pytest.mark.parametrize("name", EDGE_MODELS)
def test_a_tenth_of_the_weights_is_exported_to_every_format(name, tmp_path):
    graph = EDGE_MODELS[name]
    params, mask = realistic(graph, share=0.1)
    assert density(mask) == pytest.approx(0.1, abs=0.02)
    x = samples(graph, 70)
    reference = loaded("native", graph, params, mask).predict
    y = reference(x).argmax(1)
    calibration = np.concatenate([x, samples(graph, 64, 1)])
    rows = export_model(graph, params, mask, tmp_path, calibration=calibration, x=x, y=y, reference=reference)
    assert {row.format for row in rows} >= {"onnx", "tflite", "sparse"}
    for row in rows:
        assert row.max_rel_error < LEAST_ERRORS[row.precision], row
    whole = merge(graph, params, mask)
    small = compact(whole)
    # Channels of groups are not told apart, and of few filters none is empty.
    if name not in ("grouped", "autoencoder"):
        assert multiply_adds(small) < multiply_adds(whole)
    path = tmp_path / "small.onnx"
    path.write_bytes(write_onnx(small, {}))
    (runtime, *_) = open_all(path)
    assert relative(runtime.run(x), reference(x)) < 1e-4


def test_the_models_have_every_kind_but_those_of_other_tests():
    kinds = {node.op for graph in EDGE_MODELS.values() for node in graph.nodes}
    assert set(Op) - kinds <= {Op.SOFTMAX, Op.CROP, Op.FLATTEN, Op.RELU6}

"""Every kind of layers through every part that has to know it: each works, in numbers, or refuses it by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sparse_engine")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.export.test_export import realistic, relative, samples
from tests.fedcore.training.reference import Reference
from tests.layer_kinds import ACT, BODY, CASES, CONSUMERS, STEM, graph, table
from tinyfleet.export.compact import compact
from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats import onnx
from tinyfleet.export.formats.sparse_writer import write_sparse
from tinyfleet.export.formats.tflite import operators
from tinyfleet.export.formats.tflite.quantize import calibrate
from tinyfleet.export.formats.tflite.writer import write_tflite
from tinyfleet.export.inference_graph import Inference, Layer, merge
from tinyfleet.export.runtimes import open_all
from tinyfleet.fedcore import accounting
from tinyfleet.fedcore.errors import UnsupportedLayer
from tinyfleet.fedcore.methods.synflow import linearised
from tinyfleet.fedcore.models.graph import Graph, Node, Op, ParamSpec, Role, WeightNorm
from tinyfleet.fedcore.models.layers import kind as facts
from tinyfleet.fedcore.models.layers.kind import LayerKind
from tinyfleet.fedcore.models.layers.table import KINDS
from tinyfleet.fedcore.models.weight_norm import normalized_weight
from tinyfleet.fedcore.planning.native_memory import NativeSteps
from tinyfleet.fedcore.planning.torch_memory import StepShape, step_bytes
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.registry import create
from tinyfleet.fedcore.training.torch import forward

STEP = StepSettings(0.1)
PAGE = 4096  # bytes: what arenas are multiples of


# -- the consumers, each with what its numbers have to be -------------------------------


class Trained:
    """A graph with lived-in numbers and a mask; exact logits and a float64 model that gives them."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.params, self.mask = realistic(graph, share=0.5)
        self.x = samples(graph, 12)
        # With those that are compared: what lies beyond the calibrated range is clipped, which is no kind's fault.
        self.calibration = np.concatenate([self.x, samples(graph, 64, 1)])
        self.y = np.arange(12) % graph.classes

    @property
    def exact(self):
        plain = dict(self.params)
        for node in self.graph.nodes:
            if node.weight_norm:
                gain, active = plain.pop(node.filter_gain), self.mask.get(node.weight)
                plain[node.weight] = normalized_weight(plain[node.weight], gain, active, node.weight_norm)
        nodes = tuple(replace(node, weight_norm=WeightNorm.NONE) for node in self.graph.nodes)
        return Reference(replace(self.graph, nodes=nodes, blocks=()), plain).eval()

    @property
    def logits(self):
        with torch.no_grad():
            return self.exact(torch.from_numpy(self.x).double()).numpy()

    def merged(self):
        return merge(self.graph, self.params, self.mask)

    def engine(self, name):
        engine = create(name)
        engine.load(self.graph, self.params, self.mask)
        return engine


def in_runtimes(content, suffix, trained, tmp_path, limit):
    """A file's logits in every runtime that is here, at least one."""
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(content)
    runtimes = list(open_all(path))
    assert runtimes
    for runtime in runtimes:
        assert relative(runtime.run(trained.x), trained.logits) < limit, runtime.name


def check_accounting(trained, tmp_path):
    """FLOPs as torch counts them; memory that grows with the batch and shrinks where caches are pruned."""
    graph = trained.graph
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trained.exact(torch.from_numpy(trained.x[:1]).double())
    assert graph.flops() == counter.get_total_flops()
    held = accounting.activation_bytes(graph, 2)
    assert accounting.activation_bytes(graph, 4) == 2 * held
    assert accounting.activation_bytes(graph, 2, activation_keep=0.1, pruned_norm=True) < held
    assert accounting.training_memory(graph, trained.mask, 2, held=1) > held


def check_torch(trained, tmp_path):
    assert relative(trained.engine("torch").predict(trained.x), trained.logits) < 1e-5


def check_native(trained, tmp_path):
    """Forward as the float64 model; backward, after one step, as the other engine."""
    native = trained.engine("native")
    assert relative(native.predict(trained.x), trained.logits) < 1e-5
    reference = trained.engine("torch")
    losses = [engine.train_step(trained.x, trained.y, STEP) for engine in (native, reference)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    expected = reference.params()
    for name, values in native.params().items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=2e-6, err_msg=name)


def check_plan_torch(trained, tmp_path):
    """No less than what autograd really holds after the forward pass, and little more than that."""
    graph = trained.graph
    tensors = {name: torch.from_numpy(values.copy()) for name, values in trained.params.items()}
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    for name in set(tensors) - set(graph.statistics):
        tensors[name].requires_grad_(True)
    held = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = forward.forward(graph, tensors, torch.from_numpy(trained.x), forward.Mode(True, 0.1))
    saved = sum(size for at, size in held.items() if at not in own)
    del logits
    largest = max(math.prod(shape) for shape in graph.shapes.values()) * len(trained.x) * 4
    weights = max(graph.params[node.weight].size for node in graph.weighted) * 4
    planned = step_bytes(graph, StepShape(len(trained.x)))
    assert saved <= planned <= saved + 4 * largest + 2 * weights


def check_plan_native(trained, tmp_path):
    """The arena that a step of the network takes."""
    active = {name: int(active.sum()) for name, active in trained.mask.items()}
    steps = NativeSteps(trained.graph, active)
    engine = trained.engine("native")
    engine.train_step(trained.x, trained.y, STEP)
    assert 0 <= engine._loaded.arena_bytes - steps.step_bytes(12, STEP) < PAGE


def check_merge(trained, tmp_path):
    """Only plain layers are left, and masked weights are zero."""
    model = trained.merged()
    assert not any(KINDS[layer.op].affine or KINDS[layer.op].vanishes for layer in model.layers)
    for layer in model.layers:
        active = trained.mask.get(layer.node.weight)
        if active is not None:
            assert not layer.weight[~active].any()


def nonzeros(model):
    return sum(np.count_nonzero(layer.weight) for layer in model.layers if layer.weight is not None)


def check_compact(trained, tmp_path):
    """With half of the first layer's filters dead there are fewer weights, and they compute what all did."""
    dead = Trained(trained.graph)
    stem = trained.graph.nodes[0].name
    dead.params[f"{stem}.weight"][::2] = 0.0
    whole = dead.merged()
    small = compact(whole)
    before, after = nonzeros(whole), nonzeros(small)
    assert after < before or KINDS["conv"].channels.flow(trained.graph.nodes[2]) is facts.Flow.WHOLE
    in_runtimes(onnx.write_onnx(small, {}), "onnx", dead, tmp_path, 1e-5)


def check_onnx(trained, tmp_path):
    in_runtimes(onnx.write_onnx(trained.merged(), {}), "onnx", trained, tmp_path, 1e-5)


def check_tflite(trained, tmp_path):
    in_runtimes(write_tflite(trained.merged()), "tflite", trained, tmp_path, 1e-5)


def check_int8(trained, tmp_path):
    model = trained.merged()
    in_runtimes(write_tflite(model, calibrate(model, trained.calibration)), "tflite", trained, tmp_path, 0.05)


def check_sparse(trained, tmp_path):
    in_runtimes(write_sparse(trained.merged(), "fp32", {}), "tfse", trained, tmp_path, 1e-5)


def check_synflow(trained, tmp_path):
    """Where weights and inputs are not negative its network is homogeneous: twice the input, twice the output."""
    linear = linearised(trained.graph)
    numbers = {
        name: np.abs(trained.params[name]) * (spec.role is Role.WEIGHT) for name, spec in linear.params.items()
    }
    engine = create("torch")
    engine.load(linear, numbers, {})
    ones = np.ones_like(trained.x)
    once, twice = engine.predict(ones), engine.predict(2 * ones)
    assert once.min() > 0
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)


CHECKS: dict[str, Callable[[Trained, Path], None]] = {
    "accounting": check_accounting, "torch": check_torch, "native": check_native, "plan torch": check_plan_torch,
    "plan native": check_plan_native, "merge": check_merge, "compact": check_compact, "onnx": check_onnx,
    "tflite": check_tflite, "int8": check_int8, "sparse": check_sparse, "synflow": check_synflow,
}  # fmt: skip


def test_the_cases_hold_every_kind_and_the_checks_every_consumer():
    assert {case.op for case in CASES.values()} == set(Op) == set(KINDS)
    assert all(case.op in {node.op for node in case.graph.nodes} for case in CASES.values())
    assert tuple(CHECKS) == CONSUMERS


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("name", CASES)
def test_a_kind_works_or_is_refused(name, consumer, tmp_path):
    case = CASES[name]
    if case.expected(consumer) == "no":
        with pytest.raises((UnsupportedLayer, ExportError), match=r"body|kind"):
            CHECKS[consumer](Trained(case.graph), tmp_path)
    else:
        CHECKS[consumer](Trained(case.graph), tmp_path)


def test_what_is_said_to_be_merged_is_known_to_no_writer():
    merged = {case.op for case in CASES.values() if "merged" in case.otherwise.values()}
    assert merged == {op for op, kind in KINDS.items() if kind.affine or kind.vanishes}
    assert not merged & (onnx.OPERATORS.keys() | operators.OPERATORS.keys())


def test_the_documents_table_is_this_one():
    assert table() in (Path(__file__).parent.parent / "docs" / "models.md").read_text()


# -- kinds from outside -----------------------------------------------------------------

ALL_FACTS = LayerKind(
    "elu", facts.same_shape, memory=facts.Memory(facts.Reads.INPUT),
    channels=facts.Channels(facts.own, lambda sources: np.maximum(sources[0], np.expm1(np.minimum(sources[0], 0)))),
    scaling=facts.Scaling.FIXED, linearised=facts.Linearised.DROPPED, selects=False,
)  # fmt: skip
WITHOUT_FACTS = LayerKind("odd", facts.same_shape)
WITHOUT_USES = replace(
    ALL_FACTS, name="odd weights", params=lambda node: {"weight": ParamSpec((8,), Role.WEIGHT, spread=1.0)}
)


def with_kind(kind):
    return graph(STEM, ACT, replace(BODY, bias=True), Node("strange", kind.name, ("body",)))


def refusals(trained, tmp_path):
    """What each consumer refuses the strange layer with; those that do not are missing."""
    found = {}
    model = Inference("m", trained.graph.input_shape, 4, tuple(plain_layers(trained)), trained.graph.output)
    asked = {
        "accounting": lambda: accounting.activation_bytes(trained.graph, 1),
        "torch": lambda: trained.engine("torch").predict(trained.x),
        "native": lambda: trained.engine("native"),
        "plan torch": lambda: step_bytes(trained.graph, StepShape(1)),
        "plan native": lambda: NativeSteps(trained.graph, {}),
        "merge": trained.merged,
        "compact": lambda: compact(model),
        "onnx": lambda: onnx.write_onnx(model, {}),
        "tflite": lambda: write_tflite(model),
        "int8": lambda: calibrate(model, trained.calibration),
        "sparse": lambda: write_sparse(model, "fp32", {}),
        "synflow": lambda: linearised(trained.graph),
    }
    assert tuple(asked) == CONSUMERS
    for consumer, ask in asked.items():
        try:
            ask()
        except UnsupportedLayer as error:
            found[consumer] = error
    return found


def plain_layers(trained):
    """The inference layers without ``merge``, so that writers see what it would refuse."""
    for node in trained.graph.nodes:
        weight, bias = (trained.params.get(f"{node.name}.{what}") for what in ("weight", "bias"))
        yield Layer(node, node.inputs, trained.graph.shapes[node.name], weight, bias)


def test_a_kind_without_facts_is_refused_by_everyone_in_its_own_words(monkeypatch, tmp_path):
    monkeypatch.setitem(KINDS, "odd", WITHOUT_FACTS)
    found = refusals(Trained(with_kind(WITHOUT_FACTS)), tmp_path)
    assert tuple(found) == CONSUMERS
    for error in found.values():
        assert (error.kind, error.layer) == ("odd", "strange")
        assert f"layer 'strange' is of kind 'odd', which {error.consumer} does not know; " in str(error)
    consumers = {error.consumer for error in found.values()}
    assert consumers == {
        "the accounting of activations", "engine 'torch'", "engine 'native'", "the plan of engine 'torch'",
        "the exporter", "compaction", "the ONNX writer", "the TFLite writer", "method 'synflow'",
    }  # fmt: skip
    assert "use engine 'torch'" in str(found["native"])


def test_weights_whose_arithmetic_is_not_known_are_not_counted_as_none(monkeypatch):
    monkeypatch.setitem(KINDS, "odd weights", WITHOUT_USES)
    strange = with_kind(WITHOUT_USES)
    assert "strange.weight" in strange.params
    assert strange.by_name["strange"] in strange.weighted
    with pytest.raises(UnsupportedLayer, match="of kind 'odd weights', which accounting does not know"):
        strange.flops()


def test_a_kind_that_was_never_registered_makes_no_graph():
    with pytest.raises(UnsupportedLayer, match="'strange' is of kind 'odd', which this version of tinyfleet"):
        with_kind(WITHOUT_FACTS)


def test_facts_alone_serve_whoever_computes_nothing(monkeypatch, tmp_path):
    """Only those that have to write the layer in a language of their own ask for more."""
    monkeypatch.setitem(KINDS, "elu", ALL_FACTS)
    found = refusals(Trained(with_kind(ALL_FACTS)), tmp_path)
    assert found.keys() == {"torch", "native", "plan native", "onnx", "tflite", "int8", "sparse"}


def test_a_kind_is_its_facts_and_a_line_a_translator(monkeypatch, tmp_path):
    """Nothing else is touched for ELU: both engines, the plans and all files compute or refuse it."""
    monkeypatch.setitem(KINDS, "elu", ALL_FACTS)
    monkeypatch.setitem(forward.LAYERS, "elu", lambda call: torch.nn.functional.elu(call.x))
    monkeypatch.setitem(onnx.OPERATORS, "elu", lambda call: call.node("Elu"))
    write = operators.Operator(lambda call: call.emit("ELU", call.inputs))
    monkeypatch.setitem(operators.OPERATORS, "elu", write)
    monkeypatch.setattr(Reference, "forward", elu_forward)
    trained = Trained(with_kind(ALL_FACTS))
    works = ("accounting", "torch", "plan torch", "merge", "compact", "onnx", "tflite", "synflow")
    for consumer in works:
        CHECKS[consumer](trained, tmp_path)
    for consumer in ("native", "plan native", "sparse"):
        with pytest.raises(UnsupportedLayer, match="kind 'elu', which engine 'native' does not know"):
            CHECKS[consumer](trained, tmp_path)
    with pytest.raises(ExportError, match="ELU is not known in int8"):
        check_int8(trained, tmp_path)


def elu_forward(self, x):
    """The strange graph in float64: a chain but for its activation."""
    stem, body = self.layers["stem"](x), self.layers["body"]
    return self.layers["output"](torch.nn.functional.elu(body(torch.relu(stem))).flatten(2).mean(2))

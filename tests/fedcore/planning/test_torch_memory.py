"""The replay of a training step's memory: against hand counts, and against what was measured."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tinyfleet.fedcore.models.builder import GraphBuilder
from tinyfleet.fedcore.models.registry import build, names
from tinyfleet.fedcore.planning.torch_memory import Heap, StepShape, model_bytes, step_bytes
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.levers import Levers

MEASURED = Path(__file__).parents[3] / "docs" / "benchmarks" / "caches.json"


def test_a_heap_remembers_its_peak():
    heap = Heap()
    heap.take("a", 100)
    heap.take("b", 50)
    heap.drop("a")
    heap.take("c", 60)
    heap.touch(30)
    heap.drop("nobody")
    assert (heap.now, heap.peak) == (110, 150)
    heap.touch(41)
    assert heap.peak == 151


def chain():
    b = GraphBuilder("chain", (1, 8, 8), 2, "nsconv")
    b.conv_norm("a", 4)
    b.conv_norm("b", 4)
    b.global_avg_pool()
    b.linear("output", 2)
    return b.build([["b"]])


def test_a_chain_by_hand():
    """Input twice, a's output (cached by b), b's output; backward: the gradients of both at once."""
    image, maps, pooled, logits = 64 * 4, 4 * 64 * 4, 4 * 4, 2 * 4
    weight = 4 * 4 * 9 * 4
    forward = 2 * image + maps + maps + pooled + logits
    # In b's backward pass: input, both outputs (a's in place is b's cached input), b's gradient, and its weight's.
    backward = 2 * image + maps + maps + maps + 2 * weight
    assert step_bytes(chain(), StepShape(1)) == pytest.approx(max(forward, backward), rel=0.25)
    assert step_bytes(chain(), StepShape(7)) > 6 * step_bytes(chain(), StepShape(1)) - 7 * 2 * weight


@pytest.mark.parametrize("name", names())
def test_less_kept_and_smaller_batches_never_take_more(name):
    shape = (6, 100) if name == "sensor_cnn" else (3, 32, 32)
    graph = build(ModelSettings(name, shape, 10, {}))
    exact = step_bytes(graph, StepShape(64))
    kept = [
        step_bytes(graph, StepShape(64, Levers(activation_keep=keep), pruned_norm=True))
        for keep in (0.9, 0.5, 0.3, 0.1)
    ]
    assert kept == sorted(kept, reverse=True)
    assert step_bytes(graph, StepShape(16)) < exact
    assert step_bytes(graph, StepShape(64, Levers(0, 0.3, "fp16"))) < step_bytes(
        graph, StepShape(64, Levers(0, 0.3))
    )


def test_it_comes_near_what_was_measured_without_any_cost_model():
    """The rest is the libraries' own buffers: the cost model's business."""
    for row in msgspec.json.decode(MEASURED.read_bytes()):
        graph = build(ModelSettings(row["model"], (3, 32, 32), 10, {"norm": row["norm"]}))
        levers = Levers(activation_keep=row["keep"], cache=row["cache"])
        predicted = step_bytes(graph, StepShape(row["batch"], levers, row["pruned_norms"])) / 1e6
        assert 0.8 < predicted / row["peak_mb"] <= 1.02, row


def test_a_loaded_model_is_dense_in_torch():
    graph = chain()
    values = sum(spec.size for spec in graph.params.values())
    assert model_bytes(graph, held=0) == 4 * values
    assert model_bytes(graph, held=1) == 8 * values  # it has no running statistics

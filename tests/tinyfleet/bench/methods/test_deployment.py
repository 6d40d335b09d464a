"""What a finished model costs where it is used."""

from __future__ import annotations

import numpy as np

from tinyfleet.bench.methods.deployment import deployed_cost
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.allocation import uniform_counts
from tinyfleet.fedcore.sparsity.mask import magnitude_mask


def test_emptied_channels_are_gone_and_others_are_not():
    graph = build(ModelSettings("small_cnn", (1, 28, 28), 10, {"width": 16}))
    params = graph.initial_params(0)
    shapes = {name: graph.params[name].shape for name in graph.maskable}
    scattered = magnitude_mask(params, uniform_counts(shapes, 0.25))
    whole = deployed_cost(graph, Payload({}, params, scattered))
    assert whole.multiply_adds == whole.multiply_adds_dense == graph.flops() // 2
    half = {}
    for name, shape in shapes.items():
        half[name] = np.zeros(shape, np.bool_)
        half[name][: shape[0] // 2] = True  # the same number of weights and more, in half of the filters
    small = deployed_cost(graph, Payload({}, params, half))
    assert small.multiply_adds_dense == whole.multiply_adds_dense
    assert small.multiply_adds < 0.6 * whole.multiply_adds
    assert small.file_bytes < 0.6 * whole.file_bytes
    assert small.latency_ms > 0

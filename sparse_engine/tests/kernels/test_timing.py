"""What the processor can do, and what one convolution takes of it: that both are measured, not how fast it is."""

from __future__ import annotations

import pytest

from sparse_engine import Layer, Op, _core
from sparse_engine.kernels.timing import TimedConvolution

LAYERS = {
    "3x3": (Layer("a", Op.CONV, ("input",), 3, 8, (3, 3), (1, 1), (1, 1)), (3, 6, 6), (8, 6, 6)),
    "1x1 of stride 2": (Layer("a", Op.CONV, ("input",), 4, 6, (1, 1), (2, 2), (0, 0)), (4, 7, 7), (6, 4, 4)),
    "depthwise": (Layer("a", Op.CONV, ("input",), 5, 5, (3, 3), (1, 1), (1, 1), groups=5), (5, 6, 6), (5, 6, 6)),
    "1-D": (Layer("a", Op.CONV, ("input",), 3, 4, (5,), (1,), (2,)), (3, 9), (4, 9)),
    "linear": (Layer("a", Op.LINEAR, ("input",), 12, 7), (12,), (7,)),
}


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 1024 * 1024])
def test_multiply_adds_are_measured_in_registers_and_from_any_buffer(size):
    assert _core.peak_gflops(size) > 0.01


def test_a_buffer_of_no_size_is_refused():
    with pytest.raises(ValueError, match="-1"):
        _core.peak_gflops(-1)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dense", [False, True])
def test_every_kind_of_layer_is_timed(name, dense):
    layer, source, out = LAYERS[name]
    timed = TimedConvolution(layer, source, out, samples=6, threads=2)
    found = timed.time(0.1, dense=dense, seconds=0.0)
    assert min(found.forward, found.input_gradient, found.weight_gradient) > 0
    assert found.total == pytest.approx(found.forward + found.input_gradient + found.weight_gradient)


def test_work_is_counted():
    timed = TimedConvolution(*LAYERS["3x3"], samples=2)
    assert timed.size == 8 * 3 * 9
    assert timed.active(0.5) == 108
    assert timed.active(0.0) == 1
    assert timed.products == 6 * 6 * 2
    assert timed.tensor_bytes == 4 * 2 * 36 * (3 + 8)

"""Layer by layer against float64: any shape, stride, padding, group, density, batch and number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from checks import check_gradients, check_predictions, check_steps, pair, safe_batch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sparse_engine import Layer, Model, Op, StepOptions
from sparse_engine.layers import ACTIVATIONS

EXAMPLES = int(os.environ.get("SPARSE_ENGINE_EXAMPLES", "25"))
usual = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not os.environ.get("SPARSE_ENGINE_RANDOM"),
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
sides = st.integers(1, 13)
channels = st.integers(1, 9)
batches = st.one_of(st.integers(1, 33), st.sampled_from([1, 2, 4, 8, 16, 32]))
densities = st.sampled_from([0.0, 0.05, 0.2, 0.45, 0.65, 0.75, 0.9, 1.0])  # dense kernels from 0.7 on
threads = st.integers(1, 3)
seeds = st.integers(0, 2**31)
kernels = st.sampled_from([1, 3, 5, 7])
GROUPINGS = [(1, 1, 1), (1, 3, 8), (1, 8, 4), (1, 5, 9), (1, 9, 12), (2, 2, 3), (7, 1, 1), (3, 1, 2), (4, 2, 1)]
"""(groups, input channels of each, output channels of each): dense kernels take four channels together."""


@st.composite
def windows(draw, dims: int, largest_padding: int = 3, kernel_sizes=kernels):
    """(image shape, kernel, stride, padding) that fit."""
    shape = tuple(draw(sides) for _ in range(dims))
    kernel = tuple(draw(kernel_sizes) for _ in range(dims))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    padding = tuple(draw(st.integers(0, largest_padding)) for _ in range(dims))
    assume(all(size + 2 * p >= k for size, p, k in zip(shape, padding, kernel, strict=True)))
    return shape, kernel, stride, padding


def before(source: int, out: int, dims: int) -> Layer:
    """A 1 x 1 convolution, whose weight gradient shows the gradient of its output."""
    return Layer("before", Op.CONV, ("input",), source, out, (1,) * dims, (1,) * dims, (0,) * dims, bias=True)


def with_head(shape: tuple[int, ...], layers: list[Layer]) -> Model:
    """A linear layer behind the last one, whatever its shape."""
    values = int(np.prod(Model(shape, tuple(layers)).shapes()[layers[-1].name]))
    return Model(shape, (*layers, Layer("head", Op.LINEAR, (layers[-1].name,), values, 3)))


def check(model: Model, seed: int, density: float, samples: int, threads: int, floor: float = 1e-3) -> None:
    network, reference = pair(model, seed, density, threads)
    x, y = safe_batch(reference, seed, samples)
    check_predictions(network, reference, x)
    for objective in ("cross_entropy", "squared_error", "flow"):
        check_gradients(network, reference, x, y, objective, floor)
    check_steps(network, reference, x, y)


@usual
@given(st.data(), st.integers(1, 2), batches, densities, threads, seeds)
def test_convolution(data, dims, samples, density, threads, seed):
    shape, kernel, stride, padding = data.draw(windows(dims))
    groups, each_in, each_out = data.draw(st.sampled_from(GROUPINGS))
    norm = data.draw(st.sampled_from(["", "", "active", "all"]))
    ins, outs = groups * each_in, groups * each_out
    conv = Layer(
        "conv", Op.CONV, ("before",), ins, outs, kernel, stride, padding, groups, data.draw(st.booleans()), norm
    )
    model = with_head((2, *shape), [before(2, ins, dims), conv])
    check(model, seed, density, samples, threads)


@usual
@given(st.data(), st.integers(1, 2), batches, densities, threads, seeds)
def test_convolution_with_gaps_or_padded_on_one_side(data, dims, samples, density, threads, seed):
    shape, kernel, stride, before_it = data.draw(windows(dims, kernel_sizes=st.sampled_from([1, 2, 3])))
    dilation = tuple(data.draw(st.integers(1, 4)) for _ in range(dims))
    behind = tuple(data.draw(st.integers(0, 4)) for _ in range(dims))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(n + b + e >= k for n, b, e, k in zip(shape, before_it, behind, spans, strict=True)))
    groups, each_in, each_out = data.draw(st.sampled_from(GROUPINGS))
    ins, outs = groups * each_in, groups * each_out
    conv = Layer(
        "conv", Op.CONV, ("before",), ins, outs, kernel, stride, before_it + behind, groups, bias=True,
        dilation=dilation,
    )  # fmt: skip
    check(with_head((2, *shape), [before(2, ins, dims), conv]), seed, density, samples, threads)


@usual
@given(channels, sides, batches, densities, threads, seeds, st.sampled_from(["", "active", "all"]))
def test_linear(ins, side, samples, density, threads, seed, norm):
    """On vectors, and on images that no flatten made vectors of."""
    first = Layer("first", Op.LINEAR, ("input",), ins * side, 8, bias=True, weight_norm=norm)
    model = Model((ins, side), (first, Layer("second", Op.LINEAR, ("first",), 8, 5, bias=True)))
    check(model, seed, density, samples, threads)


@usual
@given(channels, sides, sides, st.integers(2, 33), threads, seeds)
def test_batch_norm(size, height, width, samples, threads, seed):
    assume(samples * height * width >= 8)
    norms = [before(2, size, 2), Layer("norm", Op.BATCH_NORM, ("before",), size, size)]
    # An affine image of the input has a mean gradient of exactly zero: what remains are rounding errors. Few values
    # of small variance magnify them, up to 1 / sqrt(epsilon).
    check(with_head((2, height, width), norms), seed, 1.0, samples, threads, floor=1.0)


@usual
@given(st.sampled_from(sorted(ACTIVATIONS)), st.data())
def test_activation(op, data):
    size, height, width = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)))
    gain = data.draw(st.sampled_from([1.0, 1.71396, 0.5, -2.0]))
    samples = data.draw(st.integers(1, 17))
    assume(size * height * width * samples < 400)
    act = Layer("act", op, ("before",), gain=gain)
    model = with_head((2, height, width), [before(2, size, 2), act])
    # Of a class that is almost sure the gradient is what is left of one: it is held against the rounding of one.
    check(model, data.draw(seeds), 1.0, samples, data.draw(threads), floor=1e-2)


@usual
@given(st.data(), st.integers(1, 2), st.sampled_from([Op.MAX_POOL, Op.AVG_POOL]), channels, batches, threads, seeds)
def test_pool(data, dims, op, size, samples, threads, seed):
    shape, kernel, stride, padding = data.draw(windows(dims, 1, st.integers(2, 5)))
    pool = Layer("pool", op, ("before",), kernel=kernel, stride=stride, padding=padding)
    model = with_head((2, *shape), [before(2, size, dims), pool])
    check(model, seed, 1.0, samples, threads)


@usual
@given(st.integers(1, 2), st.data(), channels, batches, threads, seeds)
def test_global_average_pool(dims, data, size, samples, threads, seed):
    shape = tuple(data.draw(sides) for _ in range(dims))
    layers = [before(2, size, dims), Layer("mean", Op.GLOBAL_AVG_POOL, ("before",))]
    check(with_head((2, *shape), layers), seed, 1.0, samples, threads)


@usual
@given(channels, channels, sides, sides, batches, threads, seeds)
def test_sum_and_join(first, second, height, width, samples, threads, seed):
    a = Layer("a", Op.CONV, ("input",), 2, first, (1, 1), (1, 1), (0, 0))
    b = Layer("b", Op.CONV, ("input",), 2, first, (3, 3), (1, 1), (1, 1))
    c = Layer("c", Op.CONV, ("input",), 2, second, (1, 1), (1, 1), (0, 0))
    layers = [a, b, c, Layer("sum", Op.ADD, ("a", "b")), Layer("join", Op.CONCAT, ("c", "sum", "a"))]
    check(with_head((2, height, width), layers), seed, 1.0, samples, threads)


@pytest.mark.parametrize("samples", [1, 3, 16])
def test_first_of_equal_values_has_the_gradient_of_the_largest(samples):
    pool = Layer("pool", Op.MAX_POOL, ("before",), kernel=(3, 2), stride=(1, 2), padding=(1, 1))
    network, reference = pair(with_head((2, 5, 6), [before(2, 3, 2), pool]), 5)
    flat = np.ones((samples, 2, 5, 6), np.float32)
    labels = np.zeros(samples, np.int64)
    check_gradients(network, reference, flat, labels, "flow")
    check_steps(network, reference, flat, labels, StepOptions(0.1, momentum=0.5))


@pytest.mark.slow
@pytest.mark.skipif(EXAMPLES > 100, reason="this is the deeper run")
@pytest.mark.timeout(1200)
def test_many_more_shapes():
    """More of the same; with SPARSE_ENGINE_RANDOM set, others each time."""
    env = {**os.environ, "SPARSE_ENGINE_EXAMPLES": "150"}
    # More batch norms only bring more channels that are nearly constant, whose rounding errors they magnify.
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "not batch_norm"]
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout[-4000:]

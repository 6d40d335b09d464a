"""The choice between sparse and dense kernels: where it comes from, how it is kept, that it reaches the layers."""

from __future__ import annotations

import numpy as np
import pytest

from sparse_engine import Layer, Model, ModelError, Network, Op, StepOptions
from sparse_engine.kernels.kernel_choice import (
    _cropped,
    dense_from,
    dense_wins_from,
    distinct_convolutions,
    measure_kernel_choice,
)
from sparse_engine.kernels.timing import NEVER

MODEL = Model(
    (3, 8, 8),
    (
        Layer("first", Op.CONV, ("input",), 3, 8, (3, 3), (1, 1), (1, 1)),
        Layer("again", Op.CONV, ("first",), 8, 8, (3, 3), (1, 1), (1, 1)),
        Layer("same", Op.CONV, ("again",), 8, 8, (3, 3), (1, 1), (1, 1)),
        Layer("depthwise", Op.CONV, ("same",), 8, 8, (3, 3), (1, 1), (1, 1), groups=8),
        Layer("pool", Op.GLOBAL_AVG_POOL, ("depthwise",)),
        Layer("output", Op.LINEAR, ("pool",), 8, 4, bias=True),
    ),
)


@pytest.mark.parametrize(
    ("dense", "expected"), [(5.0, 0.35), (3.0, 0.15), (1.0, 0.05), (0.5, 0.05), (10.0, 0.6), (11.0, NEVER)]
)
def test_the_density_lies_on_the_line_between_measured_densities(dense, expected):
    points = [(0.6, 10.0), (0.05, 1.0), (0.15, 3.0), (0.3, 4.0)]
    assert dense_wins_from(points, dense) == pytest.approx(expected)


def test_each_shape_is_measured_once_the_heaviest_first():
    found = distinct_convolutions(MODEL)
    assert [layer.name for layer, _, _ in found.values()] == ["again", "first", "output"]
    assert "depthwise" in [layer.name for layer, _, _ in distinct_convolutions(MODEL, grouped=True).values()]


def test_a_measured_choice_names_every_layer_that_has_a_choice():
    heard = []
    found = measure_kernel_choice(
        [MODEL, MODEL], threads=2, seconds=1.0, told=lambda *at: heard.append(at), clock=lambda: 0.0
    )
    assert heard == [(shape, done, 3) for done, shape in enumerate(found)]
    by_layer = dense_from(MODEL, found)
    assert set(by_layer) == {"first", "again", "same", "output"}
    assert by_layer["again"] == by_layer["same"]
    assert all(0.1 <= density <= NEVER for density in by_layer.values())


def test_what_there_is_no_time_for_is_left_to_the_default():
    assert measure_kernel_choice([MODEL], seconds=0.0) == {}
    assert dense_from(MODEL, {}) == {}


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0), (7, 2, 3), (7, 1, 0)])
def test_tall_images_are_cropped_to_some_rows_of_output(kernel, stride, padding):
    layer = Layer("a", Op.CONV, ("input",), 64, 512, (kernel,) * 2, (stride,) * 2, (padding,) * 2)
    model = Model((64, 64, 64), (layer,))
    cropped, source, out = _cropped(layer, model.input_shape, model.shapes()["a"])
    assert Model(source, (cropped,)).shapes()["a"] == out
    assert 4 <= out[1] < 32
    assert (out[0], out[2]) == (512, model.shapes()["a"][2])


def test_small_images_stay_as_they_are():
    layer = MODEL.layers[1]
    assert _cropped(layer, (8, 8, 8), (8, 8, 8)) == (layer, (8, 8, 8), (8, 8, 8))


def losses(densities: dict[str, float] | None) -> list[float]:
    rng = np.random.default_rng(0)
    network = Network(MODEL, dense_from=densities)
    weights = {f"{layer.name}.weight": layer.weight_shape for layer in MODEL.layers if layer.out_channels}
    params = {name: rng.standard_normal(shape, np.float32) * np.float32(0.3) for name, shape in weights.items()}
    network.set(params | {"output.bias": np.zeros(4, np.float32)})
    x, y = rng.standard_normal((16, 3, 8, 8), np.float32), rng.integers(0, 4, 16)
    return [network.train_step(x, y, StepOptions(0.05)) for _ in range(3)]


def test_either_kernel_trains_alike_and_the_choice_reaches_the_layers():
    sparse, dense = losses(dict.fromkeys(("first", "again", "same", "output"), NEVER)), losses(None)
    assert sparse == pytest.approx(dense, rel=1e-4)
    assert sparse != dense  # sums in another order: other kernels ran
    assert losses({"again": 0.4}) == dense


def test_a_layer_that_the_model_has_not_is_refused():
    with pytest.raises(ModelError, match="nowhere"):
        Network(MODEL, dense_from={"nowhere": 0.5})

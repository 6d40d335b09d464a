"""Whatever is given: a result, or an error of a known kind; never a crash, and nothing half done."""

from __future__ import annotations

import numpy as np
import pytest

from sparse_engine import Layer, Model, ModelError, Network, Op, StepOptions, _core

TYPED = (ValueError, TypeError, MemoryError)  # ModelError is a ValueError
LAYERS = (
    Layer("c", Op.CONV, ("input",), 2, 4, (3, 3), (1, 1), (1, 1), bias=True),
    Layer("n", Op.BATCH_NORM, ("c",), 4, 4),
    Layer("r", Op.RELU, ("n",)),
    Layer("p", Op.MAX_POOL, ("r",), kernel=(2, 2), stride=(2, 2), padding=(0, 0)),
    Layer("h", Op.LINEAR, ("p",), 36, 3, bias=True),
)
MODEL = Model((2, 6, 6), LAYERS)
SHAPES = {"c.weight": (4, 2, 3, 3), "c.bias": (4,), "h.weight": (3, 36), "h.bias": (3,)}
SHAPES |= {f"n.{name}": (4,) for name in ("weight", "bias", "running_mean", "running_var")}
STEP = StepOptions(0.1, momentum=0.9)


def params() -> dict:
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}


def network(mask: dict | None = None) -> Network:
    found = Network(MODEL)
    found.set(params(), mask)
    return found


X = np.random.default_rng(1).normal(size=(4, 2, 6, 6)).astype(np.float32)
Y = np.array([0, 1, 2, 1])
SAMPLES = {
    "of another shape": X[:, :1],
    "of other axes": X.reshape(4, 6, 6, 2),
    "flat": X.reshape(4, -1),
    "none": X[:0],
    "one number": np.float32(1),
    "complex": X.astype(complex),
    "text": np.full(X.shape, "a"),
    "objects": X.astype(object),
    "nothing": None,
}
LABELS = {
    "negative": Y - 1,
    "too large": Y + 1,
    "huge": np.full(4, 2**63 - 1),
    "unsigned and huge": np.full(4, 2**64 - 1, np.uint64),
    "fractions": Y + 0.5,
    "NaN": np.full(4, np.nan),
    "two-dimensional": Y[:, None],
    "too few": Y[:3],
    "none": Y[:0],
}


@pytest.mark.parametrize("what", SAMPLES)
def test_samples_are_refused(what):
    model = network()
    for run in (
        lambda: model.train_step(SAMPLES[what], Y, STEP),
        lambda: model.predict(SAMPLES[what]),
        lambda: list(model.gradients(SAMPLES[what], Y, ["c"])),
        lambda: model.update_statistics(SAMPLES[what]),
    ):
        with pytest.raises(TYPED):
            run()


@pytest.mark.parametrize("what", LABELS)
def test_labels_are_refused_and_nothing_moves(what):
    model = network()
    before = model.get()
    with pytest.raises(TYPED):
        model.train_step(X, LABELS[what], STEP)
    with pytest.raises(TYPED):
        list(model.gradients(X, LABELS[what], ["c"]))
    np.testing.assert_equal(model.get(), before)


def test_other_kinds_of_numbers_are_converted():
    wanted = network().train_step(X, Y, STEP)
    assert network().train_step(X.astype(np.float64), Y.astype(np.int16), STEP) == wanted
    assert network().train_step(X[::-1, :, ::-1].copy()[::-1, :, ::-1], Y[::-1].copy()[::-1], STEP) == wanted
    assert network().train_step(X.tolist(), Y.tolist(), STEP) == wanted


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_values_that_are_no_numbers_pass_through(value):
    model = network()
    bad = X.copy()
    bad[1] = value
    model.train_step(bad, Y, STEP)
    assert np.isnan(model.predict(bad)).any() or not np.isnan(value)
    model.set(params())
    np.testing.assert_array_equal(model.predict(X), network().predict(X))


@pytest.mark.parametrize("name", SHAPES)
def test_numbers_are_refused(name):
    for wrong in (None, np.zeros(5, np.float32), np.full(SHAPES[name], "a"), np.zeros(SHAPES[name], complex)):
        given_ = {**params(), name: wrong}
        if wrong is None:
            del given_[name]
        with pytest.raises(TYPED, match=name.replace(".", r"\.")):
            network().set(given_)
    with pytest.raises(TYPED, match=r"c\.weight"):
        network().set(params(), {"c.weight": np.ones(3, np.bool_)})


@pytest.mark.parametrize("positions", [[2, 1], [1, 1], [8], [-1], [2**62], [0, 1, 2**31]], ids=str)
def test_positions_are_refused(positions):
    weights = _core.Weights(2, 4)
    with pytest.raises(ValueError, match="position"):
        weights.set(np.array(positions), np.zeros(len(positions), np.float32))
    with pytest.raises(ValueError, match="as many"):
        weights.set(np.array([1]), np.zeros(2, np.float32))


def test_marks_are_checked_and_count_once():
    for wrong in ([10**9], [-1], [0.5], [np.nan], [[1]]):
        with pytest.raises(TYPED):
            network().mark({"c.weight": np.array(wrong)})
    model = network()
    model.mark({"c.weight": np.array([5, 1, 5])})
    assert model.marked_norm() == pytest.approx(np.linalg.norm(params()["c.weight"].reshape(-1)[[1, 5]]))


def test_names_that_the_model_has_not_are_refused():
    for wrong in ("n.weight", "c", "nowhere.weight"):
        with pytest.raises(ModelError, match=f"mask of {wrong}"):
            network({wrong: np.ones(SHAPES["c.weight"], bool)})
        with pytest.raises(ModelError, match=f"marked positions of {wrong}"):
            network().mark({wrong: np.array([0])})


def test_a_model_must_end_in_a_vector():
    with pytest.raises(ModelError, match=r"'p' gives outputs of shape \(4, 3, 3\)"):
        Network(Model(MODEL.input_shape, LAYERS[:-1]))


def test_gradients_are_refused():
    for layers, more in (
        (["z"], {}),
        (["n"], {}),
        (["c"], {"rows": -1}),
        (["c"], {"objective": "none"}),
        ({"c": [range(5)]}, {}),
        ({"c": [range(-1, 2)]}, {}),
        ({"c": [range(0, 4, 2)]}, {}),
        ({"c": [range(3, 1)]}, {}),
    ):
        with pytest.raises(TYPED):
            list(network().gradients(X, Y, layers, **more))


def test_gradients_of_a_pass_that_was_overwritten_are_refused():
    for between in (
        lambda model: model.train_step(X, Y, STEP),
        lambda model: model.predict(np.tile(X, (8, 1, 1, 1))),
        lambda model: model.release(),
    ):
        model = network()
        gradients = model.gradients(X, Y, ["c", "h"])
        next(gradients)
        between(model)
        with pytest.raises(ValueError, match="lost it"):
            next(gradients)


def test_weights_that_grow_during_a_pass_stay_within_memory():
    model = network({"c.weight": np.zeros((4, 2, 3, 3), np.bool_), "h.weight": np.zeros((3, 36), np.bool_)})
    gradients = model.gradients(X, Y, ["c", "h"])
    next(gradients)
    model.set(params())
    try:
        next(gradients)
    except ValueError as error:
        assert "lost it" in str(error)  # noqa: PT017 - either is right: no memory beyond the arena is touched


@pytest.mark.parametrize("threads", [0, -1, 10**6, "two", None])
def test_threads_are_refused(threads):
    with pytest.raises(TYPED):
        Network(MODEL, threads)


@pytest.mark.parametrize(
    "wrong", [{"momentum": np.nan}, {"micro_batch": -1}, {"keep": 0}, {"keep": 2}, {"recompute": 3}, {"cache": "x"}]
)
def test_steps_are_refused(wrong):
    with pytest.raises(ValueError, match=r"(StepOptions|Cache)\(.*\): "):
        StepOptions(0.1, **wrong)


@pytest.mark.parametrize("shape", [(2, 0, 6), (2, 2**16, 2**16), (6,), ()])
def test_a_model_of_no_size_is_refused(shape):
    with pytest.raises(ModelError):
        Network(Model(shape, LAYERS))


def test_a_model_without_layers_or_with_too_many_weights_is_refused():
    with pytest.raises(ModelError):
        Network(Model((2, 6, 6), ()))
    wide = Layer("h", Op.LINEAR, ("input",), 2**20, 2**12)
    with pytest.raises(ModelError, match="'h'"):
        Network(Model((1, 2**10, 2**10), (wide,)))


@pytest.mark.parametrize("op", [Op.MAX_POOL, Op.AVG_POOL])
def test_pooling_that_pads_by_more_than_half_of_its_kernel_is_no_model(op):
    """A window may lie in the padding alone, where there is nothing to take the greatest or the mean of."""
    pool = Layer("p", op, ("input",), kernel=(2, 2), stride=(1, 1), padding=(1, 2))
    with pytest.raises(ModelError, match="pads by half of its kernel at most"):
        Model((1, 8, 8), (pool,)).shapes()

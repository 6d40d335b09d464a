"""Many threads call one network: every answer is that of a thread alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from checks import batch, masks, numbers
from structures import MODELS

from sparse_engine import Inference, Model, ModelError, Network, StepOptions, _core, dump, load_bytes
from sparse_engine.planning import Plan

MODEL = MODELS["residual"] if "residual" in MODELS else next(iter(MODELS.values()))
CALLERS, CALLS = 8, 25
STEP = StepOptions(0.05, momentum=0.9, micro_batch=5)


def network(threads: int, model: Model = MODEL) -> Network:
    rng = np.random.default_rng(0)
    found = Network(model, threads)
    found.set(numbers(model, rng), masks(model, rng, 0.5))
    return found


def samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return batch(MODEL, np.random.default_rng(seed), count)


def at_once(call: Callable[[int], object], callers: int = CALLERS) -> list[object]:
    """What each of so many threads got, which begin together."""
    gate = threading.Barrier(callers)

    def begin(caller: int) -> object:
        gate.wait()
        return call(caller)

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(begin, range(callers)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["network", "inference"])
def test_predictions_are_those_of_a_thread_alone(kind, threads):
    model: Network | Inference = network(threads)
    if isinstance(model, Network) and kind == "inference":
        model = Inference(load_bytes(dump(MODEL, model.get())), threads)
    inputs = [samples(count, count)[0] for count in (1, 2, 3, 16, 33)]
    wanted = [model.predict(x) for x in inputs]

    def call(caller: int) -> list[tuple[int, np.ndarray]]:
        order = np.random.default_rng(caller).integers(0, len(inputs), CALLS)
        return [(int(which), model.predict(inputs[which])) for which in order]

    answers = [answer for found in at_once(call) for answer in found]
    assert len(answers) == CALLERS * CALLS
    assert sum(not np.array_equal(logits, wanted[which]) for which, logits in answers) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_read_while_others_train_is_what_was_between_two_steps(threads):
    alone, shared = network(threads), network(threads)
    x, y = samples(12, 1)
    states, losses, logits = [alone.get()], [], [alone.predict(x)]
    for _ in range(20):
        losses.append(alone.train_step(x, y, STEP))
        states.append(alone.get())
        logits.append(alone.predict(x))
    ended = threading.Event()
    found: list[list[object]] = [[], [], []]

    def train() -> None:
        found[0] = [shared.train_step(x, y, STEP) for _ in losses]
        ended.set()

    def read(into: list[object], look: Callable[[], object]) -> None:
        while not ended.is_set() or not into:
            into.append(look())

    copies = lambda: {name: value.copy() for name, value in shared.get().items()}  # noqa: E731
    calls = (train, lambda: read(found[1], copies), lambda: read(found[2], lambda: shared.predict(x)))
    at_once(lambda caller: calls[caller](), len(calls))
    assert found[0] == losses
    known = {tuple(value.tobytes() for value in state.values()) for state in states}
    assert {tuple(value.tobytes() for value in state.values()) for state in found[1]} <= known  # type: ignore[attr-defined]
    assert {value.tobytes() for value in found[2]} <= {value.tobytes() for value in logits}  # type: ignore[attr-defined]


def test_all_that_a_network_does_may_be_asked_for_at_once():
    model, plan = network(2), Plan(MODEL, {})
    x, y = samples(8, 2)
    mask = masks(MODEL, np.random.default_rng(3), 0.5)
    layer = next(iter(model.get())).removesuffix(".weight")
    checkpoint, refused = model.checkpoint(), []

    def gradients() -> None:
        try:
            assert [gradient.shape[0] for _, _, gradient in model.gradients(x, y, [layer], rows=1)]
        except (ModelError, ValueError) as error:
            assert "lost it" in str(error)  # noqa: PT017 - another call came between
            refused.append(error)

    calls = (
        lambda: model.train_step(x, y, STEP), lambda: model.update_statistics(x, 3), lambda: model.predict(x),
        gradients, lambda: model.remask(mask), lambda: model.restore(checkpoint), model.checkpoint, model.get,
        lambda: model.mark({}), model.marked_norm, model.release, lambda: model.arena_bytes,
        lambda: model.set(numbers(MODEL, np.random.default_rng(4)), mask), lambda: plan.arena_bytes(16, STEP),
    )  # fmt: skip

    def call(caller: int) -> None:
        for which in np.random.default_rng(caller).permutation(len(calls) * 5) % len(calls):
            calls[which]()

    at_once(call)
    model.restore(checkpoint)
    alone = network(1)
    alone.restore(checkpoint)
    np.testing.assert_allclose(model.predict(x), alone.predict(x), rtol=1e-5, atol=1e-6)


def test_gradients_are_refused_where_the_weights_changed():
    model = network(1)
    x, y = samples(4, 5)
    layers = [name.removesuffix(".weight") for name in masks(MODEL, np.random.default_rng(0), 1.0)]
    found = model.gradients(x, y, layers)
    next(found)
    model.remask(masks(MODEL, np.random.default_rng(1), 0.3))
    with pytest.raises(ModelError, match="lost its values or weights"):
        next(found)


def test_networks_of_their_own_work_at_the_same_time():
    x, y = samples(16, 6)

    def train(_: int) -> list[float]:
        model = network(2)
        return [model.train_step(x, y, STEP) for _ in range(5)]

    assert len({tuple(losses) for losses in at_once(train)}) == 1  # type: ignore[arg-type]


def test_what_a_program_works_on_is_refused_to_other_threads():
    samples, channels, size = 16, 16, 16
    weights, norm, arena, pool = (
        _core.Weights(channels, channels * 9),
        _core.Norm(channels),
        _core.Arena(),
        _core.Pool(1),
    )
    count = channels * channels * 9
    weights.set(np.arange(count), np.full(count, 0.01, np.float32))
    program = _core.Program(arena, pool, samples)
    floats = _core.tensor_floats(channels, size, size, samples, False)
    source, out = (program.tensor(channels, size, size, place * (floats + -floats % 16)) for place in range(2))
    shape = _core.ConvShape()
    shape.in_channels = shape.out_channels = channels
    shape.kernel_h = shape.kernel_w = 3
    shape.pad_h = shape.pad_w = 1
    shape.in_h = shape.in_w = shape.out_h = shape.out_w = size
    number = program.convolution(shape, weights)
    program.norm(norm)
    for _ in range(20):
        program.forward(number, _core.View(source), out, 0)
    values, none = np.zeros(samples * channels * size**2, np.float32), np.zeros(0, np.int64)
    other = _core.Program(arena, _core.Pool(1), samples)
    calls: dict[str, Callable[[], object]] = {
        "Program.begin": lambda: program.begin(values, source),
        "Program.run": lambda: program.run(none, 0, len(program)),
        "Program.output": lambda: program.output(out, values.copy()),
        "Program.bytes": lambda: program.bytes,
        "Program.release": program.release,
        "Program.tensor": lambda: program.tensor(1, 1, 1, 0),
        "another Program's bytes": lambda: other.bytes,
        "Arena.release": arena.release,
        "Arena.bytes": lambda: arena.bytes,
        "Weights.set": lambda: weights.set(np.arange(3), np.zeros(3, np.float32)),
        "Weights.positions": lambda: weights.positions,
        "Weights.mark": lambda: weights.mark(np.arange(3)),
        "Weights.marked_square": weights.marked_square,
        "Weights.zero_gradient": weights.zero_gradient,
        "Weights.update": lambda: weights.update(_core.Sgd(0.1)),
        "Param.value": lambda: weights.param.value,
        "Param.velocity": lambda: setattr(weights.param, "velocity", np.zeros(len(weights), np.float32)),
        "Param.gradient": lambda: norm.gamma.gradient,
        "Norm.running_mean": lambda: norm.running_mean,
        "Norm.running_var": lambda: setattr(norm, "running_var", np.ones(channels, np.float32)),
        "Norm.zero_gradient": norm.zero_gradient,
        "Norm.update": lambda: norm.update(_core.Sgd(0.1)),
    }
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            with suppress(RuntimeError, ValueError):  # the other thread was first, or took the arena
                program.begin(values, source)
                program.run(none, 0, len(program))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for name, call in calls.items():
            refused = False
            while not refused:  # until the call falls into a run: that comes, however busy the machine is
                try:
                    call()
                except RuntimeError as error:
                    assert "another thread works" in str(error), name  # noqa: PT017
                    refused = True
                except ValueError:
                    pass  # the arena was released between
    finally:
        ended.set()
        worker.join()
    weights.set(np.arange(3), np.zeros(3, np.float32))  # free again
    assert len(weights) == 3

"""The compiled part refuses what it cannot do: whatever it is asked for, an answer or an exception."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparse_engine
from sparse_engine import _core

CALLS = Path(__file__).with_name("core_calls.py")
SEED = int(os.environ.get("SPARSE_CORE_SEED", "0"))  # the first; another makes other calls
SESSIONS, MANY_SESSIONS = 300, 10_000
OPERATIONS = (
    "forward", "backward", "batch_statistics", "running_statistics", "norm_gradient", "combine", "slope_by_output",
    "view_gradient", "pool", "pool_gradient", "concatenate", "concatenate_gradient", "dropout", "compress",
    "crop", "crop_gradient", "multiply", "multiply_gradient", "take", "take_gradient",
    "expand", "encode", "decode", "pruned_norm_gradient", "loss",
)  # fmt: skip


def made(first: int, count: int) -> dict[str, int]:
    """So many sessions of random calls in a process of its own; how often each call was done, or refused."""
    command = [sys.executable, "-W", "ignore", str(CALLS), str(first), str(count)]
    env = os.environ | {"PYTHONPATH": str(Path(sparse_engine.__file__).parents[1])}
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    lines = told.stdout.splitlines()
    assert told.returncode == 0, (
        f"exit status {told.returncode} in the session of {lines[-1] if lines else 'none'} "
        f"(again: {CALLS.name} SEED 1)\n{told.stderr[-4000:]}"
    )
    found: dict[str, int] = ast.literal_eval(lines[-1])
    return found


def test_random_calls_are_done_or_refused():
    told = made(SEED, SESSIONS)
    assert told["refused"] > 1000
    assert not [name for name in told if name.endswith("says nothing")]
    assert min(told.get(name, 0) for name in (*OPERATIONS, "begin", "run", "output", "dense_gradient")) > 10, told


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_random_calls_are_done_or_refused():
    assert made(SEED + SESSIONS, MANY_SESSIONS)["run"] > MANY_SESSIONS


# -- one by one: what once was not refused ---------------------------------------------------

CHANNELS, SIZE, SAMPLES = 2, 4, 3
FLOATS = -(-_core.tensor_floats(CHANNELS, SIZE, SIZE, SAMPLES, False) // 16) * 16
NAN, HUGE = float("nan"), 2**31 - 1
View = _core.View


def shape(**fields: int) -> _core.ConvShape:
    found = _core.ConvShape()
    found.in_channels = found.out_channels = CHANNELS
    found.in_h = found.in_w = found.out_h = found.out_w = SIZE
    for name, value in fields.items():
        setattr(found, name, value)
    return found


@pytest.fixture
def program():
    """Tensors 0 to 2 alike, 3 of one value a channel; norm 0, convolution 0, copy 0."""
    weights = _core.Weights(CHANNELS, CHANNELS)
    weights.set(np.arange(4), np.ones(4, np.float32))
    found = _core.Program(_core.Arena(), _core.Pool(1), SAMPLES)
    for number in range(3):
        found.tensor(CHANNELS, SIZE, SIZE, number * FLOATS)
    found.tensor(CHANNELS, 1, 1, 3 * FLOATS)
    found.norm(_core.Norm(CHANNELS))
    found.convolution(shape(), weights)
    floats = _core.cache_floats(CHANNELS, SIZE, SIZE, SAMPLES, 1.0, False, 1)
    found.cache(0, 4 * FLOATS, floats, False)
    return found


def begun(program):
    program.begin(np.zeros(SAMPLES * CHANNELS * SIZE**2, np.float32), 0)
    return program


@pytest.mark.parametrize(
    "wants",
    [
        (View(-1), 1, View(0)), (View(1), -1, View(0)), (View(1), 1, View(-1)), (View(1), 1, View(9)),
        (View(1), 1, View(0, norm=1)), (View(1, norm=1), 1, View(0)), (View(1, norm=-2), 1, View(0)),
        (View(3), 3, View(0)), (View(1), 1, View(3)), (View(1), 1, View(0), -2), (View(1), 1, View(0), 3),
        (View(1), 1, View(0), -1, 2), (View(1), 1, View(0), 2, -2), (View(1), 1, View(0), 2, 3),
        (View(1), 1, View(0), 2, -1, True, 0.0), (View(1), 1, View(0), 2, -1, True, NAN),
        (View(1), 1, View(0), 2, -1, True, 1.0, True), (View(1), 1, View(0, norm=0), -1, -1, True, 1.0, True),
    ],
)  # fmt: skip
def test_a_backward_pass_of_no_such_tensors_is_refused(program, wants):
    with pytest.raises(ValueError, match=r"\w"):
        program.backward(0, _core.BackwardWants(*wants))
    assert len(program) == 0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("forward", (0, View(0), 1, -2)), ("forward", (-1, View(0), 1)), ("forward", (0, View(0), -1)),
        ("batch_statistics", (0, -1)), ("batch_statistics", (0, 1)), ("running_statistics", (-1,)),
        ("pruned_norm_gradient", (0, 1, -1)), ("norm_gradient", (0, View(1))), ("combine", (View(0), View(-2), 1)),
        ("multiply", (View(0), View(3), 3)), ("multiply", (View(3), View(0), 3)),
        ("multiply", (View(-1), View(0), 1)),
        ("multiply_gradient", (0, View(1), 0)), ("multiply_gradient", (3, View(0), 1)),
        ("multiply_gradient", (0, View(-1), 1)), ("take", (View(0), 1, [0])), ("take", (View(0), 1, [0, 2])),
        ("take", (View(0), 1, [1, 1])), ("take", (View(0), 3, [0, 1])), ("take", (View(9), 1, [0, 1])),
        ("crop", (View(0), 3, 4, 0)), ("crop", (View(0), 3, 0, -1)), ("crop", (View(3), 0, 0, 0)),
        ("crop_gradient", (0, 3, 0, 0)), ("crop_gradient", (3, 0, HUGE, 0)), ("crop_gradient", (3, -1, 0, 0)),
        ("take_gradient", (0, 1, [-1, 0])), ("take_gradient", (0, 9, [0, 1])),
        ("decode", (0, _core.Act.sigmoid, 1.0, 1)), ("decode", (0, _core.Act.hardsigmoid, 1.0, 1)),
        ("pool", (View(0), 1, _core.PoolShape(2, 2, 1, 1, 0, 0, 2, 1), True)),
        ("pool", (View(0), 1, _core.PoolShape(2, 2, 1, 1, 0, 0, -2, 1), True)),
        ("concatenate", (View(0), 1, HUGE)), ("concatenate_gradient", (0, HUGE, 1)), ("dropout", (0, NAN, 1)),
        ("cache", (0, 2**62, 2**62, False)), ("cache", (0, 8, 100, False)), ("compress", (View(0), NAN, 0)),
        ("decode", (0, _core.Act.relu6, 1.0, 1)), ("decode", (0, _core.Act.hardswish, 1.0, 1)),
        ("tensor", (HUGE, HUGE, HUGE, 0)), ("tensor", (1, 1, 1, 2**62)), ("tensor", (1, 1, 1, 8)),
        ("pool", (View(0), 1, _core.PoolShape(HUGE, 1, 1, 1, HUGE // 2, 0), True)), ("loss", (0, 1)),
    ],
)  # fmt: skip
def test_operations_on_what_is_not_there_are_refused(program, name, arguments):
    with pytest.raises(ValueError, match=r"\w"):
        getattr(program, name)(*arguments)
    assert len(program) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"pad_h": HUGE}, {"pad_h": 2**30, "out_h": HUGE},
        {"stride_h": HUGE, "stride_w": HUGE, "out_h": 1, "out_w": 1}, {"kernel_h": HUGE},
        {"groups": 0}, {"groups": HUGE}, {"in_h": HUGE, "in_w": HUGE}, {"in_channels": HUGE},
        {"out_h": SIZE + 1}, {"kernel_h": 3, "pad_h": 1}, {"in_channels": -2}, {"pad_w": -1},
    ],
)  # fmt: skip
def test_convolutions_that_cannot_be_are_refused(program, fields):
    with pytest.raises(ValueError, match=r"\w"):
        program.convolution(shape(**fields), _core.Weights(CHANNELS, CHANNELS))


def test_labels_are_held_against_the_logits_alone(program):
    program.loss(3)
    begun(program)
    for labels in ([0, 1, CHANNELS], [0, 1, -1], [0, 1], [0, 1, 2**62]):
        with pytest.raises(ValueError, match="label"):
            program.run(np.array(labels), 0, 1)
    assert program.run(np.array([0, 1, 1]), 0, 1)[0] > 0


def test_a_copy_that_was_not_made_cannot_be_expanded(program):
    program.expand(0, 1)
    with pytest.raises(ValueError, match="nothing was compressed"):
        begun(program).run(np.zeros(0, np.int64), 0, 1)


def test_activations_that_are_no_numbers_can_be_pruned(program):
    copy = program.cache(0, 8 * FLOATS, _core.cache_floats(CHANNELS, SIZE, SIZE, SAMPLES, 0.1, False, 0), False)
    program.compress(View(0), 0.1, copy)
    program.expand(copy, 1)
    for values in (np.full(SAMPLES * CHANNELS * SIZE**2, np.nan, np.float32), np.arange(96, dtype=np.float32)):
        values[::7] = np.nan
        program.begin(values, 0)
        program.run(np.zeros(0, np.int64), 0, 2)


def test_results_are_written_where_they_are_wanted_or_not_at_all(program):
    begun(program)
    fits = np.ones(SAMPLES * CHANNELS * SIZE**2, np.float32)
    fixed = fits.copy()
    fixed.flags.writeable = False
    for wrong in (fits.astype(np.float64), fits[1:], np.ones(2 * len(fits), np.float32)[::2], fixed):
        with pytest.raises((TypeError, ValueError)):
            program.output(0, wrong)
    program.output(0, fits)
    assert not fits.any()


@pytest.mark.parametrize(
    "call",
    [
        lambda: _core.tensor_floats(HUGE, HUGE, 1, 1, False), lambda: _core.tensor_floats(1, 1, 1, 0, False),
        lambda: _core.cache_floats(1, 1, 1, 1, NAN, False, 0), lambda: _core.cache_floats(1, 1, 1, 1, 1, False, 3),
        lambda: _core.cache_floats(1, 1, 1, -1, 1, False, 0), lambda: _core.lanes_for(0),
        lambda: _core.Norm(HUGE), lambda: _core.Weights(HUGE, 1), lambda: _core.Pool(1, -1),
        lambda: _core.peak_gflops(2**40),
        lambda: _core.Program(_core.Arena(), _core.Pool(1), 2**24 + 1),
    ],
)  # fmt: skip
def test_sizes_are_refused(call):
    with pytest.raises(ValueError, match=r"\d"):
        call()


def test_there_is_no_program_without_an_arena_or_a_pool():
    for arguments in ((None, _core.Pool(1), 1), (_core.Arena(), None, 1)):
        with pytest.raises((TypeError, ValueError)):
            _core.Program(*arguments)

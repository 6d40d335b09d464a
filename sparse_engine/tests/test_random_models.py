"""Models drawn at random, absurd ones for the most part: a result or a typed error, never a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_engine import Layer, Model, Network, Op, Step

TYPED = (ValueError, TypeError, MemoryError)  # ModelError is a ValueError
STEP = Step(0.1, momentum=0.9)

sizes = st.one_of(st.integers(-1, 5), st.sampled_from([0, 7, 2**15, 2**31 - 1, 2**31, 2**40, 2**63]))
tuples = st.lists(sizes, min_size=0, max_size=3).map(tuple)
names = st.sampled_from(["input", "a", "b", "z"])
layers = st.builds(
    Layer,
    *(names, st.sampled_from(list(Op)), st.lists(names, max_size=2).map(tuple)),
    *(sizes, sizes, tuples, tuples, tuples, sizes),
    *(st.booleans(), st.sampled_from(["", "active", "?"]), st.sampled_from([1.0, np.nan])),
    st.sampled_from([0.0, 0.5, 1.0, np.nan]),
)


def try_model(model: Model) -> None:
    """As far as it goes; its own sizes are small enough where it is accepted at all."""
    shapes = model.shapes()
    values = [*shapes.values(), *(layer.weight_shape for layer in model.layers)]
    if max(np.prod(shape, dtype=float) for shape in values) > 1e5:
        return
    x = np.zeros((2, *model.input_shape), np.float32)
    found = Network(model)
    found.predict(x)
    found.train_step(x, np.zeros(2, np.int64), STEP)
    list(found.gradients(x, np.zeros(2, np.int64), list(found._state.weights)))


def fuzz(seed: int, examples: int) -> None:
    """Random models; run in a process of its own, whose exit tells whether it crashed."""
    from hypothesis import seed as seeded

    @seeded(seed)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(tuples, st.lists(layers, min_size=0, max_size=3))
    def run(shape: tuple[int, ...], drawn: list[Layer]) -> None:
        try:
            try_model(Model(shape, tuple(drawn)))
        except TYPED:
            return

    run()


@pytest.mark.parametrize(("seed", "examples"), [(0, 400), pytest.param(1, 20000, marks=pytest.mark.slow)])
def test_random_models_never_crash(seed, examples):
    command = [sys.executable, str(Path(__file__)), str(seed), str(examples)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert told.returncode == 0, told.stderr[-2000:]


if __name__ == "__main__":
    fuzz(int(sys.argv[1]), int(sys.argv[2]))

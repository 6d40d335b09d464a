"""Models drawn at random, absurd ones for the most part: a result or a typed error, never a crash."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_engine import Layer, Model, Network, Op, StepOptions

TYPED = (ValueError, TypeError, MemoryError)  # ModelError is a ValueError
STEP = StepOptions(0.1, momentum=0.9)
WINDOWED = (Op.CONV, Op.MAX_POOL, Op.AVG_POOL)
OF_IMAGES = (*WINDOWED, Op.UPSAMPLE, Op.CROP)

absurd = st.sampled_from([-1, 0, 7, 2**15, 2**31 - 1, 2**31, 2**40, 2**63])
spoilt = st.fixed_dictionaries(
    {},
    optional={
        "in_channels": absurd,
        "out_channels": absurd,
        "groups": absurd,
        "kernel": st.lists(absurd, max_size=3).map(tuple),
        "stride": st.lists(absurd, max_size=3).map(tuple),
        "padding": st.lists(absurd, max_size=3).map(tuple),
        "dilation": st.lists(absurd, max_size=3).map(tuple),
        "start": absurd,
        "inputs": st.lists(st.sampled_from(["input", "0", "z"]), max_size=2).map(tuple),
        "weight_norm": st.just("?"),
        "gain": st.sampled_from([np.nan, np.inf]),
        "rate": st.sampled_from([1.0, -1.0, np.nan]),
    },
)


@st.composite
def models(draw) -> Model:
    """Layers that mostly fit what they read; one of four models has a layer that is spoilt."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    shapes, layers = {"input": shape}, []
    for name in map(str, range(draw(st.integers(1, 5)))):
        first = draw(st.sampled_from(list(shapes)))
        source = shapes[first]
        op = draw(st.sampled_from([op for op in Op if len(source) > 1 or op not in OF_IMAGES]))
        same = [other for other, found in shapes.items() if found == source]
        joined = [draw(st.sampled_from(same)) for _ in range({Op.ADD: 1, Op.MUL: 1, Op.CONCAT: 2}.get(op, 0))]
        dims = len(source) - 1 if op in (*WINDOWED, Op.UPSAMPLE) else 0
        kernel, stride = (tuple(draw(st.integers(1, 3)) for _ in range(dims)) for _ in range(2))
        outs = source[0] * (1 if op in (Op.BATCH_NORM, Op.SLICE) else draw(st.integers(1, 2)))
        start = draw(st.integers(0, outs - 1)) if op is Op.SLICE else 0
        padding = tuple(k // 2 for k in kernel)
        if op is Op.CROP:
            cut = [draw(st.integers(0, size - 1)) for size in source[1:]]
            padding = (*cut, *(size - 1 - before for size, before in zip(source[1:], cut, strict=True)))
        if draw(st.booleans()):
            padding += tuple(draw(st.integers(k // 2, k - 1)) for k in kernel)
        layer = Layer(
            *(name, op, (first, *joined), int(np.prod(source)) if op is Op.LINEAR else source[0], outs - start),
            *(kernel, stride, padding),
            groups=draw(st.sampled_from([1, source[0]])) if op in (Op.CONV, Op.SHUFFLE) else 1,
            weight_norm=draw(st.sampled_from(["", "active", "all"])),
            rate=draw(st.sampled_from([0.0, 0.5])),
            dilation=tuple(draw(st.integers(1, 1 + (size > 4))) for size in source[1:]) if op is Op.CONV else (),
            start=start,
        )
        layers.append(layer)
        shapes = Model(shape, tuple(layers)).shapes()
    if draw(st.booleans()):  # logits, as training needs them
        last = shapes[layers[-1].name]
        layers.append(Layer("head", Op.LINEAR, (layers[-1].name,), int(np.prod(last)), 3))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(layers) - 1))
        layers[at] = replace(layers[at], **draw(spoilt))
    if draw(st.integers(0, 9)) == 0:
        shape = tuple(draw(st.lists(st.one_of(absurd, st.integers(1, 7)), max_size=4)))
    return Model(shape, tuple(layers))


def try_model(model: Model) -> None:
    """As far as it goes; what is accepted but large is not run."""
    values = [*model.shapes().values(), *(layer.weight_shape for layer in model.layers)]
    if max(np.prod(shape, dtype=float) for shape in values) > 1e5:
        return
    x, y = np.zeros((2, *model.input_shape), np.float32), np.zeros(2, np.int64)
    found = Network(model)
    found.predict(x)
    found.train_step(x, y, STEP)
    list(found.gradients(x, y, list(found._state.weights)))


def fuzz(seed: int, examples: int) -> dict[str, int]:
    """How many models were trained, and how many refused; run in a process of its own, which may crash."""
    from hypothesis import seed as seeded

    counts = {"trained": 0, "refused": 0}

    @seeded(seed)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(models())
    def run(model: Model) -> None:
        try:
            try_model(model)
            counts["trained"] += 1
        except TYPED:
            counts["refused"] += 1

    run()
    return counts


@pytest.mark.parametrize(("seed", "examples"), [(0, 400), pytest.param(1, 20000, marks=pytest.mark.slow)])
def test_random_models_never_crash(seed, examples):
    command = [sys.executable, str(Path(__file__)), str(seed), str(examples)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-2000:]
    counts = json.loads(told.stdout)
    assert counts["trained"] > examples // 5, "too few models that can be trained"
    assert counts["refused"] > examples // 20, "too few models that cannot"


if __name__ == "__main__":
    print(json.dumps(fuzz(int(sys.argv[1]), int(sys.argv[2]))))  # noqa: T201

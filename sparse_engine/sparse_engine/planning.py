"""What a model's steps take, told before any of them runs: no activation is allocated for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sparse_engine.layers import Model, ModelError
from sparse_engine.network import EXACT, Network
from sparse_engine.program.values import Saving
from sparse_engine.step_options import StepOptions

NUMBER_BYTES = 16  # of a weight: value, momentum, gradient, and its place in its row
NORMALISED_BYTES = 4  # and the value that a weight norm makes of it
TRAINING_TAP_BYTES = 16  # of a weight in a training program: where it reads, in both directions, and its value
DENSE_TAP_BYTES = 12  # the same of any weight where the dense kernels are used


class Plan:
    """A model with so many active weights a layer (all, where a layer is not named).

    ``dense_from`` as in ``Network``. What weights themselves take is allocated as in training, and freed with the
    plan. Raises ``ModelError``.
    """

    def __init__(
        self,
        model: Model,
        active: Mapping[str, int],
        threads: int = 1,
        *,
        dense_from: Mapping[str, float] | None = None,
    ) -> None:
        self._network = Network(model, threads, dense_from=dense_from)
        self._arenas: dict[tuple[int, Saving], int] = {}
        self._number_bytes = self._tap_bytes = 0
        state = self._network._state
        for layer in model.layers:
            weights = state.weights.get(layer.name)
            if weights is None:
                continue
            size = int(np.prod(layer.weight_shape))
            count = active.get(layer.name, size)
            if not 0 <= count <= size:
                raise ModelError(f"layer {layer.name!r} has {size} weights, of which {count} cannot be active")
            weights.set(np.arange(count, dtype=np.int64) * size // max(1, count), np.zeros(count, np.float32))
            whole = count >= state.dense_at(layer.name) * size
            self._tap_bytes += size * DENSE_TAP_BYTES if whole else count * TRAINING_TAP_BYTES
            self._number_bytes += count * (NUMBER_BYTES + (NORMALISED_BYTES if layer.weight_norm else 0))

    def arena_bytes(self, samples: int, step: StepOptions) -> int:
        """The arena of a training step of so many samples a pass: it is exactly that."""
        key = samples, step.saving
        if key not in self._arenas:
            self._arenas[key] = self._network._compile(samples, "train", step.saving).program.bytes
        return self._arenas[key]

    def evaluation_bytes(self, samples: int) -> int:
        """The arena of so many predictions at a time."""
        return self._network._compile(samples, "infer", EXACT).program.bytes

    def weight_bytes(self) -> int:
        """Weights, and the lists of them that a training program keeps: only one at a time has any."""
        return self._number_bytes + self._tap_bytes

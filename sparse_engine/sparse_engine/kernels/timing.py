"""Seconds of one convolution's three operations, alone: forward, input gradient, weight gradient."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from sparse_engine import _core
from sparse_engine.layers import Layer
from sparse_engine.program.geometry import conv_shape, three
from sparse_engine.program.memory import Buffer

ALWAYS, NEVER = 0.0, 2.0  # shares of weights from which the dense kernels are used
LEAST_TRIALS = 3


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of a pass over all samples; the least of several trials."""

    forward: float
    input_gradient: float
    weight_gradient: float

    @property
    def total(self) -> float:
        return self.forward + self.input_gradient + self.weight_gradient


class TimedConvolution:
    """One layer between two tensors of random values. ``input_shape`` is (C,), (C, L) or (C, H, W)."""

    def __init__(
        self,
        layer: Layer,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        samples: int,
        threads: int = 1,
    ) -> None:
        self._layer = layer
        self._samples = samples
        self._arena, self._pool = _core.Arena(), _core.Pool(threads)
        self._input, self._output = Buffer(*three(input_shape)), Buffer(*three(output_shape))
        self._gradient = Buffer(*three(input_shape))
        offset = 0
        for buffer in (self._input, self._output, self._gradient):
            buffer.offset = offset
            offset += buffer.floats(samples)
        rng = np.random.default_rng(0)
        self._values = rng.standard_normal(samples * self._input.values, np.float32)
        self._labels = np.zeros(0, np.int64)  # without a loss none are read

    @property
    def size(self) -> int:
        """Weights, pruned ones included."""
        return int(np.prod(self._layer.weight_shape))

    @property
    def products(self) -> int:
        """Multiply-adds of each operation, a weight: one an output pixel and sample."""
        return self._output.height * self._output.width * self._samples

    @property
    def tensor_bytes(self) -> int:
        """Of its input and its output: what each operation reads and writes at least, beside the weights."""
        return 4 * self._samples * (self._input.values + self._output.values)

    def active(self, density: float) -> int:
        """Weights at that density."""
        return max(1, round(density * self.size))

    def time(self, density: float, *, dense: bool, seconds: float) -> Seconds:
        """The least times of trials that take about so many ``seconds`` together, or of a few short ones."""
        weights = _core.Weights(self._layer.out_channels, self.size // self._layer.out_channels)
        rng = np.random.default_rng(0)
        mask = np.zeros(self.size, bool)
        mask[rng.permutation(self.size)[: self.active(density)]] = True
        chosen = np.flatnonzero(mask)
        weights.set(chosen, rng.standard_normal(chosen.size, np.float32) / np.float32(chosen.size) ** 0.5)
        program = _core.Program(self._arena, self._pool, self._samples)
        buffers = (self._input, self._output, self._gradient)
        source, out, gradient = (program.tensor(b.channels, b.height, b.width, b.offset) for b in buffers)
        shape = conv_shape(self._layer, self._input, self._output)
        number = program.convolution(shape, weights, ALWAYS if dense else NEVER)
        read, gave = _core.View(source), _core.View(out)  # the output stands for its own gradient
        program.forward(number, read, out)
        program.backward(number, _core.BackwardWants(gave, out, read, gradient, weight_gradient=False))
        program.backward(number, _core.BackwardWants(gave, out, read))
        program.begin(self._values, source)
        self._run(program, 0, len(program))  # all taps are prepared, all memory touched
        return Seconds(*(self._least(program, step, seconds / len(program)) for step in range(len(program))))

    def _least(self, program: _core.Program, step: int, seconds: float) -> float:
        least, trials, began = float("inf"), 0, time.perf_counter()
        while True:
            started = time.perf_counter()
            self._run(program, step, step + 1)
            finished = time.perf_counter()
            least, trials, spent = min(least, finished - started), trials + 1, finished - began
            # Other processes interrupt: one trial tells little, unless there is no time for a second.
            if spent >= seconds and (trials >= LEAST_TRIALS or spent >= LEAST_TRIALS * seconds):
                return least

    def _run(self, program: _core.Program, first: int, last: int) -> None:
        program.run(self._labels, first, last)

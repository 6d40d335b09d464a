"""A model with its numbers: training, evaluation and gradients."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_engine import _core
from sparse_engine.arrays import floats, integers
from sparse_engine.file.sections import Sparse
from sparse_engine.layers import Model, ModelError
from sparse_engine.parameters import Floats, Ints, Parameters
from sparse_engine.program.backward import Backward
from sparse_engine.program.forward import Forward
from sparse_engine.program.memory import MemoryPlan
from sparse_engine.program.tape import Emitter
from sparse_engine.program.values import Saving
from sparse_engine.step_options import StepOptions

BN_MOMENTUM = 0.1
OBJECTIVES = ("cross_entropy", "squared_error", "flow")
EXACT = Saving()
MOST_IDLE = 8 << 20  # bytes of the arena
NO_LABELS = np.zeros(0, np.int64)  # where there is no loss, none are read


@dataclass(slots=True)
class Compiled:
    """A program and where its ends are."""

    program: _core.Program
    input: int
    output: int
    backward_layers: dict[str, int]  # the operation that is each layer's backward convolution
    memory: MemoryPlan
    runs: int = 0  # begun so far


class Network:
    """Weights and norms of a model, and the programs that run it. Raises ``ModelError`` where it cannot be run.

    Arrays are named ``LAYER.weight``, ``.bias``, ``.gain``, ``.running_mean`` and ``.running_var``. Inputs are
    float32 (N, C, *spatial), labels int64 (N,).

    May be called from any number of threads: calls take turns, each is whole before the next begins, and other
    Python code runs meanwhile. ``gradients`` takes a turn for each layer: where another call came between, it
    raises ``ModelError``, and has to be asked anew. Networks of their own work at the same time.
    """

    def __init__(
        self, model: Model, threads: int = 1, shares: int = 0, dense_from: Mapping[str, float] | None = None
    ) -> None:
        """Results are the same bit for bit on any number of threads, if ``shares`` (at least as many) is the same.

        0: as many as threads. Each share takes scratch memory of its own. ``dense_from``: by layer, the density
        from which the dense kernels are used, as ``kernel_choice.dense_from`` tells it.
        """
        self.model = model
        self.classes = _classes(model)  # values of a sample's output
        self._turn = threading.RLock()
        self._arena = _core.Arena()
        self._pool = _core.Pool(threads, shares)
        self._programs: dict[tuple[int, str, Saving], Compiled] = {}
        self._current: Compiled | None = None
        self._changes = 0  # of the numbers, so far
        self._drawn = 0  # what dropout draws by: other values in each pass that trains
        self._parameters = Parameters(model, dense_from)
        self._state = self._parameters.state
        self._layers = {layer.name: layer for layer in model.layers}

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena as it is."""
        with self._turn:
            return self._arena.bytes

    def release(self) -> None:
        """Give the arena back to the system; the next run takes it anew."""
        with self._turn:
            self._arena.release()

    # -- numbers -------------------------------------------------------------------------

    def set(self, params: Mapping[str, Floats], mask: Mapping[str, NDArray[np.bool_]] | None = None) -> None:
        """Take numbers; weights outside the mask are dropped, and all momentum is cleared."""
        with self._turn:
            self._changes += 1
            self._parameters.set(params, mask)

    def load(self, arrays: Mapping[str, Sparse]) -> None:
        """Take the numbers of a stored model, weights without ever being whole; all momentum is cleared."""
        with self._turn:
            self._changes += 1
            self._parameters.load(arrays)

    def get(self) -> dict[str, Floats]:
        """Dense copies of all numbers."""
        with self._turn:
            return self._parameters.get()

    def remask(self, mask: Mapping[str, NDArray[np.bool_]]) -> None:
        """Prune and grow in place: what stays keeps its value and momentum, what is new begins at zero."""
        with self._turn:
            self._changes += 1
            self._parameters.remask(mask)

    def checkpoint(self) -> dict[str, Floats | Ints]:
        """All that training goes on from: compressed weights, momentum and running statistics."""
        with self._turn:
            return self._parameters.checkpoint()

    def restore(self, state: Mapping[str, Floats | Ints]) -> None:
        """Go on from a ``checkpoint`` of the same model. Raises ``ModelError`` where it is of another."""
        with self._turn:
            self._changes += 1
            self._parameters.restore(state)

    def mark(self, positions: Mapping[str, Ints]) -> None:
        """Flat positions of the weights that ``StepOptions.penalty`` draws to zero."""
        with self._turn:
            self._parameters.mark(positions)

    def marked_norm(self) -> float:
        """The 2-norm of all marked weights together."""
        with self._turn:
            return self._parameters.marked_norm()

    def draw_from(self, number: int) -> None:
        """What dropout of the next pass draws by, 0 at first; each pass that trains is one further."""
        with self._turn:
            self._drawn = number

    # -- running -------------------------------------------------------------------------

    def train_step(self, x: Floats, y: Ints, step: StepOptions) -> float:
        """One optimiser step on the mean cross-entropy of the batch; returns that loss."""
        with self._turn:
            self._changes += 1
            owners: list[_core.Weights | _core.Norm] = [*self._state.weights.values(), *self._state.norms.values()]
            for owner in owners:
                owner.zero_gradient()
            parts = list(_parts(x, y, step.micro_batch))
            total = 0.0
            for part_x, part_y in parts:
                compiled = self._compiled(len(part_y), "train", step.saving)
                total += self._run(compiled, part_x, part_y, momentum_of(len(parts)), 1.0 / len(y))[0]
                self._drawn += 1
            sgd = _core.Sgd(step.learning_rate, step.momentum, step.weight_decay, step.penalty)
            for owner in owners:
                owner.update(sgd)
            return total / len(y)

    def update_statistics(self, x: Floats, micro_batch: int = 0) -> None:
        """A forward pass in training mode: moves the running statistics only."""
        parts = [part for part, _ in _parts(x, np.zeros(len(x), np.int64), micro_batch)]
        with self._turn:
            self._changes += 1
            for part in parts:
                compiled = self._compiled(len(part), "statistics", EXACT)
                self._run(compiled, part, NO_LABELS, momentum_of(len(parts)), 0.0)

    def predict(self, x: Floats) -> Floats:
        """Outputs (N, classes) in evaluation mode."""
        with self._turn:
            compiled = self._compiled(len(x), "infer", EXACT)
            self._run(compiled, x, NO_LABELS, -1.0, 0.0)
            out = np.empty((len(x), self.classes), np.float32)
            compiled.program.output(compiled.output, out.reshape(-1))
            return out

    def gradients(
        self,
        x: Floats,
        y: Ints,
        layers: Sequence[str] | Mapping[str, Sequence[range]],
        rows: int = 0,
        objective: str = "cross_entropy",
        saving: Saving = EXACT,
    ) -> Iterator[tuple[str, int, Floats]]:
        """Whole weight gradients of the layers, pruned positions included, in training mode.

        Yields (layer, first output channel, gradient of ``rows`` output channels), from the output to the input;
        ``rows`` 0: all at once. A mapping gives each layer's ranges of output channels instead. Running
        statistics stay.
        """
        unknown = sorted(set(layers) - self._state.weights.keys())
        if unknown or rows < 0 or objective not in OBJECTIVES:
            raise ModelError(f"no gradients of {unknown}, of {rows} rows, or of {objective!r} (of {OBJECTIVES})")
        labels = integers(y, "labels")
        with self._turn:
            compiled = self._compiled(len(y), "train", saving)
            run, changes, drawn = self._begin(compiled, x), self._changes, self._drawn
        share = 1.0 / len(y) if objective == "cross_entropy" else 1.0
        aim = getattr(_core.Objective, objective)
        program, wanted, done = compiled.program, set(layers), 0
        for name, index in compiled.backward_layers.items():
            if not wanted:
                break
            if name not in wanted:
                continue
            wanted.discard(name)
            shape = self._layers[name].weight_shape
            count = rows or shape[0]
            every = [range(first, min(first + count, shape[0])) for first in range(0, shape[0], count)]
            for tile in layers[name] if isinstance(layers, Mapping) else every:
                out = np.zeros((len(tile), *shape[1:]), np.float32)
                with self._turn:
                    if compiled.runs != run or self._changes != changes:
                        raise ModelError("this pass lost its values or weights to a later call; ask for it anew")
                    if done < index:
                        program.run(labels, done, index, -1.0, share, aim, drawn)
                        done = index
                    program.dense_gradient(index, tile.start, tile.stop, out.reshape(-1))
                yield name, tile.start, out

    def _begin(self, compiled: Compiled, x: Floats) -> int:  # the run's number
        # Memory that a smaller pass leaves unused goes back; little is kept, for passes that take turns.
        if self._arena.bytes - compiled.program.bytes > max(MOST_IDLE, self._arena.bytes // 4):
            self._arena.release()
        compiled.program.begin(_flat(x, self.model.input_shape), compiled.input)
        compiled.runs += 1
        return compiled.runs

    def _run(self, compiled: Compiled, x: Floats, y: Ints, momentum: float, share: float) -> tuple[float, int]:
        program = compiled.program
        self._begin(compiled, x)
        found: tuple[float, int] = program.run(
            integers(y, "labels"), 0, len(program), momentum, share, seed=self._drawn
        )
        return found

    def _compiled(self, samples: int, mode: str, saving: Saving) -> Compiled:
        key = (samples, mode, saving)
        if key not in self._programs:
            self._programs[key] = self._compile(samples, mode, saving)
        compiled = self._programs[key]
        if self._current is not compiled:
            # Only one program at a time holds lists of the weights of its own.
            if self._current is not None:
                self._current.program.release()
            self._current = compiled
        return compiled

    def _compile(self, samples: int, mode: str, saving: Saving) -> Compiled:
        unknown = sorted(
            {name for name, _ in saving.layers} - self._state.weights.keys() - self._state.norms.keys()
        )
        if unknown:
            raise ModelError(
                f"caches are chosen for {unknown}, which have none: name layers with weights, or norms"
            )
        lowered = Forward(self.model, training=mode != "infer").lower()
        tape = lowered.tape
        if mode == "train":
            Backward(lowered, saving).lower()
        memory = tape.place(samples)
        program = _core.Program(self._arena, self._pool, samples)
        layers: dict[str, int] = {}
        emitter = Emitter(program, self._state)
        for instruction in tape.ordered():
            if instruction.layer:
                layers[instruction.layer] = len(program)
            instruction.emit(emitter)
        return Compiled(program, emitter.tensor(lowered.input), emitter.tensor(lowered.output), layers, memory)


def _classes(model: Model) -> int:
    """Values of a sample's output. Raises ``ModelError`` for a model that gives no vector."""
    last = model.layers[-1].name if model.layers else "input"
    shape = model.shapes().get(last, model.input_shape)
    if math.prod(shape[1:]) != 1:
        raise ModelError(
            f"layer {last!r} gives outputs of shape {shape}; let a linear layer or a global pool be the last"
        )
    return shape[0]


def momentum_of(parts: int) -> float:
    """Of the statistics, so that k micro-batches together move them as far as one batch does."""
    return 1.0 - float((1.0 - BN_MOMENTUM) ** (1.0 / parts))


def _flat(x: Floats, shape: tuple[int, ...]) -> Floats:
    found = floats(x, "samples")
    if found.shape[1:] != shape:
        raise ModelError(f"samples have shape {found.shape[1:]}, not {shape}")
    return found.reshape(-1)


def _parts(x: Floats, y: Ints, size: int) -> Iterator[tuple[Floats, Ints]]:
    """Even parts of at most ``size`` samples, the larger first."""
    if len(x) != len(y) or not len(y):
        raise ModelError(f"{len(x)} samples and {len(y)} labels; as many of both are needed, and at least one")
    count = 1 if size <= 0 else -(-len(y) // size)
    least, more = divmod(len(y), count)
    bounds = [least * i + min(i, more) for i in range(count + 1)]
    for first, last in zip(bounds, bounds[1:], strict=False):
        yield x[first:last], y[first:last]

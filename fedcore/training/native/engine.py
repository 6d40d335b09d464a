"""The native engine: ``sparse_engine``, whose time and memory follow the number of weights that are left."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from sparse_engine import LANES, Network
from sparse_engine.kernels.kernel_choice import dense_from
from tinyfleet.fedcore.arrays import FloatArray, IntArray, Mask, Params
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.models.graph import Graph, Node
from tinyfleet.fedcore.payload import SparseVector
from tinyfleet.fedcore.sparsity.topk import StreamingTopK
from tinyfleet.fedcore.training.engine import GROWTH, Engine, Evaluation, StepSettings
from tinyfleet.fedcore.training.engine_facts import NO_KERNEL_CHOICE
from tinyfleet.fedcore.training.first_pass import first_pass
from tinyfleet.fedcore.training.local_optimiser import LocalOptimiser
from tinyfleet.fedcore.training.native.model import model_of, step_of

TILE_VALUES = 1 << 17  # of a weight gradient held at once while the largest entries are picked
SUM_VALUES = 1 << 20  # of weight gradients that are summed over micro-batches at once

Tile = tuple[str, range]
"""A layer's name and some of its output channels."""


class NativeEngine(Engine):
    """One network of ``sparse_engine``. Deterministic for given ``threads`` and ``kernel_choice``.

    ``kernel_choice``: by a convolution's shape, the density from which dense kernels are faster on this board, as
    ``planning.kernel_choice`` measures it; where it is not known, the engine's own guess.
    """

    name = "native"

    def __init__(self, threads: int = 1, kernel_choice: Mapping[str, float] = NO_KERNEL_CHOICE) -> None:
        self._threads = threads
        self._kernel_choice = kernel_choice
        self._graph: Graph | None = None
        self._network: Network | None = None

    # -- the model ----------------------------------------------------------------------

    def load(self, graph: Graph, params: Params, mask: Mask) -> None:
        try:
            if graph != self._graph:
                self._graph = None  # what the old network holds goes before the new one comes
                self._network = None
                model = model_of(graph)
                self._network = Network(model, self._threads, dense_from=dense_from(model, self._kernel_choice))
                self._graph = graph
            self._loaded.set(params, mask)
            self._loaded.draw_from(first_pass(graph, params))
            self._optimiser, self._marked = LocalOptimiser(), dict[str, IntArray]()
        except ValueError as error:
            self._graph = None
            raise ConfigError(
                f"engine 'native' cannot take model {graph.name!r} ({error}); use engine 'torch'"
            ) from None
        self._mask = mask
        self._nodes = {node.weight: node for node in graph.weighted}

    @property
    def _loaded(self) -> Network:
        if self._network is None:
            raise ConfigError("engine 'native' holds no model; load one first")
        return self._network

    def params(self) -> Params:
        self._loaded.release()  # a task's last act: its result takes the activations' place
        return self._loaded.get()

    def mark(self, positions: Mapping[str, IntArray]) -> None:
        self._loaded.mark(positions)
        self._marked = dict(positions)

    def marked_norm(self) -> float:
        return self._loaded.marked_norm()

    # -- training and evaluation --------------------------------------------------------

    def train_step(self, x: FloatArray, y: IntArray, settings: StepSettings) -> float:
        if settings.beyond_sgd:
            return self._move(x, y, settings)
        return self._loaded.train_step(x, y, step_of(settings))

    def _move(self, x: FloatArray, y: IntArray, settings: StepSettings) -> float:
        """A step that needs all gradients at once: those of the weights that are left, in NumPy."""
        network = self._loaded
        # At rate 0 no weight moves, and at momentum 0 what the engine keeps as momentum is the gradient.
        still = replace(step_of(settings), learning_rate=0.0, momentum=0.0, weight_decay=0.0)
        loss = network.train_step(x, y, still)
        state = network.checkpoint()
        names = [key.removesuffix(".value") for key, held in state.items() if key.endswith(".value") and held.size]
        values, gradients = ({name: state[f"{name}.{kind}"] for name in names} for kind in ("value", "velocity"))
        self._optimiser.step(settings, values, gradients)
        network.restore(state)
        network.mark(self._marked)  # to restore is to set: that forgets the marks
        return loss

    def update_statistics(self, x: FloatArray, micro_batch: int = 0) -> None:
        self._loaded.update_statistics(x, micro_batch)

    def evaluate(self, x: FloatArray, y: IntArray, batch: int = 256) -> Evaluation:
        logits = self.predict(x, batch).astype(np.float64)
        if not len(y):
            return Evaluation(0, 0.0, 0)
        top = logits.max(axis=1)
        sums = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
        loss = float((sums - logits[np.arange(len(y)), y]).sum())
        return Evaluation(len(y), loss, int((logits.argmax(axis=1) == y).sum()))

    def predict(self, x: FloatArray, batch: int = 256) -> FloatArray:
        parts = [self._logits(part, size)[: len(part)] for part, size in self._passes(x, batch)]
        classes = 0 if self._graph is None else self._graph.classes
        return np.concatenate(parts) if parts else np.empty((0, classes), np.float32)

    def _logits(self, x: FloatArray, size: int) -> FloatArray:
        """Of ``x`` filled up to ``size`` samples: a sample's logits depend on no other's in evaluation mode."""
        missing = size - len(x)
        if missing:
            x = np.concatenate([x, np.zeros((missing, *x.shape[1:]), np.float32)])
        return self._loaded.predict(x)

    def _passes(self, x: FloatArray, batch: int) -> Iterator[tuple[FloatArray, int]]:
        """Samples, and how many a pass is to have: powers of two, or whole ``LANES`` for every thread."""
        # Evaluation gains nothing from more of them.
        size = LANES * self._threads if batch >= LANES * self._threads else _power_of_two(batch)
        for start in range(0, len(x), size):
            part = x[start : start + size]
            above = 2 * _power_of_two(len(part) - 1) if len(part) > 1 else 1
            yield part, size if len(x) > size else min(size, above)

    # -- gradients of pruned weights ----------------------------------------------------

    def top_gradients(
        self, x: FloatArray, y: IntArray, counts: Mapping[str, int], settings: StepSettings = GROWTH
    ) -> dict[str, SparseVector]:
        tops = {name: StreamingTopK(count) for name, count in counts.items()}
        names = [name for name, count in counts.items() if count > 0 and name in self._mask]
        for name, first, gradient in self._gradients(x, y, names, settings):
            active = self._mask[name][first : first + len(gradient)]
            pruned = np.flatnonzero(~active.reshape(-1))
            tops[name].push(pruned + first * (active[0].size), gradient.reshape(-1)[pruned])
        return {name: top.result() for name, top in tops.items()}

    def dense_gradients(
        self, x: FloatArray, y: IntArray, names: Iterable[str], objective: Literal["loss", "flow"] = "loss"
    ) -> Params:
        wanted = set(names) & self._nodes.keys()
        labels = y if objective == "loss" else np.zeros(len(x), np.int64)
        found: Params = {}
        for name, first, gradient in self._gradients(x, labels, wanted, GROWTH, objective):
            whole = found.setdefault(name, np.empty(self._shape(name), np.float32))
            whole[first : first + len(gradient)] = gradient
        return found

    def _gradients(
        self,
        x: FloatArray,
        y: IntArray,
        names: Collection[str],
        settings: StepSettings,
        objective: Literal["loss", "flow"] = "loss",
    ) -> Iterator[tuple[str, int, FloatArray]]:
        """Tiles of weight gradients: (weight, first output channel, values).

        With micro-batches a tile is the sum over all of them. Each pass then fills as many tiles as
        ``SUM_VALUES`` allows, so that there is no more than that beside the passes themselves.
        """
        tiles = list(self._tiles(names))
        parts = np.array_split(np.arange(len(y)), settings.levers.passes(len(y)))
        if len(parts) == 1:
            yield from self._pass(x, y, tiles, settings, objective)
            return
        for group in self._groups(tiles):
            sums: dict[tuple[str, int], FloatArray] = {}
            for rows in parts:
                for name, first, gradient in self._pass(x[rows], y[rows], group, settings, objective):
                    np.multiply(gradient, len(rows) / len(y), out=gradient)  # of its own samples' mean
                    held = sums.get((name, first))
                    sums[name, first] = gradient if held is None else np.add(held, gradient, out=held)
            for (name, first), gradient in sums.items():
                yield name, first, gradient

    def _pass(
        self, x: FloatArray, y: IntArray, tiles: Sequence[Tile], settings: StepSettings, objective: str
    ) -> Iterator[tuple[str, int, FloatArray]]:
        """The tiles of one forward and backward pass, which goes no deeper than they lie."""
        ranges: dict[str, list[range]] = {}
        for name, channels in tiles:
            ranges.setdefault(self._nodes[name].name, []).append(channels)
        what = "cross_entropy" if objective == "loss" else objective
        saving = step_of(settings).saving
        for layer, first, gradient in self._loaded.gradients(x, y, ranges, objective=what, saving=saving):
            yield f"{layer}.weight", first, gradient

    def _tiles(self, names: Collection[str]) -> Iterator[Tile]:
        """Output channels a few at a time, from the output to the input."""
        for name in reversed(self._nodes):
            if name in names:
                shape = self._shape(name)
                rows = max(4, TILE_VALUES // math.prod(shape[1:]))
                for first in range(0, shape[0], rows):
                    yield name, range(first, min(first + rows, shape[0]))

    def _groups(self, tiles: Iterable[Tile]) -> Iterator[list[Tile]]:
        """Tiles that are summed together."""
        group: list[Tile] = []
        held = 0
        for name, channels in tiles:
            size = len(channels) * math.prod(self._shape(name)[1:])
            if group and held + size > SUM_VALUES:
                yield group
                group, held = [], 0
            group.append((name, channels))
            held += size
        if group:
            yield group

    def _shape(self, name: str) -> tuple[int, ...]:
        node: Node = self._nodes[name]
        return (node.out_channels, node.in_channels // node.groups, *node.kernel)


def _power_of_two(count: int) -> int:
    """The largest that is not above ``count``."""
    return 1 << (max(1, count).bit_length() - 1)

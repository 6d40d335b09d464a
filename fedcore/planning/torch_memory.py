"""Predicts what a training step of the torch engine holds at its peak, from the graph alone.

The step is replayed tensor by tensor: who allocates, who still reads, what the backward pass caches. What no
replay can know (the libraries' own buffers, an allocator's rounding) is left to the board's cost model.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from tinyfleet.fedcore.accounting import VALUE
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Role
from tinyfleet.fedcore.models.layers.kind import Memory, Reads
from tinyfleet.fedcore.models.layers.table import kind_of, known
from tinyfleet.fedcore.models.layers.window import lopsided, pads
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.levers import NO_LEVERS, Levers
from tinyfleet.fedcore.training.torch.layout import CHUNK

CHUNK_BYTES = 4 + 1 + 8 + 4  # per entry of a chunk: |a|, the flag, its slot, and at worst its value


@dataclass(frozen=True, slots=True)
class StepShape:
    """What decides a step's memory besides the model."""

    batch: int  # samples of a forward pass: the micro-batch where there is one
    levers: Levers = NO_LEVERS  # those of its caches count here
    pruned_norm: bool = False
    accumulate: bool = False  # all gradients are held: they are summed over micro-batches, or needed at once

    @classmethod
    def of(cls, settings: StepSettings, batch: int) -> StepShape:
        """That of an optimiser step of so many samples."""
        passes = settings.levers.passes(batch)
        samples = math.ceil(batch / passes)
        return cls(samples, settings.levers, settings.pruned_norm, accumulate=passes > 1 or settings.beyond_sgd)

    @property
    def pruned(self) -> bool:
        return self.levers.lossy


class Heap:
    """Live tensors and the most that they ever took together."""

    def __init__(self) -> None:
        self.live: dict[object, int] = {}
        self.now = 0
        self.peak = 0

    def take(self, key: object, size: float) -> None:
        """Allocate under a new key."""
        self.live[key] = math.ceil(size)
        self.now += self.live[key]
        self.peak = max(self.peak, self.now)

    def drop(self, key: object) -> None:
        """Free; a key that holds nothing is none."""
        self.now -= self.live.pop(key, 0)

    def touch(self, size: float) -> None:
        """Something that comes and goes within one operation."""
        self.peak = max(self.peak, self.now + math.ceil(size))


@dataclass(slots=True)
class _Replay:
    graph: Graph
    shape: StepShape
    memory: dict[str, Memory]  # of every node
    heap: Heap = field(default_factory=Heap)
    owner: dict[str, str] = field(default_factory=dict)  # node -> whose tensor it is: in-place layers share
    refs: Counter[str] = field(default_factory=Counter)  # holders of a tensor: readers to come, and caches
    cached: dict[str, list[str]] = field(default_factory=dict)  # node -> tensors that its backward pass reads

    def size(self, name: str) -> int:
        return math.prod(self.graph.shapes[name]) * self.shape.batch * VALUE

    def forward(self) -> None:
        graph, readers = self.graph, Counter(s for n in self.graph.nodes for s in n.inputs)
        if self.shape.accumulate:  # any pass but the first: the sums so far are there from the start
            self.heap.take("sums", sum(self._weight_bytes(node) for node in graph.nodes))
        self.owner[INPUT] = INPUT
        self.heap.take(INPUT, 2 * self.size(INPUT))  # as it came, and with channels innermost
        self.refs[INPUT] = readers[INPUT]
        for node in graph.nodes:
            first = node.inputs[0]
            memory = self.memory[node.name]
            overwrites = readers[first] == 1 and first != INPUT and self.memory[first].overwritable
            self._cache(node)
            if memory.view or (memory.in_place and overwrites):
                self.owner[node.name] = self.owner[first]
            else:
                self.owner[node.name] = node.name
                self.heap.take(node.name, self.size(node.name))
                self.heap.touch(memory.scratch * self.size(node.name))
            self.refs[self.owner[node.name]] += readers[node.name] + (node.name == graph.output)
            if memory.reads is Reads.OUTPUT or (memory.reads is Reads.SIGNS and not self.shape.pruned):
                self._hold(node, self.owner[node.name])
            for source in node.inputs:
                self._release(self.owner[source])

    def _cache(self, node: Node) -> None:
        """What the node keeps of its input for the backward pass."""
        source, memory = node.inputs[0], self.memory[node.name]
        if self._prunes(node):
            entries, levers = self.size(source) // VALUE, self.shape.levers
            self.heap.touch(min(entries, CHUNK) * CHUNK_BYTES)
            self.heap.take(("kept", node.name), entries * (levers.activation_keep * levers.value_bytes + 1 / 8))
        elif memory.reads is Reads.INPUTS:
            for name in dict.fromkeys(node.inputs):
                self._hold(node, self.owner[name])
        elif memory.reads is Reads.INPUT:
            if lopsided(node):  # torch pads a copy
                self.heap.take(("padded", node.name), self._padded(node))
                self.cached.setdefault(node.name, [])
            else:
                self._hold(node, self.owner[source])
            if memory.indices:
                self.heap.take(("kept", node.name), 2 * self.size(node.name))  # int64 indices
        elif memory.reads is Reads.SIGNS and self.shape.pruned:
            self.heap.take(("kept", node.name), self.size(node.name) / VALUE / 8)

    def _padded(self, node: Node) -> int:
        """Bytes of the node's input with its padding."""
        channels, *sizes = self.graph.shapes[node.inputs[0]]
        padded = [size + b + e for size, b, e in zip(sizes, *pads(node), strict=True)]
        return channels * math.prod(padded) * self.shape.batch * VALUE

    def _prunes(self, node: Node) -> bool:
        return self.shape.pruned and self.memory[node.name].prunes(norms=self.shape.pruned_norm)

    def _hold(self, node: Node, tensor: str) -> None:
        self.cached.setdefault(node.name, []).append(tensor)
        self.refs[tensor] += 1

    def _release(self, tensor: str) -> None:
        self.refs[tensor] -= 1
        if self.refs[tensor] <= 0:
            self.heap.drop(tensor)

    def backward(self) -> None:
        """From the logits to the input; a gradient is freed when its layer has been passed."""
        graph, heap = self.graph, self.heap
        first: object = ("gradient", graph.output)
        heap.take(first, self.size(graph.output))
        gradients = {graph.output: first}  # node -> its output's gradient
        shared: Counter[object] = Counter({first: 1})  # an addition hands one gradient to both of its sources
        for node in reversed(graph.nodes):
            if node.name not in gradients:
                continue
            key = gradients.pop(node.name)
            weight = self._weight_bytes(node)
            unpacked = self.size(node.inputs[0]) if self._prunes(node) else 0
            if weight:
                heap.touch(unpacked + 2 * weight)
            elif unpacked:
                heap.touch(2 * unpacked)
            for source in node.inputs:
                if source == INPUT:
                    continue
                passes = self.memory[node.name].hands_on  # the same tensor goes on
                own: object = key if passes else ("gradient", node.name, source)
                if not passes:
                    heap.take(own, self.size(source))
                    heap.touch(self.memory[node.name].scratch * self.size(source))
                shared[own] += 1
                if source in gradients:  # two readers: their gradients become one new tensor
                    other = gradients[source]
                    total: object = ("sum of", source, node.name)
                    heap.take(total, self.size(source))
                    for part in (own, other):
                        self._done(part, shared)
                    shared[total] += 1
                    own = total
                gradients[source] = own
            self._done(key, shared)
            heap.drop(("kept", node.name))
            heap.drop(("padded", node.name))
            for tensor in self.cached.pop(node.name, ()):
                self._release(tensor)

    def _done(self, key: object, shared: Counter[object]) -> None:
        shared[key] -= 1
        if shared[key] <= 0:
            self.heap.drop(key)

    def _weight_bytes(self, node: Node) -> int:
        spec = self.graph.params.get(node.weight)
        return spec.size * VALUE if spec is not None and spec.role is Role.WEIGHT else 0


def step_bytes(graph: Graph, shape: StepShape) -> int:
    """Most bytes that one forward and backward pass holds above the loaded model."""
    memory = {node.name: known(kind_of(node).memory, node, "the plan of engine 'torch'") for node in graph.nodes}
    replay = _Replay(graph, shape, memory)
    replay.forward()
    replay.backward()
    return replay.heap.peak


def model_bytes(graph: Graph, *, held: int) -> int:
    """What the loaded model holds in the torch engine, its byte masks not counted: dense arrays.

    ``held``: numbers that the optimiser holds for each trained one.
    """
    arrays = sum(spec.size for spec in graph.params.values())
    return VALUE * (arrays + held * graph.parameter_count())

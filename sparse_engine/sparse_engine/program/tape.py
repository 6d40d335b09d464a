"""What lowering produces: operations in order on buffers that have no place yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sparse_engine import _core
from sparse_engine.layers import Layer
from sparse_engine.program.geometry import conv_shape
from sparse_engine.program.memory import Buffer, Copy, MemoryPlan, plan

DENSE_FROM = 0.7  # density of a layer whose kernels were not timed on this machine


@dataclass(frozen=True, slots=True)
class State:
    """What a model's programs share: the weights and norms of its layers, by name.

    Layers whose density is at least ``dense_from`` use the dense kernels; unnamed ones from ``DENSE_FROM`` on.
    """

    weights: dict[str, _core.Weights]
    norms: dict[str, _core.Norm]
    dense_from: Mapping[str, float] = field(default_factory=dict)

    def dense_at(self, layer: str) -> float:
        """The density from which that layer uses the dense kernels."""
        return self.dense_from.get(layer, DENSE_FROM)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a stored buffer is read: normalised by the norm of that name, then activated, times ``gain``."""

    buffer: Buffer
    norm: str = ""
    act: _core.Act = _core.Act.none
    gain: float = 1.0

    @property
    def plain(self) -> bool:
        return not self.norm and self.act == _core.Act.none and self.gain == 1.0


class Emitter:
    """The program under construction, and the numbers that it knows buffers and norms by."""

    def __init__(self, program: _core.Program, state: State) -> None:
        self.program = program
        self._state = state
        self._convolutions: dict[str, int] = {}
        self._norm_ids: dict[str, int] = {}
        self._tensor_ids: dict[int, int] = {}

    def tensor(self, buffer: Buffer) -> int:
        """The number of a buffer that has its place."""
        if id(buffer) not in self._tensor_ids:
            storage = buffer.storage
            number = self.program.tensor(
                buffer.channels, buffer.height, buffer.width, storage.offset, storage.packed
            )
            self._tensor_ids[id(buffer)] = number
        return self._tensor_ids[id(buffer)]

    def norm(self, name: str) -> int:
        """The number of a norm; -1 for none."""
        if not name:
            return -1
        if name not in self._norm_ids:
            self._norm_ids[name] = self.program.norm(self._state.norms[name])
        return self._norm_ids[name]

    def convolution(self, layer: Layer, source: Buffer, out: Buffer) -> int:
        """The number of a layer's convolution between two buffers."""
        if layer.name not in self._convolutions:
            shape = conv_shape(layer, source, out)
            dense_at = self._state.dense_at(layer.name)
            number = self.program.convolution(shape, self._state.weights[layer.name], dense_at)
            self._convolutions[layer.name] = number
        return self._convolutions[layer.name]

    def cache(self, buffer: Buffer, like: Buffer) -> int:
        """The number of a copy of that tensor."""
        if id(buffer) not in self._tensor_ids:
            half = buffer.copy is not None and buffer.copy.half
            floats = buffer.floats(self.program.samples)
            number = self.program.cache(self.tensor(like), buffer.offset, floats, half)
            self._tensor_ids[id(buffer)] = number
        return self._tensor_ids[id(buffer)]

    def view(self, reading: Reading) -> _core.View:
        return _core.View(self.tensor(reading.buffer), self.norm(reading.norm), reading.act, reading.gain)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One operation: what it touches, and how it is appended to a program."""

    emit: Callable[[Emitter], None]
    touches: tuple[Buffer, ...]
    layer: str = ""  # whose backward convolution it is


@dataclass(slots=True)
class Tape:
    """Instructions in order; every buffer is live from the first that touches it to the last."""

    instructions: list[Instruction] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    inputs: list[Buffer] = field(default_factory=list)  # live from the beginning
    outputs: list[Buffer] = field(default_factory=list)  # live to the end
    _followers: dict[int, list[Instruction]] = field(default_factory=dict)

    def buffer(self, channels: int, height: int, width: int, root: Buffer | None = None) -> Buffer:
        """A new buffer; with ``root`` another shape of that one's memory."""
        if root is not None:
            root.storage.packed = True
        self.buffers.append(Buffer(channels, height, width, root))
        return self.buffers[-1]

    def like(self, other: Buffer, copy: Copy | None = None) -> Buffer:
        """Another buffer of that shape, or with ``copy`` one that holds less of such a tensor."""
        self.buffers.append(Buffer(other.channels, other.height, other.width, copy=copy))
        return self.buffers[-1]

    def add(self, emit: Callable[[Emitter], None], touches: Sequence[Buffer | None], layer: str = "") -> None:
        """Append an instruction. ``touches`` are all buffers that it reads or writes."""
        self.instructions.append(Instruction(emit, tuple(b for b in touches if b is not None), layer))

    def follow(self, index: int, emit: Callable[[Emitter], None], touches: Sequence[Buffer]) -> None:
        """An instruction that comes right after that number ``index`` of those appended."""
        self._followers.setdefault(index, []).append(Instruction(emit, tuple(touches)))

    def ordered(self) -> list[Instruction]:
        """All instructions as they are to run."""
        found: list[Instruction] = []
        for index, instruction in enumerate(self.instructions):
            found += [instruction, *self._followers.get(index, ())]
        return found

    def place(self, samples: int) -> MemoryPlan:
        """Give all buffers their places for so many samples."""
        instructions = self.ordered()
        for buffer in self.inputs:
            buffer.used(0)
        for index, instruction in enumerate(instructions):
            for buffer in instruction.touches:
                buffer.used(index)
        for buffer in self.outputs:
            buffer.used(len(instructions))
        return plan(self.buffers, samples)

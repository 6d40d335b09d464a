"""Where the backward pass has the forward pass's values from: kept, computed again, or pruned copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparse_engine import _core
from sparse_engine.layers import Op
from sparse_engine.program.forward import TOLD_BY_BITS, Lowered, Stored
from sparse_engine.program.memory import Buffer, Copy
from sparse_engine.program.tape import Emitter, Reading

MOST_AGAIN = 2  # convolutions in a row


@dataclass(frozen=True, slots=True)
class Cache:
    """What is kept of a tensor between the passes: the share ``keep`` of its entries, the largest.

    With ``keep`` 1 all that are not zero, which in half precision loses its rounding only. ``Cache()`` is exact.
    """

    keep: float = 1.0
    precision: Literal["fp32", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1 or self.precision not in ("fp32", "fp16"):
            raise ValueError(f"{self}: 0 < keep <= 1, and the precision is fp32 or fp16")

    @property
    def exact(self) -> bool:
        return self.keep >= 1.0 and self.precision == "fp32"


WHOLE = Cache()


@dataclass(frozen=True, slots=True)
class Saving:
    """How memory is saved between the passes.

    ``recompute`` 1: sums are computed again; 2: sums are kept and most convolutions computed again (of a residual
    block all, from its input). Both are exact. ``cache`` is what weight gradients see of their layers' inputs
    (FedMef, section 3.3); with ``norms`` batch norms' caches are like it, their input gradient approximate.
    ``layers`` says otherwise of single layers: of a norm its own cache, of others that of their input.
    """

    recompute: int = 0
    cache: Cache = WHOLE
    norms: bool = False
    layers: tuple[tuple[str, Cache], ...] = ()

    @property
    def exact(self) -> bool:
        return self.cache.exact and all(cache.exact for _, cache in self.layers)

    def of(self, layer: str) -> Cache:
        """Of the input of a layer that has weights."""
        return dict(self.layers).get(layer, self.cache)

    def of_norm(self, norm: str) -> Cache:
        """Of a batch norm's normalised values."""
        return dict(self.layers).get(norm, self.cache if self.norms else WHOLE)


class Values:
    """Of one lowered model. Instructions are added to its tape as values are asked for."""

    def __init__(self, lowered: Lowered, saving: Saving) -> None:
        self._tape = lowered.tape
        self._saving = saving
        self._stored = {stored.out: stored for stored in lowered.stored}
        self._again: dict[Buffer, Buffer] = {}
        self._copies: dict[tuple[Reading, str, Copy], Buffer] = {}
        # After which instruction the forward pass does not read a buffer again.
        self._last_read = {
            buffer.storage: index
            for index, instruction in enumerate(lowered.tape.instructions)
            for buffer in instruction.touches
        }
        self._whole = self._needed_whole(lowered)
        self._chains = self._cheap_chains(lowered) if saving.recompute > 1 else set()

    # -- what the backward pass asks for -------------------------------------------------

    def exact(self, reading: Reading) -> Reading:
        """The reading, its values as they were."""
        return Reading(self._value(reading.buffer), reading.norm, reading.act, reading.gain)

    def activation(self, reading: Reading, layer: str) -> tuple[Reading, float]:
        """(what that layer's weight gradient reads of its input, the share of it that it is to see)."""
        cache = self._saving.of(layer)
        if not self._pruned(reading):
            return self.exact(reading), cache.keep
        copy = self._compressed(reading, cache, standard=False)
        return Reading(self._shaped(self._expanded(copy, reading.buffer.storage), reading.buffer)), 1.0

    def derivative(self, reading: Reading) -> Reading:
        """A reading whose activation's derivative is the same; the norm is left to ``standard``."""
        if not self._pruned(reading):
            return self.exact(reading)
        if reading.act == _core.Act.none:
            return reading
        code = self._encoded(Reading(reading.buffer, reading.norm, reading.act))
        return Reading(self._decoded(code, reading.buffer, reading.act, 1.0), "", reading.act, reading.gain)

    def normalised(self, reading: Reading) -> Buffer | None:
        """The pruned normalised values of a reading; None where ``exact`` has them whole."""
        if not self._pruned(reading):
            return None
        cache = self._saving.of_norm(reading.norm)
        return self._expanded(self._compressed(reading, cache, standard=True), reading.buffer)

    def output(self, stored: Stored) -> Buffer:
        """A buffer that tells the derivative of the activation that a sum was stored after."""
        reading = Reading(stored.out)
        if not self._pruned(reading):
            return self._value(stored.out)
        code = self._encoded(Reading(stored.out, "", stored.act, stored.gain))
        return self._decoded(code, stored.out, stored.act, stored.gain)

    # -- computed again ------------------------------------------------------------------

    def _cheap_chains(self, lowered: Lowered) -> set[Buffer]:
        """Convolutions' outputs that are computed again, from what is kept through at most one other such."""
        depths: dict[Buffer, int] = {}
        for stored in lowered.stored:
            if stored.kind == "conv":
                depth = 1 + depths.get(stored.sources[0].buffer.storage, 0)
                if depth <= MOST_AGAIN:
                    depths[stored.out] = depth
        return set(depths)

    def _value(self, buffer: Buffer) -> Buffer:
        """Where the buffer's values are to be had during the backward pass."""
        if buffer.root is not None:
            return self._shaped(self._value(buffer.storage), buffer)
        stored = self._stored.get(buffer)
        if stored is None or not self._is_computed_again(stored):
            return buffer
        if buffer not in self._again:
            sources = [self.exact(source) for source in stored.sources]
            out = self._tape.like(buffer)

            def emit(e: Emitter) -> None:
                if stored.kind == "conv":
                    number = e.convolution(stored.layer, stored.sources[0].buffer, buffer)
                    e.program.forward(number, e.view(sources[0]), e.tensor(out), -1)
                else:
                    second = e.view(sources[1]) if len(sources) > 1 else _core.View()
                    e.program.combine(e.view(sources[0]), second, e.tensor(out), stored.act, stored.gain)

            self._tape.add(emit, [*(source.buffer for source in sources), out])
            self._again[buffer] = out
        return self._again[buffer]

    def _is_computed_again(self, stored: Stored) -> bool:
        if any(self._pruned(source) for source in stored.sources):
            return False
        return stored.out in self._chains or (stored.kind == "combine" and self._saving.recompute == 1)

    def _shaped(self, storage: Buffer, like: Buffer) -> Buffer:
        """The same memory in another buffer's shape."""
        if storage is like.storage:
            return like
        if like.root is None:
            return storage
        return self._tape.buffer(like.channels, like.height, like.width, root=storage)

    # -- pruned copies -------------------------------------------------------------------

    def _needed_whole(self, lowered: Lowered) -> set[Buffer]:
        """Buffers whose values the backward pass needs as they were, for which a copy would be memory besides."""
        found = set(lowered.tape.inputs)
        for stored in lowered.stored:
            for source in stored.sources:
                read = stored.kind == "conv" and self._saving.of(stored.layer.name).exact
                largest = stored.kind == "pool" and stored.layer.op is Op.MAX_POOL
                normalised = bool(source.norm) and self._saving.of_norm(source.norm).exact
                factor = stored.kind == "mul"
                if read or largest or normalised or factor or source.act not in TOLD_BY_BITS:
                    found.add(source.buffer.storage)
        if self._saving.recompute == 1:
            # What can be computed again from such needs no copy either.
            for stored in lowered.stored:
                if stored.kind == "combine" and all(source.buffer.storage in found for source in stored.sources):
                    found.add(stored.out)
        return found

    def _pruned(self, reading: Reading) -> bool:
        return not self._saving.exact and reading.buffer.storage not in self._whole

    def _copy(self, reading: Reading, kind: str, copy: Copy, standard: bool) -> Buffer:
        """A copy of the reading, taken when the forward pass has done with its buffer."""
        key = (Reading(reading.buffer.storage, reading.norm, reading.act, reading.gain), kind, copy)
        if key not in self._copies:
            source, buffer = key[0], self._tape.like(reading.buffer.storage, copy)

            def emit(e: Emitter) -> None:
                number = e.cache(buffer, source.buffer)
                if copy.codes:
                    e.program.encode(e.view(source), number)
                elif standard:
                    view = _core.View(e.tensor(source.buffer), e.norm(source.norm), standard=True)
                    e.program.compress(view, copy.keep, number)
                else:
                    e.program.compress(e.view(source), copy.keep, number)

            self._tape.follow(self._last_read[source.buffer], emit, [source.buffer, buffer])
            self._copies[key] = buffer
        return self._copies[key]

    def _compressed(self, reading: Reading, cache: Cache, standard: bool) -> Buffer:
        copy = Copy(cache.keep, cache.precision == "fp16")
        return self._copy(reading, "standard" if standard else "activation", copy, standard)

    def _encoded(self, reading: Reading) -> Buffer:
        # Of a normalised reading the bits are of the normalised values; of a sum's output they are its own.
        return self._copy(reading, "code", Copy(codes=2 if reading.act == _core.Act.relu6 else 1), False)

    def _expanded(self, copy: Buffer, like: Buffer) -> Buffer:
        out = self._tape.like(like)
        self._tape.add(lambda e: e.program.expand(e.cache(copy, like), e.tensor(out)), [copy, out])
        return out

    def _decoded(self, code: Buffer, like: Buffer, act: _core.Act, gain: float) -> Buffer:
        out = self._tape.like(like)
        self._tape.add(lambda e: e.program.decode(e.cache(code, like), act, gain, e.tensor(out)), [code, out])
        return out

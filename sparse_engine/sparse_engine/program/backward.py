"""Lowering, backwards: from the loss's gradient to those of all weights.

The gradient of a reading is held apart from the stored tensor's: a convolution takes its output's straight from
the reading's (through batch norm and activation), so that neither is a pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparse_engine import _core
from sparse_engine.layers import Op
from sparse_engine.program.forward import Lowered, Stored
from sparse_engine.program.geometry import corner, pool_shape, taken, tile_shape
from sparse_engine.program.memory import Buffer
from sparse_engine.program.tape import Emitter, Reading
from sparse_engine.program.values import Saving, Values


@dataclass(eq=False, slots=True)
class Writer:
    """A backward convolution; ``reduces``: it sums its input's gradient up for the input's norm as well."""

    reading: Reading
    reduces: bool = False


@dataclass(eq=False, slots=True)
class Gradient:
    """A gradient's buffer. ``owners`` readings have it: with more than one it must not be written.

    ``writer`` is the convolution that wrote to it last, if one did.
    """

    buffer: Buffer
    owners: int = 1
    writer: Writer | None = None


class Backward:
    """Appends the backward pass to a lowered forward pass."""

    def __init__(self, lowered: Lowered, saving: Saving) -> None:
        self._lowered = lowered
        self._tape = lowered.tape
        self._values = Values(lowered, saving)
        self._gradients: dict[Reading, Gradient] = {}
        self._trained = {stored.out for stored in lowered.stored}
        """Buffers on whose values trained weights have an influence: all but the input."""

    def lower(self) -> None:
        logits = self._lowered.output
        gradient = self._tape.like(logits)
        self._tape.add(lambda e: e.program.loss(e.tensor(logits), e.tensor(gradient)), [logits, gradient])
        self._gradients[Reading(logits)] = Gradient(gradient)
        for stored in reversed(self._lowered.stored):
            getattr(self, f"_{stored.kind}")(stored)
        for reading, of_reading in self._take(self._lowered.input):
            self._through(reading, of_reading)  # a norm of the input is trained as well

    # -- gradients of readings -----------------------------------------------------------

    def _root(self, reading: Reading) -> Reading:
        """The reading in the shape that its producer stored (a flattened buffer is another shape of it)."""
        buffer = reading.buffer
        return reading if buffer.root is None else Reading(buffer.storage, reading.norm, reading.act, reading.gain)

    def _wanted(self, reading: Reading) -> bool:
        return bool(reading.norm) or reading.buffer.storage in self._trained

    def _target(self, reading: Reading) -> tuple[Buffer, Buffer | None]:
        """(where to write a contribution to the reading's gradient, what is to be added to it)."""
        key = self._root(reading)
        held = self._gradients.get(key)
        if held is not None and held.owners == 1:
            held.writer = None
            return held.buffer, held.buffer
        fresh = Gradient(self._tape.like(key.buffer))
        self._gradients[key] = fresh
        if held is None:
            return fresh.buffer, None
        held.owners -= 1
        return fresh.buffer, held.buffer

    def _accumulator(self, reading: Reading) -> tuple[Buffer, bool]:
        """(the gradient's buffer, whether it holds a part already), for operations that add in place only."""
        target, added = self._target(reading)
        if added is not None and added is not target:
            self._tape.add(
                lambda e: e.program.combine(_core.View(e.tensor(added)), _core.View(), e.tensor(target)),
                [added, target],
            )
        # A flattened image's gradient is written in the image's own shape: the same memory.
        flat = target if reading.buffer.root is None else self._flat(target, reading.buffer)
        return flat, added is not None

    def _share(self, reading: Reading, gradient: Gradient) -> None:
        """Contribute a whole gradient that others have too."""
        if not self._wanted(reading):
            return
        key = self._root(reading)
        if key not in self._gradients and reading.buffer.root is None:
            gradient.owners += 1
            self._gradients[key] = gradient
            return
        target, add = self._accumulator(reading)
        source = gradient.buffer
        self._tape.add(
            lambda e: e.program.view_gradient(
                e.tensor(source), _core.View(e.tensor(source)), e.tensor(target), add
            ),
            [source, target],
        )

    def _take(self, buffer: Buffer) -> list[tuple[Reading, Gradient]]:
        """All gradients of readings of a stored buffer; they are the caller's now."""
        found = [(reading, gradient) for reading, gradient in self._gradients.items() if reading.buffer is buffer]
        norms = [reading.norm for reading, _ in found]
        for reading, gradient in found:
            del self._gradients[reading]
            if norms.count(reading.norm) > 1:
                # A norm holds one reading's sums at a time: each is reduced where it is used.
                gradient.writer = None
        return found

    def _through(self, reading: Reading, gradient: Gradient) -> tuple[Reading, Gradient]:
        """(how to read the stored tensor, or what stands for it, for its slope; that of which reading).

        A norm's gradients are complete after this.
        """
        norm = reading.norm
        pruned = self._values.normalised(reading) if norm else None
        if pruned is None:
            current = self._values.derivative(reading)
            writer = gradient.writer
            if writer is not None and norm and writer.reading == reading:
                writer.reduces = True
            elif norm:
                buffer = gradient.buffer
                self._tape.add(
                    lambda e: e.program.norm_gradient(e.tensor(buffer), e.view(current)), [buffer, current.buffer]
                )
            return current, gradient
        if reading.act != _core.Act.none:
            slope, gradient = self._values.derivative(reading), self._own(gradient)
            masked = gradient.buffer
            self._tape.add(
                lambda e: e.program.view_gradient(e.tensor(masked), e.view(slope), e.tensor(masked)),
                [masked, slope.buffer],
            )
        source = gradient.buffer
        self._tape.add(
            lambda e: e.program.pruned_norm_gradient(e.tensor(source), e.tensor(pruned), e.norm(norm)),
            [source, pruned],
        )
        return Reading(pruned, norm), gradient

    def _total(self, buffer: Buffer) -> Gradient | None:
        """The gradient of a stored buffer itself."""
        found = self._take(buffer)
        if not found:
            return None
        if len(found) == 1 and found[0][0].plain:
            return found[0][1]
        return self._sum(buffer, found)

    def _sum(self, buffer: Buffer, found: list[tuple[Reading, Gradient]]) -> Gradient:
        total = Gradient(self._tape.like(buffer))
        for index, (reading, gradient) in enumerate(found):
            current, through = self._through(reading, gradient)

            def emit(e: Emitter, r: Reading = current, g: Buffer = through.buffer, add: bool = index > 0) -> None:
                view = _core.View(e.tensor(g)) if r.plain else e.view(r)
                e.program.view_gradient(e.tensor(g), view, e.tensor(total.buffer), add)

            self._tape.add(emit, [through.buffer, None if current.plain else current.buffer, total.buffer])
            through.owners -= 1
        return total

    # -- one stored tensor each ----------------------------------------------------------

    def _conv(self, stored: Stored) -> None:
        found = self._take(stored.out)
        if not found:
            return
        if len(found) == 1:
            output, gradient = self._through(*found[0])
        else:
            gradient = self._sum(stored.out, found)
            output = Reading(gradient.buffer)
        (source,) = stored.sources
        current, keep = self._values.activation(source, stored.layer.name)
        target, added = self._target(source) if self._wanted(source) else (None, None)
        from_buffer = gradient.buffer
        # A flattened input's gradient is written in the input's own shape: the same memory.
        if target is not None and source.buffer.root is not None:
            target = self._flat(target, source.buffer)
            added = None if added is None else self._flat(added, source.buffer)
        writer = Writer(source)
        if target is not None and source.buffer.root is None:
            self._gradients[source].writer = writer

        def emit(e: Emitter) -> None:
            view = e.view(output) if not output.plain else _core.View(e.tensor(from_buffer))
            wants = _core.BackwardWants(
                view,
                e.tensor(from_buffer),
                e.view(current),
                -1 if target is None else e.tensor(target),
                -1 if added is None else e.tensor(added),
                keep=keep,
                norm_gradient=writer.reduces,
            )
            e.program.backward(e.convolution(stored.layer, source.buffer, stored.out), wants)

        self._tape.add(
            emit,
            [None if output.plain else output.buffer, from_buffer, current.buffer, target, added],
            stored.layer.name,
        )
        gradient.owners -= 1

    def _flat(self, buffer: Buffer, shape: Buffer) -> Buffer:
        return self._tape.buffer(shape.channels, shape.height, shape.width, root=buffer)

    def _combine(self, stored: Stored) -> None:
        gradient = self._total(stored.out)
        if gradient is None:
            return
        if stored.act != _core.Act.none:
            gradient = self._own(gradient)
            value, buffer = self._values.output(stored), gradient.buffer
            self._tape.add(
                lambda e: e.program.slope_by_output(e.tensor(buffer), e.tensor(value), stored.act, stored.gain),
                [buffer, value],
            )
        gradient.writer = None
        for source in stored.sources:
            self._share(source, gradient)
        gradient.owners -= 1

    def _own(self, gradient: Gradient) -> Gradient:
        """The gradient, or a copy where others have it too."""
        if gradient.owners == 1:
            return gradient
        gradient.owners -= 1
        source, copy = gradient.buffer, self._tape.like(gradient.buffer)
        self._tape.add(
            lambda e: e.program.combine(_core.View(e.tensor(source)), _core.View(), e.tensor(copy)), [source, copy]
        )
        return Gradient(copy)

    def _pool(self, stored: Stored) -> None:
        gradient = self._total(stored.out)
        (source,) = stored.sources
        if gradient is None or not self._wanted(source):
            return
        largest = stored.layer.op is Op.MAX_POOL
        current = self._values.exact(source) if largest else source
        target, add = self._accumulator(source)
        buffer, shape = gradient.buffer, pool_shape(stored.layer, source.buffer)
        # The mean's gradient reads no value of its input: it may be gone.
        touched = [buffer, target, current.buffer] if largest else [buffer, target]
        self._tape.add(
            lambda e: e.program.pool_gradient(
                e.tensor(buffer), e.view(current), e.tensor(target), shape, largest, add
            ),
            touched,
        )
        gradient.owners -= 1

    def _mul(self, stored: Stored) -> None:
        gradient = self._total(stored.out)
        if gradient is None:
            return
        for source, other in zip(stored.sources, reversed(stored.sources), strict=True):
            if not self._wanted(source):
                continue
            current = self._values.exact(other)
            target, add = self._accumulator(source)

            def emit(e: Emitter, r: Reading = current, target: Buffer = target, add: bool = add) -> None:
                e.program.multiply_gradient(e.tensor(gradient.buffer), e.view(r), e.tensor(target), add)

            self._tape.add(emit, [gradient.buffer, current.buffer, target])
        gradient.owners -= 1

    def _channels(self, stored: Stored) -> None:
        gradient = self._total(stored.out)
        (source,) = stored.sources
        if gradient is None or not self._wanted(source):
            return
        target, add = self._accumulator(source)
        buffer, channels = gradient.buffer, taken(stored.layer, source.buffer.channels)
        self._tape.add(
            lambda e: e.program.take_gradient(e.tensor(buffer), e.tensor(target), channels, add), [buffer, target]
        )
        gradient.owners -= 1

    def _crop(self, stored: Stored) -> None:
        gradient = self._total(stored.out)
        (source,) = stored.sources
        if gradient is None or not self._wanted(source):
            return
        target, add = self._accumulator(source)
        buffer, (top, left) = gradient.buffer, corner(stored.layer)
        self._tape.add(
            lambda e: e.program.crop_gradient(e.tensor(buffer), e.tensor(target), top, left, add), [buffer, target]
        )
        gradient.owners -= 1

    def _upsample(self, stored: Stored) -> None:
        gradient = self._total(stored.out)
        (source,) = stored.sources
        if gradient is None or not self._wanted(source):
            return
        means, buffer, shape = self._tape.like(source.buffer), gradient.buffer, tile_shape(stored.layer)
        self._tape.add(
            lambda e: e.program.pool(_core.View(e.tensor(buffer)), e.tensor(means), shape, False), [buffer, means]
        )
        gradient.owners -= 1
        self._share(source, Gradient(means, owners=0))

    def _concat(self, stored: Stored) -> None:
        gradient = self._total(stored.out)
        if gradient is None:
            return
        first = 0
        for source in stored.sources:
            if self._wanted(source):
                target, add = self._accumulator(source)

                def emit(e: Emitter, first: int = first, target: Buffer = target, add: bool = add) -> None:
                    e.program.concatenate_gradient(e.tensor(gradient.buffer), first, e.tensor(target), add)

                self._tape.add(emit, [gradient.buffer, target])
            first += source.buffer.channels
        gradient.owners -= 1

    def _dropout(self, stored: Stored) -> None:
        gradient = self._total(stored.out)
        if gradient is None:
            return
        gradient = self._own(gradient)
        buffer, layer = gradient.buffer, stored.layer
        stream = stored.stream
        self._tape.add(lambda e: e.program.dropout(e.tensor(buffer), layer.rate, stream), [buffer])
        self._share(stored.sources[0], gradient)
        gradient.owners -= 1

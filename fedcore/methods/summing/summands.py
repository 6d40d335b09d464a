"""A fold's sums, laid out as the one vector of integers that every device contributes to them.

A device's terms are those that the plain fold would add for it, integer by integer; so the sum over the devices is
the plain one, bit for bit, whichever way it was added up.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray, IntArray
from tinyfleet.fedcore.errors import AggregationError, ResultError
from tinyfleet.fedcore.methods.parts.fixed_point import LARGE, FixedPointSum, Summed
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.secure_sum.errors import OutOfReach
from tinyfleet.fedcore.secure_sum.ring import Layout, Segment

SAMPLES, COARSE = "samples", "/coarse"  # names of segments beside the summands' own
WIDE_BITS = 64
FP16_FRACTION_BITS = 24  # every fp16 number is a multiple of 2^-24


class Summand(NamedTuple):
    """One array of a fold's sums, at the positions where it may differ from zero."""

    name: str
    size: int
    bits: int  # of the fraction, in fixed point
    reach: float = LARGE  # a power of two above all |values|; where one is beyond it, the ring has to be wide
    shift: int = 0  # its integers are multiples of 2^shift
    support: IntArray | None = None  # flat positions; None: all


class SumStage(Protocol):
    """The sums of one task: what devices add to them, and how a fold takes them up."""

    @property
    def summands(self) -> tuple[Summand, ...]: ...

    def values(self, result: Payload) -> Mapping[str, FloatArray]:
        """By summand, flat: what the coordinator would have decoded. Raises ``ResultError``, ``CodecError``."""

    def fill(self, fold: Any, sums: Mapping[str, Summed], weight: int, devices: int) -> None:
        """Make an empty fold one of that many devices."""


def layout_of(stage: SumStage, samples: int, wide: Collection[str] = ()) -> Layout:
    """The ring of a step whose devices have at most so many samples together.

    It holds each summand up to its reach, and those whose names are in ``wide`` as far as the plain sums do.
    """
    segments = []
    for one in stage.summands:
        if one.name in wide:
            segments += [Segment(one.name, one.size, WIDE_BITS), Segment(one.name + COARSE, one.size, WIDE_BITS)]
        else:
            bits = int(math.log2(one.reach)) + one.bits - one.shift + samples.bit_length() + 1
            segments.append(Segment(one.name, one.size, min(bits, WIDE_BITS), one.shift))
    return Layout((*segments, Segment(SAMPLES, 1, samples.bit_length() + 1)))


def terms_of(
    stage: SumStage, result: Payload, weight: int, samples: int, wide: Collection[str] = ()
) -> dict[str, IntArray]:
    """One device's integers by segment. ``samples`` are those of all devices together, at most.

    Raises ``ResultError`` for a result that does not fit, ``AggregationError`` where the sum could not hold as many
    samples of its kind, ``OutOfReach`` with the summands that have to be wide and are not.
    """
    if not 1 <= weight <= samples:
        raise ResultError(f"samples is {weight}, not in 1..{samples}, which all devices of the step have")
    values = stage.values(result)
    terms: dict[str, IntArray] = {SAMPLES: np.array([weight], np.int64)}
    beyond: dict[str, float] = {}
    for one in stage.summands:
        own = values[one.name]
        if own.shape != (one.size,):
            raise ResultError(f"{one.name} has {own.size} values; the task's has {one.size}")
        peak = float(np.max(np.abs(own), initial=0.0))
        if one.name not in wide and not peak < one.reach:
            beyond[one.name] = peak
            continue
        term = FixedPointSum((one.size,), one.bits).scaled(one.name, own, weight)
        if not max(term.fine_bound, term.coarse_bound) * (samples / weight) < 2.0**62:
            raise AggregationError(
                f"{one.name}: |value| {peak:g} overflows the sum over {samples} samples; the device has diverged: "
                "lower the learning rate"
            )
        terms[one.name] = term.fine
        if one.name in wide:
            terms[one.name + COARSE] = np.zeros(one.size, np.int64) if term.coarse is None else term.coarse
    if beyond:
        told = ", ".join(f"{name} (|value| {peak:g})" for name, peak in beyond.items())
        raise OutOfReach(f"beyond the reach of its sum: {told}", tuple(beyond))
    return terms


def fill(stage: SumStage, fold: Any, sums: Mapping[str, IntArray], devices: int) -> None:
    """Make an empty fold one of ``devices`` devices, of their sums by segment.

    Raises ``ResultError`` where the samples are no number that so many devices can have.
    """
    weight = int(sums[SAMPLES][0])
    if weight < devices:
        raise ResultError(f"{devices} devices have {weight} samples: a device has sent what is no term of its own")
    found = {}
    for one in stage.summands:
        coarse = sums.get(one.name + COARSE)
        if coarse is not None and not coarse.any():
            coarse = None
        found[one.name] = Summed(sums[one.name], coarse, one.support)
    stage.fill(fold, found, weight, devices)

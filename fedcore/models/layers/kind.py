"""What there is to know of a kind of layers, said once for all who count, plan, compact or check.

A fact that is left out is not known: whoever needs it refuses the layer by name. Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from tinyfleet.fedcore.arrays import Params
from tinyfleet.fedcore.models.node import Node
from tinyfleet.fedcore.models.params import ParamSpec

Shape = tuple[int, ...]
"""Of an activation without the batch: (C, H, W), (C, L) or (C,)."""
Numbers = NDArray[np.float64]
Places = Sequence[tuple[int, int]]
"""For every output channel, from which input and which channel of it."""

EVERY_RANK = frozenset({1, 2, 3})
VECTOR, IMAGES = frozenset({1}), frozenset({2, 3})


class Reads(StrEnum):
    """What the backward pass reads of the forward one."""

    NOTHING = "nothing"
    INPUT = "input"  # the values of its input
    INPUTS = "inputs"  # those of each of its inputs
    OUTPUT = "output"  # those of its output
    SIGNS = "signs"  # one bit a value of its output; the values themselves, where a reader holds them anyway


class Pruned(StrEnum):
    """When an input that is held keeps its largest values alone."""

    NEVER = "never"
    WITH_WEIGHTS = "with weights"  # wherever caches are pruned
    WITH_NORMS = "with norms"  # where those of norms are, too


@dataclass(frozen=True, slots=True)
class Memory:
    """What training holds for a layer, and whose memory its tensors are."""

    reads: Reads
    pruned: Pruned = Pruned.NEVER
    indices: bool = False  # where in the input each value of the output stands is held as well
    view: bool = False  # the output is the input's own memory in another shape
    in_place: bool = False  # the output may take the place of the input, where that is ``overwritable``
    overwritable: bool = False  # an activation may take the place of the output: no backward pass reads it
    hands_on: bool = False  # the gradient of the output is that of each input
    scratch: float = 0.0  # what either pass takes for a moment, in sizes of the output

    def prunes(self, *, norms: bool) -> bool:
        """Whether the input is held pruned where caches are, those of norms too or not."""
        return self.pruned is Pruned.WITH_WEIGHTS or (norms and self.pruned is Pruned.WITH_NORMS)


class Flow(StrEnum):
    """Which input channels an output channel depends on."""

    MIXED = "mixed"  # all, as far as there are weights
    OWN = "own"  # the one of the same number, in every input
    FLAT = "flat"  # likewise; the output is a vector in which a channel has several places, side by side
    MOVED = "moved"  # one of an input's, unchanged; ``places`` says which
    WHOLE = "whole"  # not told channel by channel: every channel before and behind the layer stays


def _no_ties(node: Node, count: int) -> Sequence[Sequence[int]]:
    return ()


@dataclass(frozen=True, slots=True)
class Channels:
    """What compaction may take for granted.

    ``constant``: from each input's channels, a number where the channel is that number everywhere and NaN where
    it is not, to the output's, gain apart. None where weights decide, or nothing is known: NaN.
    """

    flow: Callable[[Node], Flow]
    constant: Callable[[Sequence[Numbers]], Numbers] | None = None
    places: Callable[[Node, Sequence[int]], Places] | None = None  # of ``MOVED``, by how many channels come in
    # Of so many output channels those that go together or not at all.
    ties: Callable[[Node, int], Sequence[Sequence[int]]] = _no_ties
    shrunk: Callable[[Node, Sequence[NDArray[np.bool_]]], Node] | None = None  # with these channels left of inputs


class Scaling(StrEnum):
    """What a positive factor on the inputs does."""

    ABSORBED = "absorbed"  # weights that are divided by it give the same output
    PASSES = "passes"  # the output has the same factor, where all inputs have one
    FIXED = "fixed"  # neither: the inputs must come as they are


class Linearised(StrEnum):
    """What becomes of a layer in SynFlow's network, in which no input and no weight is negative."""

    KEPT = "kept"  # it is homogeneous there
    DROPPED = "dropped"  # an activation that is the identity there, or a norm


@dataclass(frozen=True, slots=True)
class Affine:
    """y = (x - centre) factor + shift, a number a channel."""

    centre: Numbers
    factor: Numbers
    shift: Numbers


def _none(node: Node) -> Mapping[str, ParamSpec]:
    return {}


def _fits(node: Node, sources: Sequence[Shape]) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class LayerKind:
    """One kind. Shapes are without the batch; ``sources`` are those of a layer's inputs."""

    name: str
    shape: Callable[[Node, Sequence[Shape]], Shape]  # asked only where ``fault`` found nothing
    inputs: int | None = 1  # None: one or more
    ranks: frozenset[int] = EVERY_RANK  # of the inputs: (C,), (C, L), (C, H, W)
    attributes: frozenset[str] = frozenset()  # of ``Node``, which may be other than their defaults
    fault: Callable[[Node, Sequence[Shape]], str] = _fits  # what is wrong with attributes or inputs; "" if nothing
    params: Callable[[Node], Mapping[str, ParamSpec]] = _none  # its arrays in order, by the name behind the dot
    # How many multiply-adds of a sample a weight takes part in, given shapes of input and output; 2 FLOPs each.
    uses: Callable[[Node, Shape, Shape], int] | None = None
    memory: Memory | None = None
    channels: Channels | None = None
    scaling: Scaling | None = None
    affine: Callable[[Node, Params], Affine] | None = None  # of a layer that is no more than that when it infers
    vanishes: bool = False  # a layer that infers is its input, and no more
    linearised: Linearised | None = None
    selects: bool | None = None  # no value that is put out is beyond those that came in: int8 shares its numbers
    never_negative: bool = False


def same_shape(node: Node, sources: Sequence[Shape]) -> Shape:
    """The shape of the first input."""
    return sources[0]


def own(node: Node) -> Flow:
    """Channel by channel."""
    return Flow.OWN


def first(sources: Sequence[Numbers]) -> Numbers:
    """Constants stay what they are."""
    return sources[0]

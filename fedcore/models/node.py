"""One layer of a graph, without its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tinyfleet.fedcore.models.weight_norm import WeightNorm

INPUT = "input"


class Op(StrEnum):
    """The kinds that come with tinyfleet: each is a file of facts in ``layers``, found by this name."""

    CONV = "conv"
    LINEAR = "linear"
    BATCH_NORM = "batch_norm"
    RELU = "relu"
    RELU6 = "relu6"
    LEAKY_RELU = "leaky_relu"
    HARD_SWISH = "hard_swish"
    HARD_SIGMOID = "hard_sigmoid"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    SOFTMAX = "softmax"
    ADD = "add"
    MUL = "mul"
    CONCAT = "concat"
    SLICE = "slice"
    SHUFFLE = "shuffle"
    CROP = "crop"
    UPSAMPLE = "upsample"
    MAX_POOL = "max_pool"
    AVG_POOL = "avg_pool"
    GLOBAL_AVG_POOL = "global_avg_pool"
    FLATTEN = "flatten"
    DROPOUT = "dropout"


@dataclass(frozen=True, slots=True)
class Node:
    """One layer. ``inputs`` name earlier nodes, or ``"input"`` for the model's input.

    ``op`` is the name of its kind, which says which of the other attributes it may have.
    ``gain`` multiplies a ReLU's output (variance preservation); of a convolution with normalised weights it
    is the value at which its filters' learnt gains start. ``padding`` has a number for each dimension, or first all
    those before the image and then all those behind it; ``dilation`` likewise a number each, or none for 1.
    ``rate`` is the share of values that dropout leaves out.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    in_channels: int = 0
    out_channels: int = 0
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = False
    weight_norm: WeightNorm = WeightNorm.NONE
    gain: float = 1.0
    dilation: tuple[int, ...] = ()
    start: int = 0
    rate: float = 0.0

    @property
    def weight(self) -> str:
        """Name of the weight tensor, of kinds that have one."""
        return f"{self.name}.weight"

    @property
    def filter_gain(self) -> str:
        """Name of the learnt gain of every filter (normalised convolutions)."""
        return f"{self.name}.gain"

"""What a step's memory and time are taken to be linear in."""

from __future__ import annotations

from typing import NamedTuple


class Features(NamedTuple):
    """Of one optimiser step."""

    model: float  # bytes of the loaded model
    replayed: float  # bytes of the step's tensors at their peak
    layer: float  # bytes of the largest layer's weights: libraries reorder them
    passes: float  # forward and backward passes of a step
    gflop: float  # training arithmetic of a step: dense, or of active weights, as the engine computes
    values: float  # million activations that norms and activations read
    pruned: float  # million of them that are selected and put back
    weights: float  # million weights, once a pass: gradients and updates
    normalised: float  # million of them that NSConv normalises

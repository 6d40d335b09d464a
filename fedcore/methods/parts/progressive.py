"""Progressive pruning (FedTiny, section 3.3): grow where the gradient is large, prune where weights are small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray, Mask, Params
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.payload import SparseVector
from tinyfleet.fedcore.sparsity.channels import channel_factors
from tinyfleet.fedcore.sparsity.mask import active_counts, adjust_layer, largest
from tinyfleet.fedcore.sparsity.schedule import cosine_count

Granularity = Literal["layer", "block", "entire"]
Order = Literal["backward", "forward"]


def groups(graph: Graph, granularity: Granularity, order: Order) -> list[list[str]]:
    """Weight names adjusted together: one layer, one block, or all; output to input where ``backward``."""
    blocks = [[f"{layer}.weight" for layer in block] for block in graph.blocks]
    if granularity == "entire":
        return [[name for block in blocks for name in block]]
    if granularity == "layer":
        blocks = [[name] for block in blocks for name in block]
    return blocks if order == "backward" else blocks[::-1]


def adjustment_counts(mask: Mask, names: list[str], round_index: int, stop: int, scale: float) -> dict[str, int]:
    """q_l of every layer of the group: how many are grown AND pruned. Never more than can be grown."""
    active = active_counts({name: mask[name] for name in names})
    counts = {name: cosine_count(round_index, stop, active[name], scale) for name in names}
    return {name: min(count, mask[name].size - active[name]) for name, count in counts.items()}


def check_gradients(gradients: Mapping[str, SparseVector], counts: Mapping[str, int], mask: Mask) -> None:
    """Raise ``ResultError`` unless there are at most q_l gradients a layer, all of pruned weights."""
    if not gradients.keys() <= counts.keys():
        odd = sorted(gradients.keys() - counts.keys())
        raise ResultError(f"gradients of layers that were not asked for: {', '.join(odd[:3])}")
    for name, (positions, values) in gradients.items():
        inactive = ~mask[name].reshape(-1)
        if len(positions) > counts[name] or len(values) != len(positions):
            raise ResultError(f"{name}: {len(positions)} gradients, at most {counts[name]} were asked for")
        rising = len(positions) < 2 or bool((np.diff(positions) > 0).all())
        inside = not len(positions) or (positions[0] >= 0 and positions[-1] < len(inactive))
        if not rising or not inside or not inactive[positions].all():
            raise ResultError(f"{name}: gradient positions must rise and name pruned weights of the layer")


def adjust(
    params: Params,
    mask: Mask,
    gradients: Mapping[str, FloatArray],
    counts: Mapping[str, int],
    channel_exponent: float = 0.0,
) -> tuple[Params, Mask]:
    """Grow the q_l pruned positions with the largest |aggregated gradient| at value 0, prune the q_l smallest
    |w| among those active before (step 4). Active counts are unchanged.

    With ``channel_exponent`` both scores are weighed with the strength of the weight's channels.
    """
    params, mask = dict(params), dict(mask)
    for name, count in counts.items():
        if not count:
            continue
        inactive = np.flatnonzero(~mask[name].reshape(-1))
        slopes, magnitudes = gradients[name], params[name]
        if channel_exponent:
            factors = channel_factors(params[name], channel_exponent)
            slopes, magnitudes = slopes * factors, magnitudes * factors
        grown = largest(slopes.reshape(-1)[inactive], inactive, count)
        mask[name], pruned = adjust_layer(mask[name], magnitudes, grown)
        weights = params[name].copy()
        weights.reshape(-1)[pruned] = 0.0
        weights.reshape(-1)[grown] = 0.0
        params[name] = weights
    return params, mask

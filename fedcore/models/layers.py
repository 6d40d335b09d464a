"""Formulas of the normalised sparse convolution (NSConv) and its activation, for whoever computes without torch."""

from __future__ import annotations

import numpy as np

from fedcore.arrays import BoolArray, FloatArray, Params
from fedcore.models.graph import BN_EPSILON, Graph, Op, WeightNorm

VP_RELU_GAIN = 1.71396
"""Gain that gives max(0, x) of a standard normal x unit variance, as published
(NFNets; exactly sqrt(2 / (1 - 1 / pi)) = 1.71286)."""

NORM_FLOOR = 1e-4
"""Least N var of a filter, so that a filter of equal weights is not blown up (FedMef, section 3.3)."""


def normalized_weight(
    weight: FloatArray, gain: FloatArray, active: BoolArray | None, norm: WeightNorm
) -> FloatArray:
    """W^_ij = m_ij g_i (W_ij - mean_i) / sqrt(max(N_i var_i, 1e-4)) (FedMef, section 3.3), in float64 inside.

    ``weight`` is (out, ...), ``gain`` (out,), ``active`` its mask or None where it is dense. Mean, variance
    and N are those of a filter's active entries or, with ``WeightNorm.ALL``, of all its entries.
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    mask = np.ones(rows.shape, np.bool_) if active is None else active.reshape(rows.shape)
    rows = np.where(mask, rows, 0.0)
    counted = np.ones(rows.shape, np.bool_) if norm is WeightNorm.ALL else mask
    count = np.maximum(counted.sum(axis=1, keepdims=True), 1)
    centred = np.where(counted, rows - rows.sum(axis=1, keepdims=True) / count, 0.0)
    energy = np.maximum(np.square(centred).sum(axis=1, keepdims=True), NORM_FLOOR)
    result: FloatArray = np.where(mask, gain[:, None] * centred / np.sqrt(energy), 0.0).astype(np.float32)
    return result.reshape(weight.shape)


def folded_scales(graph: Graph, params: Params) -> dict[str, FloatArray]:
    """Sigma / gamma of every filter behind which a batch norm stands, by weight name, (out,) each.

    A batch norm folds into its convolution as W gamma / sigma: dL/dW times this is the gradient of the folded
    weight, which is what the network computes with. Behind an empty filter sigma is next to nothing, and
    dL/dW alone is thousands of times larger than it means. |gamma| counts for 0.1 at least.
    """
    weights = {node.name: node.weight for node in graph.nodes if node.op in (Op.CONV, Op.LINEAR)}
    scales = {}
    for node in graph.nodes:
        if node.op is Op.BATCH_NORM and node.inputs[0] in weights:
            sigma = np.sqrt(params[f"{node.name}.running_var"].astype(np.float64) + BN_EPSILON)
            gamma = np.maximum(np.abs(params[node.weight].astype(np.float64)), 0.1)
            scales[weights[node.inputs[0]]] = (sigma / gamma).astype(np.float32)
    return scales

"""Formulas of the normalised sparse convolution (NSConv) and its activation, for whoever computes without torch."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from tinyfleet.fedcore.arrays import BoolArray, FloatArray


class WeightNorm(StrEnum):
    """How a convolution normalises its own weights before use: NSConv (FedMef, section 3.3)."""

    NONE = ""
    ACTIVE = "active"  # mean and variance of a filter's active entries
    ALL = "all"  # of all its entries, masked ones as the zeros they are


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

"""Channel-aware scores: growth and pruning that empty whole channels, so that a compacted model is faster.

Unstructured masks at density 0.01 leave every channel a weight or two, and inference as dense as before.
Weighing |w| and |g| with the strength of the weight's filter and input channel lets the strong ones win.
"""

from __future__ import annotations

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray

FLOOR = 1e-3  # of the strongest channel: an empty one can still be grown into


def channel_factors(weights: FloatArray, exponent: float) -> FloatArray:
    """Factor of every weight (same shape): (|filter| |input channel|)^exponent, each norm over its strongest.

    ``weights`` is (out, in, ...), masked entries zero. Exponent 0 gives ones: plain magnitudes.
    """
    squares = np.square(weights.reshape(*weights.shape[:2], -1)).sum(axis=2, dtype=np.float64)
    filters, inputs = np.sqrt(squares.sum(axis=1)), np.sqrt(squares.sum(axis=0))
    product = np.outer(_relative(filters), _relative(inputs)) ** exponent
    factors: FloatArray = np.broadcast_to(
        product.reshape(*weights.shape[:2], *[1] * (weights.ndim - 2)), weights.shape
    ).astype(np.float32)
    return factors


def _relative(
    norms: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    strongest = norms.max(initial=0.0)
    return np.maximum(norms / strongest, FLOOR) if strongest else np.ones_like(norms)

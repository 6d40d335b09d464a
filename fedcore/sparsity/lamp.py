"""LAMP (Lee et al., ICLR 2021, arXiv 2010.07611): one ranking of all weights, no layer densities to choose."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinyfleet.fedcore.arrays import BoolArray, FloatArray, Mask, Params
from tinyfleet.fedcore.sparsity.global_mask import global_mask


def lamp_scores(weights: FloatArray, active: BoolArray | None = None) -> FloatArray:
    """w^2 over the sum of the squares of the layer's weights that are no smaller (equation 4).

    A layer's largest weight scores 1, so that no layer is ever emptied. Masked weights score 0.
    """
    squares = np.square(weights.reshape(-1).astype(np.float64))
    if active is not None:
        squares[~active.reshape(-1)] = 0.0
    order = np.argsort(-squares, kind="stable")
    running = np.cumsum(squares[order])
    scores = np.zeros(len(squares))
    scores[order] = np.divide(squares[order], running, out=np.zeros_like(running), where=running > 0)
    return scores.astype(np.float32).reshape(weights.shape)


def lamp_mask(weights: Mapping[str, FloatArray], density: float, within: Mask | None = None) -> Mask:
    """The floor(d sum n_l) best LAMP scores of all layers; with ``within`` only of its active weights."""
    scores: Params = {name: lamp_scores(w, within[name] if within else None) for name, w in weights.items()}
    return global_mask(scores, density, within)

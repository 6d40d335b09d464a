"""Gradual pruning at the coordinator (Zhu and Gupta 2017, arXiv 1710.01878): a sparse start, trained, not cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray, Mask, Params
from tinyfleet.fedcore.datasets.dataset import Dataset, Normalization, batch_count, batches
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.method import Problem
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.models.weight_norm import normalized_weight
from tinyfleet.fedcore.sparsity.channels import channel_factors
from tinyfleet.fedcore.training.engine import Engine, StepSettings

CUTS = 30  # times the mask shrinks
CUT_SHARE = 0.6  # of the steps, in which it shrinks; in the rest the final mask trains on

Ranking = Callable[[dict[str, FloatArray], float, Mask], Mask]
"""(effective weights, density, mask so far) -> the next mask within it."""


def density_at(progress: float, density: float) -> float:
    """Cubic schedule: 1 at ``progress`` 0, ``density`` from ``CUT_SHARE`` on (equation 1)."""
    left = max(0.0, 1.0 - progress / CUT_SHARE)
    return density + (1.0 - density) * left**3


def effective_weights(graph: Graph, params: Params, mask: Mask) -> dict[str, FloatArray]:
    """What a mask really multiplies: the weights, or of a normalised convolution its normalised weights."""
    nodes = {node.weight: node for node in graph.nodes}
    found = {}
    for name in graph.maskable:
        node, weight = nodes[name], params[name]
        if node.weight_norm:
            weight = normalized_weight(weight, params[node.filter_gain], mask.get(name), node.weight_norm)
        found[name] = weight
    return found


def prune_gradually(
    engine: Engine,
    public: Dataset,
    problem: Problem,
    normalization: Normalization,
    params: Params,
    density: float,
    epochs: int,
    ranking: Ranking,
    channel_exponent: float = 0.0,
) -> tuple[Params, Mask]:
    """Train ``params`` for ``epochs`` on public data while the mask shrinks to ``density``.

    With ``channel_exponent`` the ranking weighs weights with the strength of their channels. The learning rate
    falls linearly from that of pre-training to zero. Raises ``ResultError`` where the loss is no longer finite.
    """
    training, graph = problem.training, problem.graph
    rng = np.random.default_rng([problem.seed, 5])
    steps = max(CUTS, epochs * batch_count(len(public), training.batch))
    mask: Mask = {name: np.ones(graph.params[name].shape, np.bool_) for name in graph.maskable}
    engine.load(graph, params, mask)
    step = cut = 0
    while step < steps:
        for x, y in batches(public, training.batch, normalization, rng):
            due = min(CUTS, int(CUTS * (step + 1) / (CUT_SHARE * steps)))
            if due > cut:
                cut = due
                params = engine.params()
                share = density_at(CUT_SHARE * cut / CUTS, density)
                scores = effective_weights(graph, params, mask)
                if channel_exponent:
                    scores = {name: w * channel_factors(w, channel_exponent) for name, w in scores.items()}
                mask = ranking(scores, share, mask)
                engine.load(graph, params, mask)
            rate = training.pretrain_learning_rate * max(1e-3, 1.0 - step / steps)
            loss = engine.train_step(x, y, StepSettings(rate, training.momentum, training.weight_decay))
            if not np.isfinite(loss):
                raise ResultError(
                    f"gradual pruning diverged at rate {rate:g}; lower training.pretrain_learning_rate"
                )
            step += 1
            if step == steps:
                break
    return engine.params(), mask

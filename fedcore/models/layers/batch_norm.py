"""Batch norm: statistics of the batch in training; running ones in use, where they merge with another layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tinyfleet.fedcore.arrays import Params
from tinyfleet.fedcore.models.layers.kind import (
    Affine,
    Channels,
    LayerKind,
    Linearised,
    Memory,
    Pruned,
    Reads,
    Scaling,
    Shape,
    own,
    same_shape,
)
from tinyfleet.fedcore.models.node import Node, Op
from tinyfleet.fedcore.models.params import ParamSpec, Role

EPSILON = 1e-5


def _fault(node: Node, sources: Sequence[Shape]) -> str:
    return "" if sources[0][0] == node.out_channels else f"it has {node.out_channels} channels"


def _params(node: Node) -> Mapping[str, ParamSpec]:
    shape = (node.out_channels,)
    return {
        "weight": ParamSpec(shape, Role.NORM_SCALE, start=1.0),
        "bias": ParamSpec(shape, Role.NORM_SHIFT),
        "running_mean": ParamSpec(shape, Role.RUNNING_MEAN),
        "running_var": ParamSpec(shape, Role.RUNNING_VAR, start=1.0),
    }


def _affine(node: Node, params: Params) -> Affine:
    scale, shift, mean, var = (params[f"{node.name}.{what}"].astype(np.float64) for what in _params(node))
    return Affine(mean, scale / np.sqrt(var + EPSILON), shift)


KIND = LayerKind(
    Op.BATCH_NORM,
    same_shape,
    attributes=frozenset({"in_channels", "out_channels"}),
    fault=_fault,
    params=_params,
    memory=Memory(Reads.INPUT, Pruned.WITH_NORMS, overwritable=True),
    channels=Channels(own),
    scaling=Scaling.FIXED,
    affine=_affine,
    linearised=Linearised.DROPPED,
    selects=False,
)

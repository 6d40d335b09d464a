"""Server optimisers: the mean update of a round is a gradient (Reddi et al., ICLR 2021, arXiv 2003.00295)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray, Params
from tinyfleet.fedcore.models.graph import STATISTICS, Graph
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import ServerSettings

SERVER = "server optimiser"
"""Its state in a run's state (``Payload.raw``), which no task has."""

_MOMENT, _SECOND = "moment/", "second/"


def carried(payload: Payload) -> dict[str, bytes]:
    """The optimiser's state in a run's state; empty where there is none."""
    return {SERVER: payload.raw[SERVER]} if SERVER in payload.raw else {}


def optimised(settings: ServerSettings, graph: Graph, before: Payload, after: Payload) -> Payload:
    """``after``, the state that a step leaves, with the update since ``before`` as the optimiser would take it.

    Only where a training round has ended. Moments follow the mask: they go with a weight that is pruned, and begin
    anew with one that grows. Batch norm's statistics stay the devices' mean.
    """
    if settings.optimiser == "none":
        return after
    if after.meta["round"] == before.meta["round"]:
        after.raw = after.raw | carried(before)
        return after
    held = codec.decode(before.raw[SERVER]).params if SERVER in before.raw else {}
    kept = Payload()
    params = dict(after.params)
    for name, spec in graph.params.items():
        if spec.role in STATISTICS:
            continue
        update = after.params[name] - before.params[name]
        moment = held.get(_MOMENT + name, np.zeros_like(update))
        if settings.optimiser == "fedavgm":
            moment = np.float32(settings.momentum) * moment + update
            step = moment
        else:
            share = np.float32(1.0 - settings.momentum)
            moment = np.float32(settings.momentum) * moment + share * update
            second = _second(settings, name, held, before, update)
            kept.params[_SECOND + name] = second
            step = moment / (np.sqrt(second) + np.float32(settings.adaptivity))
        kept.params[_MOMENT + name] = moment
        moved = before.params[name] + np.float32(settings.rate) * step
        if name in after.mask:
            active = after.mask[name]
            moved[~active] = 0.0
            for kind in (_MOMENT, _SECOND):
                if kind + name in kept.params:
                    kept.params[kind + name][~active] = 0.0
                    kept.mask[kind + name] = active
        params[name] = moved
    after.params = params
    after.raw = after.raw | {SERVER: codec.encode(kept, precision="fp32")}
    return after


def _second(settings: ServerSettings, name: str, held: Params, before: Payload, update: FloatArray) -> FloatArray:
    """v_t; it begins at tau^2, for a weight that has just grown too."""
    start = np.full_like(update, settings.adaptivity**2)
    second = held.get(_SECOND + name, start)
    if name in before.mask:
        second = np.where(before.mask[name], second, start)
    return _SECOND_MOMENTS[settings.optimiser](second, np.square(update), np.float32(settings.second))


def _adagrad(second: FloatArray, square: FloatArray, decay: np.float32) -> FloatArray:
    return second + square


def _adam(second: FloatArray, square: FloatArray, decay: np.float32) -> FloatArray:
    return decay * second + (np.float32(1.0) - decay) * square


def _yogi(second: FloatArray, square: FloatArray, decay: np.float32) -> FloatArray:
    towards: FloatArray = np.sign(second - square)
    return second - (np.float32(1.0) - decay) * square * towards


_SECOND_MOMENTS: dict[str, Callable[[FloatArray, FloatArray, np.float32], FloatArray]] = {
    "fedadagrad": _adagrad,
    "fedadam": _adam,
    "fedyogi": _yogi,
}

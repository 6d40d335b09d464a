"""The mean of a run's last states (Izmailov et al., UAI 2018, arXiv 1803.05407), at the coordinator alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.sparsity.mask import apply_mask


def averaged(graph: Graph, states: Iterable[Payload]) -> Payload:
    """``states``, the last one last, as one: their mean under the last one's mask.

    A weight is averaged over the states whose masks hold it, so that one that has grown on the way is not drawn to
    zero. Batch norm's statistics are averaged as weights are, which is what every round does with those of its
    devices: no pass over data is needed. All else is the last state's. Sums are in float64 and in the order of the
    states: the same wherever they are computed. Only one state is held beside the sums. Raises ``ValueError`` where
    there is none.
    """
    sums = {name: np.zeros(spec.shape, np.float64) for name, spec in graph.params.items()}
    held = {name: np.zeros(graph.params[name].shape, np.int32) for name in graph.maskable}
    count, last = 0, None
    for state in states:
        for name, total in sums.items():
            np.add(total, state.params[name], out=total)
        for name, times in held.items():
            np.add(times, state.mask.get(name, 1), out=times)
        count, last = count + 1, state
    if last is None:
        raise ValueError("there is no state to average")
    params = dict(last.params)
    for name, total in sums.items():
        params[name] = (total / (np.maximum(held[name], 1) if name in held else count)).astype(np.float32)
    apply_mask(params, last.mask)
    return Payload(dict(last.meta), params, last.mask, dict(last.gradients), dict(last.raw))

"""What all plans ask of a method: its steps under levers, the passes they may be cut into, what a worker holds."""

from __future__ import annotations

import math

from tinyfleet.fedcore.accounting import VALUE
from tinyfleet.fedcore.methods.method import Control, Method
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.levers import Levers

KEEPS = (0.5, 0.3, 0.2)  # lossy ways, from mild to hard; what is kept is kept in half precision
LEAST_NORM_BATCH = 4  # samples a pass that batch norm's statistics still mean something over
LABEL_BYTES = 8
# What a worker holds besides the engine and the model that probes see: protocol, codecs, methods. 6 to 10 MB.
WORKER_BYTES = 8_000_000


def settings_under(method: Method, levers: Levers) -> StepSettings:
    """The method's steps as ``levers`` make them; the learning rate costs nothing."""
    return method.step_settings(1.0, Control(levers))


def passes_of(method: Method) -> list[int]:
    """Samples a pass, from the whole batch (0) down."""
    batch = method.problem.training.batch
    least = min(batch, LEAST_NORM_BATCH if has_batch_norm(method) else 1)
    sizes = [0]
    size = batch // 2
    while size >= least:
        sizes.append(size)
        size //= 2
    return sizes


def has_batch_norm(method: Method) -> bool:
    """Whether its model has layers that couple the samples of a pass."""
    return bool(method.problem.graph.statistics)


def held_bytes(method: Method, samples: int) -> int:
    """What a worker holds all the while and a probe does not: its own code, the data, the task as it came."""
    graph, batch = method.problem.graph, method.problem.training.batch
    pixels = math.prod(graph.input_shape)
    data = 2 * samples * (pixels + LABEL_BYTES)  # uint8: the two parts, and both in one array
    task = sum(spec.size for spec in graph.params.values()) * VALUE
    return WORKER_BYTES + data + task + batch * pixels * VALUE  # a batch is normalised while the last one is held

"""When masks are adjusted, and by how much."""

from __future__ import annotations

import math


def is_adjustment_round(round_index: int, interval: int, stop: int) -> bool:
    """Tell whether r % dR == 0 and 0 < r <= R_stop (FedTiny, section 3.3)."""
    return 0 < round_index <= stop and round_index % interval == 0


def cosine_count(round_index: int, stop: int, active: int, scale: float = 0.15) -> int:
    """q_l = scale (1 + cos(pi r / R_stop)) a_l, rounded down; 0 after R_stop.

    The clock is the training round, never the adjustment counter, and the number is computed once an
    adjustment: the same weights are grown and pruned.
    """
    if round_index > stop:
        return 0
    return min(active, math.floor(scale * (1.0 + math.cos(math.pi * round_index / stop)) * active))

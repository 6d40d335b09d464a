"""What one optimiser step is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sparse_engine.values import Saving


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step: SGD with momentum; ``penalty`` is lambda of lambda ||theta||^2 over marked weights."""

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    micro_batch: int = 0  # samples at a time; 0: the whole batch at once
    penalty: float = 0.0
    recompute: int = 0  # 1: sums are computed again for the backward pass; 2: most convolutions are
    keep: float = 1.0  # share of a layer's input that its weight gradient sees, the largest entries
    cache: Literal["fp32", "fp16"] = "fp32"  # precision of that share
    pruned_norm: bool = False  # with ``keep`` < 1 batch norms' caches are pruned too

    def __post_init__(self) -> None:
        rates = (self.learning_rate, self.momentum, self.weight_decay, self.penalty)
        if not all(map(math.isfinite, rates)) or self.micro_batch < 0:
            raise ValueError(f"{self}: rates must be finite, and micro_batch 0 or more")
        if not 0 < self.keep <= 1 or self.recompute not in (0, 1, 2) or self.cache not in ("fp32", "fp16"):
            raise ValueError(f"{self}: 0 < keep <= 1, recompute is 0, 1 or 2, and cache fp32 or fp16")

    @property
    def saving(self) -> Saving:
        return Saving(self.recompute, self.keep, self.cache == "fp16", self.pruned_norm)

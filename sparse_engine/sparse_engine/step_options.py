"""What one optimiser step is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sparse_engine.program.values import Cache, Saving


@dataclass(frozen=True, slots=True)
class StepOptions:
    """One optimiser step: SGD with momentum; ``penalty`` is lambda of lambda ||theta||^2 over marked weights."""

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    micro_batch: int = 0  # samples at a time; 0: the whole batch at once
    penalty: float = 0.0
    recompute: int = 0  # 1: sums are computed again for the backward pass; 2: most convolutions are
    keep: float = 1.0  # share of a layer's input that its weight gradient sees, the largest entries
    cache: Literal["fp32", "fp16"] = "fp32"  # precision of what is kept for that
    pruned_norm: bool = False  # batch norms' caches are like that, too
    layers: Mapping[str, Cache] = field(default_factory=dict)  # other caches of single layers: see ``Saving``

    def __post_init__(self) -> None:
        rates = (self.learning_rate, self.momentum, self.weight_decay, self.penalty)
        if not all(map(math.isfinite, rates)) or self.micro_batch < 0:
            raise ValueError(f"{self}: rates must be finite, and micro_batch 0 or more")
        if self.recompute not in (0, 1, 2):
            raise ValueError(f"{self}: recompute is 0, 1 or 2")
        _ = self.saving  # raises where the cache is none

    @property
    def saving(self) -> Saving:
        """What the memory between the passes depends on."""
        cache = Cache(self.keep, self.cache)
        return Saving(self.recompute, cache, self.pruned_norm, tuple(sorted(self.layers.items())))

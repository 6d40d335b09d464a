"""What makes a training step take less memory: one record, from the plan to the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CACHE_BYTES = {"fp32": 4, "fp16": 2}  # of one kept activation
COMPUTED_AGAIN = ("", "sums computed again", "most activations computed again")  # by ``Levers.recompute``


@dataclass(frozen=True, slots=True)
class Levers:
    """The levers that a task is run with. As they are by default, nothing is saved and nothing lost.

    With ``activation_keep`` under 1 each layer's weight gradient sees only that share of its input, the largest
    |a| (FedMef, section 3.3).
    """

    micro_batch: int = 0  # samples a forward pass, gradients summed over all of them; 0: the whole batch at once
    activation_keep: float = 1.0
    cache: Literal["fp32", "fp16"] = "fp32"  # precision of what is kept of activations
    recompute: int = 0  # 1, 2: exact; some, most activations are computed again, where the engine can

    @property
    def lossy(self) -> bool:
        """Whether weight gradients are approximate."""
        return self.activation_keep < 1.0

    @property
    def degrading(self) -> bool:
        """Whether results differ from those of whole batches with exact gradients."""
        return self.lossy or self.micro_batch > 0

    @property
    def value_bytes(self) -> int:
        """Bytes of a kept activation."""
        return CACHE_BYTES[self.cache]

    def passes(self, batch: int) -> int:
        """Forward passes of a step of so many samples."""
        return 1 if self.micro_batch <= 0 else -(-batch // self.micro_batch)

    def under(self, board: Levers) -> Levers:
        """These, tightened by what ``board`` asks: of caches the sparser and the coarser hold, else the board's."""
        return Levers(
            board.micro_batch,
            min(self.activation_keep, board.activation_keep),
            "fp16" if "fp16" in (self.cache, board.cache) else "fp32",
            board.recompute,
        )

    def __str__(self) -> str:
        text = f"micro-batch {self.micro_batch or 'whole'}"
        text += f", {self.activation_keep:.0%} of activations kept in {self.cache}" if self.lossy else ""
        return text + (", " + COMPUTED_AGAIN[self.recompute] if self.recompute else "")


NO_LEVERS = Levers()
"""Whole batches, exact."""

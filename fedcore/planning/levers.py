"""Ways to run a task, and what they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinyfleet.fedcore.methods.method import Control

AGAIN = ("", "sums computed again", "most activations computed again")


@dataclass(frozen=True, slots=True)
class Levers:
    """How a task is run."""

    micro_batch: int  # samples a pass; 0: the whole batch
    keep: float = 1.0  # the most that a layer's cached input may keep; a method may ask for less
    cache: Literal["fp32", "fp16"] = "fp32"  # in which precision
    # Freed memory stays with the process and is used again: faster, and more of it. Else it is given back.
    roomy: bool = False
    recompute: int = 0  # 1, 2: exact; some, most activations are computed again (the native engine)

    @property
    def lossy(self) -> bool:
        """Whether the board, not the method, makes gradients approximate."""
        return self.keep < 1.0

    def apply(self, control: Control) -> None:
        """Impose them on a task; one that runs follows with its next step."""
        control.micro_batch, control.keep, control.cache = self.micro_batch, self.keep, self.cache
        control.recompute = self.recompute

    def __str__(self) -> str:
        text = f"micro-batch {self.micro_batch or 'whole'}"
        text += f", {self.keep:.0%} of activations kept in {self.cache}" if self.lossy else ""
        text += ", " + AGAIN[self.recompute] if self.recompute else ""
        return text + (", freed memory kept" if self.roomy else "")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one way of running a task takes."""

    levers: Levers
    peak_bytes: int
    step_seconds: float

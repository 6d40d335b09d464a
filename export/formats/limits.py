"""How close a file's logits have to come to the trained model's, by the precision of its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FormatLimits:
    """Largest relative error of the logits, and smallest share of equal decisions, with which a file passes."""

    most_error: float
    least_agreement: float


FP32 = FormatLimits(1e-4, 0.999)
FP16 = FormatLimits(5e-3, 0.99)
INT8 = FormatLimits(math.inf, 0.9)

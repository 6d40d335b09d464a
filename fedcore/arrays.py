"""Names for the array types that cross module borders."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
AnyArray = NDArray[Any]

Params = dict[str, FloatArray]
"""Parameter and buffer name -> float32 array, e.g. ``"conv1.weight"``, ``"norm1.running_mean"``."""

Mask = dict[str, BoolArray]
"""Weight name -> True where the weight is active. Names that are absent are dense; {} is a dense model."""

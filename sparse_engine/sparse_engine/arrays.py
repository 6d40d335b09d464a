"""Arrays as the compiled part takes them, from whatever callers give."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def floats(values: ArrayLike, what: str) -> NDArray[np.float32]:
    """Contiguous float32. Raises ``TypeError`` for what is neither real numbers nor booleans."""
    found = np.asarray(values)
    if found.dtype.kind not in "fiub":
        raise TypeError(f"{what} must be real numbers, not {found.dtype}")
    return np.ascontiguousarray(found, np.float32)


def integers(values: ArrayLike, what: str) -> NDArray[np.int64]:
    """Contiguous int64. Raises ``TypeError`` for numbers that may be none."""
    found = np.asarray(values)
    if found.dtype.kind not in "iu" and found.size:
        raise TypeError(f"{what} must be integers, not {found.dtype}")
    return np.ascontiguousarray(found, np.int64)

"""Keeps one core busy until it is ended, and counts what it has done: ``python -m ...burn FD INDEX``.

FD is a file that the parent shares: 8 bytes a process, of which the one at INDEX counts matrix products.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
from typing import Final

SIDE = 256
PRODUCT_FLOPS = 2.0 * SIDE**3
COUNTER_FORMAT: Final = "Q"
COUNTER = struct.Struct(COUNTER_FORMAT)


def main() -> None:
    """Count until SIGTERM, or until the parent is gone."""
    # Ctrl-C reaches all processes of a terminal: the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    shared, index = mmap.mmap(int(sys.argv[1]), 0), int(sys.argv[2])

    import numpy as np

    rng = np.random.default_rng(index)
    left, right = rng.standard_normal((2, SIDE, SIDE), np.float32)
    product = np.empty_like(left)
    done = 0
    while os.getppid() == parent:
        np.matmul(left, right, out=product)
        done += 1
        COUNTER.pack_into(shared, index * COUNTER.size, done)


if __name__ == "__main__":
    main()

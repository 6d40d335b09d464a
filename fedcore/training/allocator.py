"""How glibc's allocator treats the large, short-lived tensors of training."""

from __future__ import annotations

import ctypes
import logging
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT = 256 << 20  # freed bytes at the heap's end that stay with the process
_LARGEST = 32 << 20  # the most that glibc takes for a threshold of its heap

_log = logging.getLogger(__name__)


def keep_freed_memory() -> None:
    """Serve tensors of up to 32 MB from the heap and keep what is freed.

    By default each large tensor is a fresh mapping whose pages the kernel zeroes one by one, every step again:
    ResNet8 at batch 64 trains a seventh slower. The peak grows by the heap's fragmentation.
    Whoever started the process with thresholds in its environment has chosen: they stay.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    _set(_LARGEST, _KEPT)


def return_freed_memory() -> None:
    """Map every tensor of 64 KB and more for itself: the peak is what is in use, at twice the time."""
    _set(1 << 16, 0)


def choose(*, roomy: bool) -> None:
    """``roomy``: the heap as this process was started or set up with; else what is freed is given back at once."""
    if not roomy:
        return_freed_memory()
    elif "MALLOC_MMAP_THRESHOLD_" in os.environ:
        _set(int(os.environ["MALLOC_MMAP_THRESHOLD_"]), int(os.environ.get("MALLOC_TRIM_THRESHOLD_", _KEPT)))
    else:
        keep_freed_memory()


def be_small() -> None:
    """For a process that stays small for weeks: one arena for all threads, and what is freed goes back at once.

    Otherwise each thread keeps an arena, and what passes through it once (a window of chunks, say) stays.
    """
    return_freed_memory()
    _mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Give freed memory back to the system now."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        _log.debug("this C library has no malloc_trim: freed memory stays with the process")


def _set(mmap_threshold: int, trim_threshold: int) -> None:
    _mallopt(_M_MMAP_THRESHOLD, mmap_threshold)
    _mallopt(_M_TRIM_THRESHOLD, trim_threshold)


def _mallopt(parameter: int, value: int) -> None:
    try:
        ctypes.CDLL(None).mallopt(parameter, value)
    except (OSError, AttributeError):
        _log.debug("this C library has no mallopt: its allocator stays as it is")

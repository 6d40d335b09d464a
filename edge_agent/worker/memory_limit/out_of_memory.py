"""What says that memory ran out: errors inside a process, and what its libraries print before it dies."""

from __future__ import annotations

import resource

from tinyfleet.fedcore.rss import status_bytes

# In the text of what torch, C++, Python's threads (their stacks) and the kernel's loader raise.
_IN_ERRORS = (
    "not enough memory",
    "can't allocate memory",
    "DefaultCPUAllocator",
    "bad_alloc",
    "out of memory",
    "can't start new thread",
    "Resource temporarily unavailable",
)
# What allocators print before they abort: torch, C++, glibc, OpenBLAS, Python.
_PRINTED = (
    "bad_alloc",
    "not enough memory",
    "annot allocate memory",
    "MemoryError",
    "llocation failed",
)
# Of RLIMIT_DATA: so near to it, whatever C code does (it aborts, faults, raises any error it likes) is the limit's.
NEAR_LIMIT = 0.95


def is_raised(error: BaseException) -> bool:
    """True where memory ran out: Python's error, or a framework's under another name."""
    if isinstance(error, MemoryError):
        return True
    from tinyfleet.fedcore.training.engine_facts import NO_ROOM

    text = str(error)
    return isinstance(error, RuntimeError | OSError | ImportError) and (
        any(phrase in text for phrase in (*_IN_ERRORS, *NO_ROOM))
    )


def is_printed(log: str) -> bool:
    """True where the end of a dead worker's log names an allocation that failed."""
    return any(phrase in log for phrase in _PRINTED)


def at_data_limit() -> bool:
    """True where this process is within a twentieth of its RLIMIT_DATA."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return limit != resource.RLIM_INFINITY and (status_bytes("VmData") or 0) >= NEAR_LIMIT * limit

"""A worker's own hold on its RLIMIT_DATA, which counts what is reserved and no pages of files.

The resident set that a board grants holds both. Where no cgroup counts them together, the worker lowers its soft
limit before it trains: what it may then reserve is what the pages that are resident, and those that the first step
brings in, leave of the grant.
"""

from __future__ import annotations

import resource

from fedcore.rss import status_bytes

# Pages of an engine's libraries that its first step of training brings in. Measured on x86-64: 21 to 28 MB in 150
# jobs of seven models. Every task that is known to fit was at least 26 MB away from this bound. The native engine's
# library is half a megabyte as a whole.
FIRST_STEP_BYTES = {"torch": 22_000_000, "native": 1_000_000}


class DataHold:
    """Of one process: ``lift`` before each task, ``lower`` once its engine is up."""

    def __init__(self) -> None:
        self._files = 0  # bytes of file pages that are resident when all that the first step needs is; 0: unknown

    @staticmethod
    def lift() -> None:
        """Allow all that the supervisor does."""
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))

    def lower(self, limit_bytes: int, engine: str) -> None:
        """Let the process reserve only what keeps its resident set below ``limit_bytes``.

        Does nothing for an engine whose memory is not only here, or where the kernel does not tell.
        """
        found = [status_bytes(field) for field in ("VmRSS", "RssFile", "VmData")]
        if engine not in FIRST_STEP_BYTES or None in found:
            return
        resident, files, data = (size or 0 for size in found)
        self._files = self._files or files + FIRST_STEP_BYTES[engine]
        to_come = max(0, self._files - files)
        bound = data + max(0, limit_bytes - resident - to_come)
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        soft = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

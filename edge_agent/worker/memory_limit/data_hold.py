"""A worker's own hold on its RLIMIT_DATA, which counts what is reserved and no pages of files.

The resident set that a board grants holds both, and not all cgroups do: pages of libraries count in the group that
read them first. So the worker lowers its soft limit before it trains: what it may then reserve is what the pages
that are resident, and those that the first step brings in, leave of the grant.
"""

from __future__ import annotations

import resource

from tinyfleet.fedcore.rss import status_bytes
from tinyfleet.fedcore.training.engine_facts import EngineFacts


class DataHold:
    """Of one process: ``lift`` before each task, ``loading`` where its engine is small, ``lower`` once it is up."""

    def __init__(self) -> None:
        self._files = 0  # bytes of file pages that are resident when all that the first step needs is; 0: unknown

    @staticmethod
    def lift() -> None:
        """Allow all that the supervisor does."""
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))

    def loading(self, limit_bytes: int, engine: EngineFacts) -> None:
        """Let the process reserve only what keeps its resident set below ``limit_bytes`` while a task is loaded.

        Does nothing for an engine whose libraries are too large to be foreseen, or where the kernel does not tell.
        """
        self._bound(limit_bytes, engine.loading_bytes)

    def lower(self, limit_bytes: int, engine: EngineFacts) -> None:
        """The same while the task runs. Does nothing for an engine whose memory is not only here."""
        files = self._bound(limit_bytes, engine.first_step_bytes)
        self._files = self._files or files

    def _bound(self, limit_bytes: int, to_come: int | None) -> int:
        """Bytes of file pages when all has come, ``to_come`` of them where no task has shown it; 0 if not known."""
        found = [status_bytes(field) for field in ("VmRSS", "RssFile", "VmData")]
        if to_come is None or None in found:
            return 0
        resident, files, data = (size or 0 for size in found)
        expected = self._files or files + to_come
        bound = data + max(0, limit_bytes - resident - max(0, expected - files))
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        soft = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        return expected

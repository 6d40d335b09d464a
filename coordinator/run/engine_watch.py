"""Whether the engine process still does anything: one that is stopped, or waits for ever, takes no processor time.

What takes time is no sign of it: on a slow machine, or behind others, work takes as long as it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

LOOK_S = 1.0


class EngineWatch:
    """Looks at one process after another, once a second, while it has work to do.

    ``used`` is the processor time of a process by its id, in whatever unit; None where there is none now.
    """

    def __init__(
        self, hung_s: float, clock: Callable[[], float], used: Callable[[int], int | None] | None = None
    ) -> None:
        self._hung_s = hung_s
        self._clock = clock
        self._used = used or processor_ticks
        self._seen: tuple[int, int | None] | None = None  # whom, and what it had used
        self._idle_s = 0.0
        self._looked_at = 0.0

    def rest(self) -> None:
        """It has nothing to do: what it uses says nothing."""
        self._seen = None

    def is_hung(self, pid: int) -> bool:
        """True once it has used no processor time for ``hung_s`` seconds, though it has work to do."""
        now = self._clock()
        since_s = now - self._looked_at
        if self._seen is not None and since_s < LOOK_S:
            return False
        self._looked_at = now
        seen = (pid, self._used(pid))
        if seen != self._seen:
            self._seen, self._idle_s = seen, 0.0
        else:
            # A look that comes late is one of a machine that was held up, and its processes with it.
            self._idle_s += min(since_s, 2 * LOOK_S)
        return self._idle_s >= self._hung_s


def processor_ticks(pid: int) -> int | None:
    """User and system time of all threads of a process, in clock ticks: proc(5). None where there is none now."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return None

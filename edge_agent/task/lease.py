"""How long the coordinator waits for a task, by this board's own clock: no clock of anybody else's matters."""

from __future__ import annotations

import zlib

SLACK_S, SLACK_SHARE = 10.0, 0.1  # beyond the end; the larger of the two, and up to twice that


class Lease:
    """Of one task. Seconds are monotonic.

    It ends work only while there is a connection on which it could have been extended: without one the result may
    still count, once the coordinator resumes the step or within the run's staleness. Boards end theirs apart, for
    ``device`` gives each a slack of its own.
    """

    def __init__(self, device: str, lease_s: float, now: float) -> None:
        self._spread = 1.0 + zlib.crc32(device.encode()) / 2**32
        self._until = self._slack_s = 0.0
        self.extend(lease_s, now)

    def extend(self, lease_s: float, now: float) -> None:
        """It runs for so long from now on."""
        self._until = now + lease_s
        self._slack_s = self._spread * max(SLACK_S, SLACK_SHARE * lease_s)

    def has_ended(self, now: float) -> bool:
        """True after its last second: nothing is begun any more."""
        return now > self._until

    def ends_work(self, now: float, connected_at: float | None) -> bool:
        """True where nobody can be waiting any more. ``connected_at``: None where there is no connection."""
        return connected_at is not None and now > max(self._until, connected_at) + self._slack_s

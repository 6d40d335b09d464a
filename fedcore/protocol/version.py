"""Which versions of the protocol this side speaks, and which of them two sides take: see docs/compatibility.md."""

from __future__ import annotations

PROTOCOL = 2
"""The newest version that is spoken here. A change that an older reader would refuse makes it one more."""

OLDEST_PROTOCOL = 2
"""The oldest that is still spoken here. Messages of version 1 were not signed."""


def common_protocol(theirs: int, newest: int = PROTOCOL, oldest: int = OLDEST_PROTOCOL) -> int | None:
    """The version to speak with a peer whose newest is ``theirs``; None where it is too old for us.

    A peer that is newer than we are speaks our newest, if it still can: it says so in its turn.
    """
    spoken = min(theirs, newest)
    return spoken if spoken >= oldest else None

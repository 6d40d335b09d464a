"""The agent's two state machines, as tables: its link to the coordinator, and its one task.

They are apart on purpose: losing the network never stops training. ``docs/agent.md`` draws both
from these tables; a test holds the drawing and the code together.
"""

from __future__ import annotations

from enum import StrEnum

from tinyfleet.fedcore.state_table import StateTable


class LinkState(StrEnum):
    """Where the agent stands with the coordinator."""

    OFFLINE = "offline"
    """No connection to the broker; the transport keeps trying."""
    GREETING = "greeting"
    """Connected; Hello was sent and is repeated until a Welcome comes."""
    PENDING = "pending"
    """Known to the coordinator, waiting for its operator."""
    ACCEPTED = "accepted"
    """Part of the fleet: offers are taken."""
    REJECTED = "rejected"
    """Turned away by the operator; the agent stays connected in case that changes."""


class LinkEvent(StrEnum):
    """What happens to the link."""

    CONNECTED = "connected"
    """The broker is reached and the subscription stands; Hello goes out."""
    DISCONNECTED = "disconnected"
    """The connection is gone."""
    WELCOMED_PENDING = "welcomed pending"
    """Welcome with enrolment pending."""
    WELCOMED_ACCEPTED = "welcomed accepted"
    """Welcome with enrolment accepted."""
    WELCOMED_REJECTED = "welcomed rejected"
    """Welcome with enrolment rejected."""


class AssignmentState(StrEnum):
    """What the agent does about its one task. Finished results wait in the outbox, not here."""

    IDLE = "idle"
    """No task; offers are taken."""
    FETCHING = "fetching"
    """The task's blob is being fetched to disk, chunk by chunk."""
    TRAINING = "training"
    """The worker is on it, whether the network is there or not."""


class AssignmentEvent(StrEnum):
    """What happens to the task."""

    OFFERED = "offered"
    """An offer that the plan allows."""
    FETCHED = "fetched"
    """The blob is whole and its hash is right; the worker starts."""
    FETCH_FAILED = "fetch failed"
    """The blob cannot be stored, or its lease ran out before it was whole."""
    FINISHED = "finished"
    """The result is in the outbox, on disk."""
    OVER_BUDGET = "over budget"
    """The worker met its memory limit; the next try will take less."""
    FAILED = "failed"
    """The worker raised an error or died."""
    NEEDS_MASK = "needs mask"
    """The blob refers to a mask that is not held here."""
    LEASE_OVER = "lease over"
    """Its lease ran out and was not extended, on a connection that stands: nobody waits for it."""
    CANCELLED = "cancelled"
    """TaskCancel, RunEnded, a newer step that makes the result worthless, or the agent stops."""


_WELCOMED = {
    LinkEvent.WELCOMED_PENDING: LinkState.PENDING,
    LinkEvent.WELCOMED_ACCEPTED: LinkState.ACCEPTED,
    LinkEvent.WELCOMED_REJECTED: LinkState.REJECTED,
}

LINK_TABLE = StateTable(
    LinkState.OFFLINE,
    {
        (LinkState.OFFLINE, LinkEvent.CONNECTED): LinkState.GREETING,
        **{
            (state, event): target
            for state in (LinkState.GREETING, LinkState.PENDING, LinkState.ACCEPTED, LinkState.REJECTED)
            for event, target in {
                LinkEvent.CONNECTED: LinkState.GREETING,
                LinkEvent.DISCONNECTED: LinkState.OFFLINE,
                **_WELCOMED,
            }.items()
        },
    },
)

TASK_TABLE = StateTable(
    AssignmentState.IDLE,
    {
        (AssignmentState.IDLE, AssignmentEvent.OFFERED): AssignmentState.FETCHING,
        (AssignmentState.FETCHING, AssignmentEvent.FETCHED): AssignmentState.TRAINING,
        (AssignmentState.FETCHING, AssignmentEvent.FETCH_FAILED): AssignmentState.IDLE,
        (AssignmentState.FETCHING, AssignmentEvent.CANCELLED): AssignmentState.IDLE,
        (AssignmentState.TRAINING, AssignmentEvent.FINISHED): AssignmentState.IDLE,
        (AssignmentState.TRAINING, AssignmentEvent.OVER_BUDGET): AssignmentState.IDLE,
        (AssignmentState.TRAINING, AssignmentEvent.FAILED): AssignmentState.IDLE,
        (AssignmentState.TRAINING, AssignmentEvent.NEEDS_MASK): AssignmentState.IDLE,
        (AssignmentState.TRAINING, AssignmentEvent.LEASE_OVER): AssignmentState.IDLE,
        (AssignmentState.TRAINING, AssignmentEvent.CANCELLED): AssignmentState.IDLE,
    },
)

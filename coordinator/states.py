"""The states of a run, a step and a task, as tables. The store's rows and the running service follow them alike.

A pair that a table does not list leaves the state as it is: delivery is at least once, so
duplicates and stragglers are normal and must change nothing.
"""

from __future__ import annotations

from enum import StrEnum

from tinyfleet.fedcore.state_table import StateTable


class RunState(StrEnum):
    """Where a run stands in the queue and in its life."""

    SUBMITTED = "submitted"  # in the queue
    PREPARING = "preparing"  # the engine process computes the initial state
    RUNNING = "running"
    FINISHED = "finished"  # all rounds done, last state evaluated
    STOPPED = "stopped"  # by the operator, or at the end of its privacy budget
    FAILED = "failed"  # cannot go on; ``reason`` says why


class RunEvent(StrEnum):
    """What can happen to a run."""

    START = "start"  # it is first in the queue
    PREPARED = "prepared"  # its initial state is on disk
    COMPLETE = "complete"  # the method says so, and the last evaluation is in
    STOP = "stop"  # the operator asked, or another step would pass the privacy budget
    FAIL = "fail"


class StepState(StrEnum):
    """Where one step of a run stands."""

    OPEN = "open"  # tasks are offered, results are folded
    FINISHED = "finished"  # the state after it is on disk
    ABANDONED = "abandoned"  # the run ended before it did


class StepEvent(StrEnum):
    """What can happen to a step."""

    ENOUGH = "enough"  # all tasks settled, or the deadline passed, with at least ``min_results`` results
    SHORT = "short"  # the deadline passed with fewer: the same state is offered again
    ABANDON = "abandon"  # the run was stopped or failed


class TaskPhase(StrEnum):
    """Where one device's task of one step stands, as the coordinator sees it."""

    OFFERED = "offered"  # the offer is out, or due to go out
    ACCEPTED = "accepted"  # the device fetches the task's blob
    RUNNING = "running"
    UPLOADING = "uploading"  # the result is in the device's outbox, or on its way
    STORED = "stored"  # the result is on disk and counted in its step, unless that excludes it at its end
    LATE = "late"  # the result came after its step and is counted in a later one
    FAILED = "failed"  # over budget, failed or declined, and no retries are left
    REFUSED = "refused"  # the result does not belong to the task, or not to the cohort's
    LOST = "lost"  # the step no longer waits for it: device offline, deadline, run stopped


class PhaseEvent(StrEnum):
    """What can happen to a task."""

    OFFER = "offer"  # offered again: the device restarted or came back
    ACCEPT = "accept"
    PROGRESS = "progress"
    RESULT = "result"  # the device says that its result is ready
    STUMBLE = "stumble"  # over budget, failed or declined, and retries are left
    GIVE_UP = "give_up"  # the same, and none are left
    COUNT = "count"  # result stored and folded into its own step
    COUNT_LATE = "count_late"  # result stored and folded into a later step
    REFUSE = "refuse"  # result invalid
    EXCLUDE = "exclude"  # result stored, and beside those of its cohort unfit to count
    LOSE = "lose"


_R, _RE = RunState, RunEvent
RUN_TABLE = StateTable(
    _R.SUBMITTED,
    {
        (_R.SUBMITTED, _RE.START): _R.PREPARING,
        (_R.SUBMITTED, _RE.STOP): _R.STOPPED,
        (_R.SUBMITTED, _RE.FAIL): _R.FAILED,
        (_R.PREPARING, _RE.PREPARED): _R.RUNNING,
        (_R.PREPARING, _RE.STOP): _R.STOPPED,
        (_R.PREPARING, _RE.FAIL): _R.FAILED,
        (_R.RUNNING, _RE.COMPLETE): _R.FINISHED,
        (_R.RUNNING, _RE.STOP): _R.STOPPED,
        (_R.RUNNING, _RE.FAIL): _R.FAILED,
    },
)

_S, _SE = StepState, StepEvent
STEP_TABLE = StateTable(
    _S.OPEN,
    {
        (_S.OPEN, _SE.ENOUGH): _S.FINISHED,
        (_S.OPEN, _SE.SHORT): _S.OPEN,
        (_S.OPEN, _SE.ABANDON): _S.ABANDONED,
    },
)

_T, _TE = TaskPhase, PhaseEvent
TASK_TABLE = StateTable(
    _T.OFFERED,
    {
        (_T.OFFERED, _TE.ACCEPT): _T.ACCEPTED,
        (_T.OFFERED, _TE.PROGRESS): _T.RUNNING,
        (_T.OFFERED, _TE.RESULT): _T.UPLOADING,
        (_T.OFFERED, _TE.STUMBLE): _T.OFFERED,
        (_T.OFFERED, _TE.GIVE_UP): _T.FAILED,
        (_T.OFFERED, _TE.LOSE): _T.LOST,
        (_T.ACCEPTED, _TE.OFFER): _T.OFFERED,
        (_T.ACCEPTED, _TE.PROGRESS): _T.RUNNING,
        (_T.ACCEPTED, _TE.RESULT): _T.UPLOADING,
        (_T.ACCEPTED, _TE.STUMBLE): _T.OFFERED,
        (_T.ACCEPTED, _TE.GIVE_UP): _T.FAILED,
        (_T.ACCEPTED, _TE.LOSE): _T.LOST,
        (_T.RUNNING, _TE.OFFER): _T.OFFERED,
        (_T.RUNNING, _TE.RESULT): _T.UPLOADING,
        (_T.RUNNING, _TE.STUMBLE): _T.OFFERED,
        (_T.RUNNING, _TE.GIVE_UP): _T.FAILED,
        (_T.RUNNING, _TE.LOSE): _T.LOST,
        (_T.UPLOADING, _TE.OFFER): _T.OFFERED,
        (_T.UPLOADING, _TE.COUNT): _T.STORED,
        (_T.UPLOADING, _TE.REFUSE): _T.REFUSED,
        # Its device found the result damaged.
        (_T.UPLOADING, _TE.STUMBLE): _T.OFFERED,
        (_T.UPLOADING, _TE.GIVE_UP): _T.FAILED,
        (_T.UPLOADING, _TE.LOSE): _T.LOST,
        # The step stopped waiting, but the device may still come back with its work.
        (_T.LOST, _TE.OFFER): _T.OFFERED,
        (_T.LOST, _TE.RESULT): _T.UPLOADING,
        (_T.LOST, _TE.COUNT_LATE): _T.LATE,
        (_T.LOST, _TE.REFUSE): _T.REFUSED,
        # What a result is like beside all others of its step shows when the step closes.
        (_T.STORED, _TE.EXCLUDE): _T.REFUSED,
        (_T.LATE, _TE.EXCLUDE): _T.REFUSED,
    },
)

FINAL_TASK_PHASES = frozenset(TASK_TABLE.final) | {TaskPhase.STORED, TaskPhase.LATE}
"""Of tasks whose devices have nothing left to do."""
SETTLED_TASK_PHASES = FINAL_TASK_PHASES | {TASK_TABLE.target(_TE.LOSE)}
"""A step waits for every task that is in none of these."""

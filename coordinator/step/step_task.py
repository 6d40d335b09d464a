"""One device's task of the open step: its phase, its tries, its pauses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from tinyfleet.coordinator.states import SETTLED_TASK_PHASES, TASK_TABLE, PhaseEvent, TaskPhase
from tinyfleet.coordinator.store.records import Share, TaskNote
from tinyfleet.coordinator.store.rows import TaskRow
from tinyfleet.fedcore.protocol.messages import TaskStatus


@dataclass(slots=True)
class StepTask:
    """Follows ``TASK_TABLE``. Times are monotonic seconds."""

    device: str
    phase: TaskPhase = TASK_TABLE.start
    reason: str = ""
    retries: int = 0
    local_steps: int = 0  # that it is given; 0: the whole job
    activation_keep: float = 1.0
    unfit: bool = False  # its device can never do it while it is what it is
    with_mask: bool = False  # the device said that it lacks the mask
    lease_until: float | None = None  # as its device was told; None: not since this process began
    _micro_batch: int = 0
    _levers: str = ""
    _peak_rss_bytes: int = 0
    _local_steps_done: int = 0
    _local_steps_total: int = 0
    _began_at: float | None = None  # when the offer of its present try went out first; None: before a restart
    _sent_at: float | None = None  # when its offer went out; None: it is due
    _due_at: float = 0.0
    _paused_s: float = 0.0  # of the present try, as its board said last
    _paused_at: float | None = None  # when it said that it pauses; None: it does not
    _forgiven_s: float = 0.0  # of its pauses: an earlier deadline was put off by them
    _noted: bool = True  # the store knows all this

    @classmethod
    def given(cls, share: Share) -> Self:
        """A new task, with the part of the job that the device is given."""
        return cls(share.device, local_steps=share.local_steps, activation_keep=share.activation_keep)

    @classmethod
    def resumed(cls, row: TaskRow) -> Self:
        """As a restart finds it: what was under way is offered anew unless the device says that it is at it."""
        phase = TaskPhase(row.state)
        return cls(
            row.device,
            phase if phase in SETTLED_TASK_PHASES else TASK_TABLE.after(phase, PhaseEvent.OFFER),
            row.reason,
            row.retries,
            row.local_steps,
            row.activation_keep,
            _micro_batch=row.micro_batch,
            _levers=row.levers,
            _peak_rss_bytes=row.peak_rss_bytes,
        )

    @property
    def settled(self) -> bool:
        """True where its step does not wait for it."""
        return self.phase in SETTLED_TASK_PHASES

    def follow(self, event: PhaseEvent) -> None:
        """Its phase after ``event``."""
        self.phase = TASK_TABLE.after(self.phase, event)
        self._noted = False

    # -- what its device says -----------------------------------------------------------

    def measured(self, status: TaskStatus) -> None:
        """The memory that it takes."""
        self._micro_batch = status.micro_batch or self._micro_batch
        self._levers = status.levers or self._levers
        self._peak_rss_bytes = max(self._peak_rss_bytes, status.peak_rss_bytes)

    def progressed(self, status: TaskStatus) -> None:
        """How far it is."""
        self._local_steps_done = status.local_steps_done or self._local_steps_done
        self._local_steps_total = status.local_steps_total or self._local_steps_total

    # -- pauses -------------------------------------------------------------------------

    def pauses(self, reason: str, paused_s: float, now: float) -> None:
        """Its board holds it back."""
        self.reason = f"paused: {reason}"
        self._paused_s, self._paused_at = paused_s, now

    def goes_on(self, paused_s: float) -> bool:
        """Its board does not hold it back; True where it did until now."""
        resumes = self._paused_at is not None
        self._paused_s, self._paused_at = paused_s, None
        if resumes:
            self.reason = ""
        return resumes

    def pauses_s(self, now: float) -> float:
        """Seconds of the present try in which its board held it back, and for which no deadline waited yet."""
        now_s = 0.0 if self._paused_at is None else now - self._paused_at
        return max(0.0, self._paused_s + now_s - self._forgiven_s)

    def forgive(self, now: float) -> None:
        """A deadline waited for its pauses until now."""
        self._forgiven_s += self.pauses_s(now)

    # -- its offer ----------------------------------------------------------------------

    @property
    def offer_is_due(self) -> bool:
        """True where its present try has not been offered yet."""
        return self._sent_at is None

    def offer_again(self) -> None:
        """The same try once more, at once."""
        if self.phase is TaskPhase.LOST:
            self.reason = ""
        self.follow(PhaseEvent.OFFER)
        self._sent_at, self._due_at, self.lease_until = None, 0.0, None
        self._paused_s, self._paused_at, self._forgiven_s = 0.0, None, 0.0

    def begin_anew(self) -> None:
        """Its stored result is damaged: as if it had never come."""
        self.phase, self.reason = TASK_TABLE.start, ""
        self._sent_at, self._due_at, self._began_at = None, 0.0, None
        self._noted = False

    def try_again(self, at: float) -> None:
        """It stumbled, and is offered again after ``at``."""
        self.retries += 1
        self.follow(PhaseEvent.STUMBLE)
        self._sent_at, self._due_at = None, at

    def due(self, now: float, reoffer_s: float, *, is_at_it: bool) -> bool:
        """True where its offer must go out (again): without a word for ``reoffer_s``, it never arrived."""
        if self._sent_at is None:
            return now >= self._due_at
        return now - self._sent_at >= reoffer_s and not is_at_it

    def sent(self, now: float) -> None:
        """Its offer has left."""
        if self._sent_at is None:
            self._began_at = now
        self._sent_at = now

    def found_at_work(self, now: float) -> None:
        """Its device is at it, or has its result: no offer is needed."""
        self.follow(PhaseEvent.PROGRESS)
        self._sent_at = now

    def wall_s(self, now: float) -> float | None:
        """Seconds since its offer left, where that was in this process."""
        return None if self._began_at is None else now - self._began_at

    # -- the store ----------------------------------------------------------------------

    @property
    def is_noted(self) -> bool:
        return self._noted

    def note(self) -> TaskNote:
        """What the store keeps of it; it is written at once."""
        self._noted = True
        return TaskNote(
            self.device,
            self.phase,
            self.reason,
            self.retries,
            self._micro_batch,
            self._peak_rss_bytes,
            self._local_steps_done,
            self._local_steps_total,
            self._levers,
            self.unfit,
        )

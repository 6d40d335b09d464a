"""What the running service knows of one device. Only the registry holds these; all others ask the registry."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TypeAlias

from tinyfleet.coordinator.store.records import Pin, Presence
from tinyfleet.coordinator.wire.allowance import Allowance
from tinyfleet.fedcore.protocol.messages import Enrolment

log = logging.getLogger(__name__)

# Lines of the log on its coming and going, a second and at once: more than a bad link makes.
LINES_PER_S, LINES_AT_ONCE = 0.1, 20.0
IDLE_BEATS = 3  # heartbeats without a task, in a row, of a device that should be at one: it lost it

TaskKey: TypeAlias = tuple[str, int]
"""(run, step)."""


@dataclass(slots=True)
class Device:
    """One device: who it is, whether it is there, what it is at, and the masks that it holds."""

    device: str
    public_key: str
    session: str
    enrolment: Enrolment
    online: bool
    _heard_at: float  # monotonic seconds
    _offline_at: float
    _awaited: bool  # was online when the coordinator stopped, not heard of since
    rekey: bool = False  # the next key that is shown under its name is taken
    task: TaskKey | None = None  # what it said it is at
    _idle_beats: int = 0  # heartbeats without a task, in a row
    _masks: set[str] = field(default_factory=set)  # digests of those that it holds in this session
    _note: Presence | None = None  # to be written with the next flush
    _lines: Allowance = field(default_factory=lambda: Allowance(LINES_PER_S, LINES_AT_ONCE, 0.0))

    @classmethod
    def remembered(cls, pin: Pin, now: float, silence_s: float) -> Device:
        """As the store knows it after a restart: not there, and awaited for ``silence_s`` if it was."""
        until = now + silence_s
        return cls(pin.device, pin.public_key, pin.session, pin.enrolment, False, now, until, pin.online, pin.rekey)

    @property
    def accepted(self) -> bool:
        """True where the operator lets it take part."""
        return self.enrolment is Enrolment.ACCEPTED

    @property
    def log_level(self) -> int:
        """Anybody can be a device that nobody has accepted: what those do fills no log."""
        return logging.DEBUG if self.enrolment is Enrolment.PENDING else logging.INFO

    def _log(self, now: float, text: str, *values: object) -> None:
        """Whoever comes and goes on and on fills no log either."""
        log.log(self.log_level if self._lines.take(1.0, now) else logging.DEBUG, text, self.device, *values)

    # -- presence -----------------------------------------------------------------------

    def awaited(self, now: float) -> bool:
        """True for a while after a restart, if it was there before and has not been heard of since."""
        return self._awaited and now < self._offline_at

    def away_s(self, now: float) -> float | None:
        """Seconds since it left; None while it is there, or may still be heard of after a restart."""
        return None if self.online or self._awaited else now - self._offline_at

    def heard(self, now: float) -> None:
        """It is there."""
        if not self.online:
            self._log(now, "%s is online")
            self.online, self._awaited = True, False
            self.note()
        self._heard_at = now

    def gone(self, now: float, reason: str) -> None:
        """It is not there any more."""
        self._log(now, "%s is offline: %s", reason)
        self.online, self._awaited = False, False
        self._offline_at = now
        self.note()

    def tick(self, now: float, silence_s: float) -> None:
        """One that has been silent for longer than ``silence_s`` is offline."""
        if self.online and now - self._heard_at > silence_s:
            self.gone(now, f"silent for {now - self._heard_at:.0f} s")
        elif self._awaited and now >= self._offline_at:
            self.gone(now, "not heard of since the coordinator's restart")

    def reconnected(self, now: float, silence_s: float) -> None:
        """The broker is (back) there: its silence counts from now on."""
        if self.online:
            self._heard_at = now
        elif self._awaited:
            self._offline_at = now + silence_s

    def greeted(self, session: str, task: TaskKey | None) -> None:
        """It said hello: what it held in an earlier session is gone."""
        if session != self.session:
            self.session = session
            self._masks.clear()
        self.task, self._idle_beats = task, 0

    def beat(self, task: TaskKey | None) -> None:
        """A heartbeat: what it is at."""
        self.task = task
        self._idle_beats = self._idle_beats + 1 if task is None else 0

    def has_lost_its_task(self) -> bool:
        """True once in ``IDLE_BEATS`` heartbeats in which it was at no task, though it should be at one."""
        lost = self._idle_beats >= IDLE_BEATS
        if lost:
            self._idle_beats = 0
        return lost

    # -- masks --------------------------------------------------------------------------

    def holds_mask(self, digest: str) -> bool:
        return digest in self._masks

    def note_mask(self, digest: str, *, held: bool) -> None:
        """It holds the mask of that digest, or said that it does not."""
        if held:
            self._masks.add(digest)
        else:
            self._masks.discard(digest)

    def forget_masks(self) -> None:
        self._masks.clear()

    # -- what is to be written ----------------------------------------------------------

    @property
    def health(self) -> dict[str, float] | None:
        """What it told since the last flush; None: nothing."""
        return None if self._note is None else self._note.health

    def note(self, *, health: dict[str, float] | None = None, idle: int = 0, peak: int = 0) -> None:
        """Add to what the next flush writes; bytes of its idle supervisor, and the most of all its processes."""
        before = self._note or Presence(self.device, self.session, self.online, None, 0, 0)
        self._note = Presence(
            self.device,
            self.session,
            self.online,
            health if health is not None else before.health,
            idle or before.idle_rss_bytes,
            max(peak, before.peak_rss_bytes),
        )

    def take_note(self) -> Presence | None:
        """What is to be written; it is forgotten here."""
        note, self._note = self._note, None
        return note

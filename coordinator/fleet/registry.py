"""Who the devices are, whether they may take part, and whether they are there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tinyfleet.coordinator.store.ledger import Ledger
from tinyfleet.coordinator.store.records import Presence
from tinyfleet.coordinator.store.rows import DeviceRow
from tinyfleet.coordinator.wire.outgoing import Post
from tinyfleet.fedcore.protocol.messages import Enrolment, Goodbye, Heartbeat, Hello, Welcome

log = logging.getLogger(__name__)

MISSED_HEARTBEATS = 3

TaskKey = tuple[str, int]
"""(run, step)."""


@dataclass(slots=True)
class Device:
    """What the running service knows of one device."""

    device: str
    public_key: str
    session: str
    enrolment: Enrolment
    online: bool
    heard_at: float
    offline_at: float
    awaited: bool  # was online when the coordinator stopped, not heard of since
    task: TaskKey | None = None  # what it said it is at
    idle_beats: int = 0  # heartbeats without a task, in a row
    held: set[str] = field(default_factory=set)  # digests of masks that it holds in this session
    note: Presence | None = None  # to be written with the next flush


class Registry:
    """Devices by name. Identity is pinned at first sight; presence rests on the devices' own heartbeats."""

    def __init__(
        self, ledger: Ledger, post: Post, *, heartbeat_s: float, auto_accept: bool, clock: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._post = post
        self._heartbeat_s = heartbeat_s
        self._auto_accept = auto_accept
        self._clock = clock
        now = clock()
        self._devices = {
            pin.device: Device(
                pin.device, pin.public_key, pin.session, pin.enrolment, False, now, now + self.silence_s, pin.online
            )
            for pin in ledger.pins()
        }
        for known in self._devices.values():
            if auto_accept and known.enrolment is Enrolment.PENDING:
                ledger.set_enrolment(known.device, Enrolment.ACCEPTED)
                known.enrolment = Enrolment.ACCEPTED

    @property
    def silence_s(self) -> float:
        """A device that is silent for so long is offline."""
        return MISSED_HEARTBEATS * self._heartbeat_s

    def get(self, device: str) -> Device | None:
        return self._devices.get(device)

    def accepted(self, device: str) -> bool:
        """True where the operator lets the device take part."""
        known = self._devices.get(device)
        return known is not None and known.enrolment is Enrolment.ACCEPTED

    def online(self, device: str) -> bool:
        """True where it is there and accepted."""
        known = self._devices.get(device)
        return known is not None and known.online and known.enrolment is Enrolment.ACCEPTED

    def candidates(self) -> list[DeviceRow]:
        """Rows of the devices that are there and accepted, with the health that they told last."""
        return [self._latest(row) for row in self._ledger.devices() if self.online(row.device)]

    def awaits(self) -> bool:
        """True while devices that were there before a restart have not been heard of, for a while."""
        now = self._clock()
        return any(
            d.awaited and now < d.offline_at and d.enrolment is Enrolment.ACCEPTED for d in self._devices.values()
        )

    # -- what devices say ---------------------------------------------------------------

    def on_hello(self, device: str, hello: Hello) -> bool:
        """Enrol or recognise a device; False where it is refused for its key."""
        known = self._devices.get(device)
        if known is not None and known.public_key != hello.public_key:
            log.warning("%s said hello with another key than the one it is known by: refused", device)
            reason = (
                f"{device} is known here by another public key; restore the device's identity file, "
                "or give it a new name"
            )
            if not known.online:  # else the answer would reach the device that the name belongs to
                self._post.send(device, Welcome(Enrolment.REJECTED, self._heartbeat_s, reason))
            return False
        enrolment = known.enrolment if known is not None else Enrolment.PENDING
        if enrolment is Enrolment.PENDING and self._auto_accept:
            enrolment = Enrolment.ACCEPTED
        self._ledger.save_hello(device, hello, enrolment)
        if known is None:
            now = self._clock()
            known = Device(device, hello.public_key, hello.session, enrolment, False, now, now, False)
            self._devices[device] = known
            log.info("%s is new: %s", device, enrolment.value)
        elif known.enrolment is not enrolment:
            self._ledger.set_enrolment(device, enrolment)
            known.enrolment = enrolment
        if hello.session != known.session:
            known.session = hello.session
            known.held.clear()
        self._meet(known)
        known.task, known.idle_beats = hello.task, 0
        self._post.send(device, Welcome(enrolment, self._heartbeat_s))
        return True

    def on_heartbeat(self, device: str, beat: Heartbeat) -> bool:
        """Note a sign of life; False in a session that no hello has opened: only a hello shows the key."""
        known = self._devices.get(device)
        if known is None or known.session != beat.session:
            return False
        self._meet(known)
        known.task = beat.task
        known.idle_beats = known.idle_beats + 1 if beat.task is None else 0
        rss = int(beat.health.get("rss_bytes", 0))
        total = rss + int(beat.health.get("worker_rss_bytes", 0))
        self._note(known, health=beat.health, idle=rss if beat.task is None else 0, peak=total)
        return True

    def on_sign_of_life(self, device: str) -> None:
        """Any other message: it is there."""
        known = self._devices.get(device)
        if known is not None:
            self._meet(known)

    def on_goodbye(self, device: str, goodbye: Goodbye) -> bool:
        """Note that a device left; False where the message is of an earlier session."""
        known = self._devices.get(device)
        if known is None or known.session != goodbye.session or not known.online:
            return False
        self._part(known, goodbye.reason or "goodbye")
        return True

    # -- time, operator, broker ---------------------------------------------------------

    def tick(self, now: float) -> None:
        """Devices that have been silent for too long are offline. Not called while the broker is away."""
        for known in self._devices.values():
            if known.online and now - known.heard_at > self.silence_s:
                self._part(known, f"silent for {now - known.heard_at:.0f} s")
            elif known.awaited and now >= known.offline_at:
                self._part(known, "not heard of since the coordinator's restart")

    def on_connected(self) -> None:
        """The broker is (back) there: nobody's silence counts until now."""
        now = self._clock()
        for known in self._devices.values():
            if known.online:
                known.heard_at = now
            elif known.awaited:
                known.offline_at = now + self.silence_s

    def refresh(self) -> list[str]:
        """Read the operator's decisions; returns the devices whose enrolment changed."""
        changed = []
        for pin in self._ledger.pins():
            known = self._devices.get(pin.device)
            if known is not None and known.enrolment is not pin.enrolment:
                known.enrolment = pin.enrolment
                changed.append(pin.device)
                log.info("%s: %s", pin.device, pin.enrolment.value)
                self._post.send(pin.device, Welcome(pin.enrolment, self._heartbeat_s))
        return changed

    def flush(self) -> None:
        """Write what was noted since the last flush."""
        notes = [known.note for known in self._devices.values() if known.note is not None]
        if notes:
            self._ledger.note_presence(notes)
        for known in self._devices.values():
            known.note = None

    def note_peak(self, device: str, peak_rss_bytes: int) -> None:
        """A task's peak memory."""
        known = self._devices.get(device)
        if known is not None and peak_rss_bytes:
            self._note(known, peak=peak_rss_bytes)

    def forget_masks(self) -> None:
        """A run has ended: nobody holds its masks any more."""
        for known in self._devices.values():
            known.held.clear()

    def _latest(self, row: DeviceRow) -> DeviceRow:
        """What is not written yet counts already."""
        note = self._devices[row.device].note
        return row if note is None or note.health is None else replace(row, health=note.health)

    def _meet(self, known: Device) -> None:
        if not known.online:
            log.info("%s is online", known.device)
            known.online, known.awaited = True, False
            self._note(known)
        known.heard_at = self._clock()

    def _part(self, known: Device, reason: str) -> None:
        log.info("%s is offline: %s", known.device, reason)
        known.online, known.awaited = False, False
        known.offline_at = self._clock()
        self._note(known)

    def _note(self, known: Device, *, health: dict[str, float] | None = None, idle: int = 0, peak: int = 0) -> None:
        """Add to what the next flush writes."""
        before = known.note or Presence(known.device, known.session, known.online, None, 0, 0)
        known.note = Presence(
            known.device,
            known.session,
            known.online,
            health if health is not None else before.health,
            idle or before.idle_rss_bytes,
            max(peak, before.peak_rss_bytes),
        )

"""Who the devices are, whether they may take part, and whether they are there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from tinyfleet.coordinator.fleet.device import Device, TaskKey
from tinyfleet.coordinator.fleet.newcomers import Newcomers
from tinyfleet.coordinator.store.devices import Devices
from tinyfleet.coordinator.store.rows import DeviceRow
from tinyfleet.coordinator.wire.allowance import Allowance
from tinyfleet.coordinator.wire.outgoing import Outgoing
from tinyfleet.fedcore.protocol.messages import Enrolment, Goodbye, Heartbeat, Hello, Welcome
from tinyfleet.fedcore.protocol.signed.signatures import key_bytes
from tinyfleet.fedcore.protocol.version import OLDEST_PROTOCOL, PROTOCOL, common_protocol

log = logging.getLogger(__name__)

MISSED_HEARTBEATS = 3


class Registry:
    """Devices by name. Identity is pinned at first sight; presence rests on the devices' own heartbeats."""

    def __init__(
        self,
        store: Devices,
        outgoing: Outgoing,
        *,
        heartbeat_s: float,
        auto_accept: bool,
        most_pending: int,
        most_accepted: int,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._outgoing = outgoing
        self._heartbeat_s = heartbeat_s
        self._auto_accept = auto_accept
        self._most_accepted = most_accepted
        self._clock = clock
        now = clock()
        self._refusals_told = Allowance(0.2, 5.0, now)
        self._devices = {pin.device: Device.remembered(pin, now, self.silence_s) for pin in store.pins()}
        self._accepted = sum(known.accepted for known in self._devices.values())
        for known in self._devices.values():
            if known.enrolment is Enrolment.PENDING and self._may_accept():
                store.set_enrolment(known.device, Enrolment.ACCEPTED)
                known.enrolment = Enrolment.ACCEPTED
                self._accepted += 1
        self._newcomers = Newcomers(most_pending)
        self._introductions: dict[str, Hello] = {}  # of newcomers, to be written and answered with the next flush
        self._forgotten: set[str] = set()  # newcomers that had to go, to be dropped with the next flush
        for known in list(self._devices.values()):
            if known.enrolment is Enrolment.PENDING:
                self._welcome_newcomer(known.device)

    @property
    def silence_s(self) -> float:
        """A device that is silent for so long is offline."""
        return MISSED_HEARTBEATS * self._heartbeat_s

    # -- what is known ------------------------------------------------------------------

    def accepted(self, device: str) -> bool:
        """True where the operator lets the device take part."""
        known = self._devices.get(device)
        return known is not None and known.accepted

    def online(self, device: str) -> bool:
        """True where it is there and accepted."""
        known = self._devices.get(device)
        return known is not None and known.online and known.accepted

    def away_s(self, device: str, now: float) -> float | None:
        """Seconds since a device left; None while it is there, or may still be heard of after a restart."""
        known = self._devices.get(device)
        return None if known is None else known.away_s(now)

    def at(self, device: str) -> TaskKey | None:
        """The task that a device said it is at."""
        known = self._devices.get(device)
        return None if known is None else known.task

    def has_lost_its_task(self, device: str) -> bool:
        """True once for a device that should be at a task, and says in heartbeat after heartbeat that it is not."""
        known = self._devices.get(device)
        return known is not None and known.has_lost_its_task()

    def candidates(self) -> list[DeviceRow]:
        """Rows of the devices that are there and accepted, with the health that they told last."""
        return [self._latest(row) for row in self._store.all() if self.online(row.device)]

    def enrolled_samples(self, device: str) -> int:
        """Samples that it said it has, with its latest hello; 0: none, or not known."""
        return self._store.samples(device)

    def awaits(self) -> bool:
        """True while devices that were there before a restart have not been heard of, for a while."""
        now = self._clock()
        return any(d.accepted and d.awaited(now) for d in self._devices.values())

    def key_of(self, device: str) -> bytes | None:
        """The raw public key that a device is known by; None: it is not known, or the key in its row is damaged."""
        known = self._devices.get(device)
        return None if known is None else key_bytes(known.public_key)

    def takes_new_key(self, device: str) -> bool:
        """True where the operator lets the next key in that is shown under the name."""
        known = self._devices.get(device)
        return known is not None and known.rekey

    def awaited(self) -> list[tuple[str, str]]:
        """(device, session) of those that were there before a restart, and have not been heard of since."""
        now = self._clock()
        return [(d.device, d.session) for d in self._devices.values() if d.accepted and d.awaited(now)]

    # -- the masks that devices hold ----------------------------------------------------

    def holds_mask(self, device: str, digest: str) -> bool:
        """True where it worked under that very mask in its present session."""
        known = self._devices.get(device)
        return known is not None and known.holds_mask(digest)

    def note_mask(self, device: str, digest: str, *, held: bool) -> None:
        """A device holds a mask, or said that it does not."""
        known = self._devices.get(device)
        if known is not None:
            known.note_mask(digest, held=held)

    def forget_masks(self) -> None:
        """A run has ended: nobody holds its masks any more."""
        for known in self._devices.values():
            known.forget_masks()

    # -- what devices say ---------------------------------------------------------------

    def on_hello(self, device: str, hello: Hello) -> bool:
        """Enrol or recognise a device that has shown its key; False where it is refused for its age."""
        protocol = common_protocol(hello.protocol)
        if protocol is None:
            reason = (
                f"its agent {hello.agent_version} speaks protocol {hello.protocol}, and this coordinator "
                f"{OLDEST_PROTOCOL} to {PROTOCOL}; update the agent"
            )
            self._refuse(device, f"is refused: {reason}", reason)
            return False
        known = self._devices.get(device)
        if known is not None and known.public_key != hello.public_key:
            if not known.rekey:
                return False
            log.warning("%s has a new key, as the operator allowed", device)
            known.public_key, known.rekey = hello.public_key, False
            self._store.save_hello(device, hello, known.enrolment)
        enrolment = known.enrolment if known is not None else Enrolment.PENDING
        if enrolment is Enrolment.PENDING and self._may_accept():
            enrolment = Enrolment.ACCEPTED
            self._accepted += 1
        if enrolment is not Enrolment.PENDING:
            self._newcomers.drop(device)
            self._introductions.pop(device, None)
            self._store.save_hello(device, hello, enrolment)
        if known is None:
            now = self._clock()
            known = Device(device, hello.public_key, hello.session, enrolment, False, now, now, False)
            self._devices[device] = known
            log.log(known.log_level, "%s is new: %s", device, enrolment.value)
        elif known.enrolment is not enrolment:
            self._store.set_enrolment(device, enrolment)
            known.enrolment = enrolment
        known.greeted(hello.session, hello.task)
        known.heard(self._clock())
        if enrolment is Enrolment.PENDING:
            # Anybody can be that: written and answered with all others of its kind, if it is still there then.
            self._introductions[device] = hello
            self._welcome_newcomer(device)
            return True
        self._outgoing.send(device, Welcome(enrolment, self._heartbeat_s, protocol=protocol))
        return True

    def on_heartbeat(self, device: str, beat: Heartbeat) -> bool:
        """Note a sign of life; False in a session that no hello has opened: only a hello shows the key."""
        known = self._devices.get(device)
        if known is None or known.session != beat.session:
            return False
        known.heard(self._clock())
        known.beat(beat.task)
        self._newcomers.heard(device)
        rss = int(beat.health.get("rss_bytes", 0))
        total = rss + int(beat.health.get("worker_rss_bytes", 0))
        known.note(health=beat.health, idle=rss if beat.task is None else 0, peak=total)
        return True

    def on_sign_of_life(self, device: str) -> None:
        """Any other message: it is there."""
        known = self._devices.get(device)
        if known is not None:
            known.heard(self._clock())

    def on_goodbye(self, device: str, goodbye: Goodbye) -> bool:
        """Note that a device left; False where the message is of an earlier session."""
        known = self._devices.get(device)
        if known is None or known.session != goodbye.session or not known.online:
            return False
        known.gone(self._clock(), goodbye.reason or "goodbye")
        return True

    # -- time, operator, broker ---------------------------------------------------------

    def tick(self, now: float) -> None:
        """Devices that have been silent for too long are offline. Not called while the broker is away."""
        for known in self._devices.values():
            known.tick(now, self.silence_s)

    def on_connected(self) -> None:
        """The broker is (back) there: nobody's silence counts until now."""
        now = self._clock()
        for known in self._devices.values():
            known.reconnected(now, self.silence_s)

    def refresh(self) -> dict[str, Enrolment | None]:
        """Read the operator's decisions; returns those that are new, by device. None: it was forgotten."""
        changed: dict[str, Enrolment | None] = {}
        pins = self._store.pins()
        # Newcomers are written some time after they came: only who is written can be forgotten by the operator.
        for device in self._devices.keys() - {pin.device for pin in pins} - self._introductions.keys():
            log.info("%s is forgotten", device)
            del self._devices[device]
            self._newcomers.drop(device)
            changed[device] = None
        for pin in pins:
            known = self._devices.get(pin.device)
            if known is not None:
                known.rekey = pin.rekey
            if known is not None and known.enrolment is not pin.enrolment:
                self._accepted += (pin.enrolment is Enrolment.ACCEPTED) - known.accepted
                known.enrolment = pin.enrolment
                self._newcomers.drop(pin.device)
                changed[pin.device] = pin.enrolment
                log.info("%s: %s", pin.device, pin.enrolment.value)
                self._outgoing.send(pin.device, Welcome(pin.enrolment, self._heartbeat_s))
        return changed

    def flush(self) -> None:
        """Write what was noted since the last flush."""
        forgotten, self._forgotten = self._forgotten, set()
        hellos, self._introductions = self._introductions, {}
        if forgotten:
            log.warning("%d devices that nobody has accepted are forgotten: too many are new", len(forgotten))
            self._store.forget(forgotten - hellos.keys())
        if hellos:
            self._store.introduce(hellos)
            for device, hello in hellos.items():
                protocol = common_protocol(hello.protocol) or PROTOCOL
                self._outgoing.spare(
                    device, Welcome(self._devices[device].enrolment, self._heartbeat_s, protocol=protocol)
                )
        notes = [note for known in self._devices.values() if (note := known.take_note()) is not None]
        if notes:
            self._store.note_presence(notes)

    def _welcome_newcomer(self, device: str) -> None:
        """Room for one that nobody has accepted: the oldest of its kind has to go for it."""
        gone = self._newcomers.add(device)
        if gone is not None:
            del self._devices[gone]
            self._introductions.pop(gone, None)
            self._forgotten.add(gone)
        self._forgotten.discard(device)

    def _may_accept(self) -> bool:
        """True where a new device is let in at once: so many of them, for anybody can be as many as it likes."""
        return self._auto_accept and self._accepted < self._most_accepted

    def _refuse(self, device: str, said: str, reason: str) -> None:
        """Tell the log, as often as it bears, and the device, where there is a ``reason`` for it."""
        if self._refusals_told.take(1.0, self._clock()):
            log.warning("%s %s", device, said)
        if reason:
            self._outgoing.spare(device, Welcome(Enrolment.REJECTED, self._heartbeat_s, reason))

    def note_peak(self, device: str, peak_rss_bytes: int) -> None:
        """A task's peak memory."""
        known = self._devices.get(device)
        if known is not None and peak_rss_bytes:
            known.note(peak=peak_rss_bytes)

    def _latest(self, row: DeviceRow) -> DeviceRow:
        """What is not written yet counts already."""
        health = self._devices[row.device].health
        return row if health is None else replace(row, health=health)

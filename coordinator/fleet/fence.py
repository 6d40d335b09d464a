"""One boundary around what a device says: what is wrong costs that message, and in the end that device's."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from tinyfleet.coordinator.config import AllowanceSettings
from tinyfleet.coordinator.errors import StoreError
from tinyfleet.coordinator.fleet.strangers_log import StrangersLog
from tinyfleet.coordinator.store.devices import Devices
from tinyfleet.coordinator.wire.allowance import Allowance
from tinyfleet.fedcore.errors import CodecError, Unauthentic
from tinyfleet.fedcore.foreign.seldom import Seldom
from tinyfleet.fedcore.foreign.shown import printable

log = logging.getLogger(__name__)

_MOST_STRANGERS = 1000  # names that are watched; of those that spoke longest ago nothing is kept
_SHOWN = 300  # characters of a reason


class _Sender:
    """What is kept of one device: as little as may be, for anybody can be a thousand of them."""

    __slots__ = (
        "bytes",
        "faults",
        "hellos",
        "messages",
        "quarantined_until",
    )

    def __init__(self, limits: AllowanceSettings, now: float) -> None:
        self.messages = Allowance(limits.messages_per_s, limits.messages_at_once, now)
        self.bytes = Allowance(limits.bytes_per_s, limits.bytes_at_once, now)
        self.hellos = Allowance(limits.hellos_per_s, limits.hellos_at_once, now)
        self.faults: list[float] = []  # when, in seconds of the clock
        self.quarantined_until = 0.0


class Charge(StrEnum):
    """Whose allowance a message is taken from."""

    DEVICE = "device"
    """Its sender's: it has signed it, and not said it before."""
    FORGERS = "forgers"
    """Of all together who speak in devices' names: work was done to find out that the device did not say it now."""
    NOBODY = "nobody"
    """Seen at a glance that the device did not say it now."""


@dataclass(slots=True)
class Handling:
    """What is being handled; ``kind`` and ``charge`` are known better once it has been read."""

    kind: str
    charge: Charge = Charge.DEVICE


class Fence:
    """Lets messages in, and nothing out: only ``StoreError``, for then nothing can be written any more.

    A message that is none, or that breaks what handles it, is a fault of the device that has signed it. What nobody
    has signed is nobody's fault, or anybody could have a device put in quarantine. A device with too many of them
    within ``quarantine_s`` is quarantined for as long: its messages are dropped unread. ``member`` tells a device
    that the operator has accepted from one that anybody can be: of those all together so many a second are read,
    and what they do wrong is told all together. Where the broker lets anybody speak in a device's name, what the
    device did not say is not taken from its allowance, until all that has to be verified is too much.
    """

    def __init__(
        self,
        store: Devices,
        limits: AllowanceSettings,
        clock: Callable[[], float],
        member: Callable[[str], bool] = lambda device: True,
    ) -> None:
        self._store, self._limits, self._clock, self._member = store, limits, clock, member
        self._members: dict[str, _Sender] = {}
        self._strangers: OrderedDict[str, _Sender] = OrderedDict()
        self._all_strangers = Allowance(limits.strangers_per_s, limits.strangers_at_once, clock())
        self._forgers = Allowance(limits.strangers_per_s, limits.strangers_at_once, clock())
        self._about_strangers = StrangersLog(limits.quarantine_s)
        self._said = Seldom(limits.quarantine_s)
        self._quarantined: set[str] = set()
        store.end_quarantines()

    def admits(self, device: str, size: int) -> bool:
        """False where a message of ``size`` bytes is to be dropped unread."""
        now, member = self._clock(), self._member(device)
        if not member and not self._all_strangers.take(1.0, now):
            self._about_strangers.over(device, now)
            return False
        sender = self._sender(device, member=member)
        if now < sender.quarantined_until:
            return False
        if sender.messages.take(1.0, now) and sender.bytes.take(size, now):
            return True
        self._over(device, now, "messages")
        return False

    def admits_hello(self, device: str) -> bool:
        """False for a hello beyond the device's allowance: each costs a write to the disk."""
        sender, now = self._sender(device, member=self._member(device)), self._clock()
        if sender.hellos.take(1.0, now):
            return True
        self._over(device, now, "hellos")
        return False

    @contextmanager
    def around(self, device: str, kind: str, size: int) -> Iterator[Handling]:
        """Whatever goes wrong inside, with an admitted message of ``size`` bytes, is a fault of its sender."""
        handling = Handling(kind)
        try:
            yield handling
            self._settle(device, size, handling.charge)
        except StoreError:
            raise
        except Unauthentic as error:
            self._settle(device, size, handling.charge)
            self._unauthentic(device, str(error))
        except CodecError as error:
            if self._member(device):
                log.warning("from %s: %s dropped: %s", device, handling.kind, printable(str(error), _SHOWN))
            else:
                self._about_strangers.fault(device, handling.kind, str(error), self._clock())
            self._fault(device, handling.kind, str(error))
        except OSError as error:
            # The disk's fault, not the device's: what is dropped here is asked for again.
            log.warning("from %s: %s dropped, it cannot be kept: %s", device, handling.kind, error)
        except Exception as error:
            if self._member(device) or self._about_strangers.fault(
                device, handling.kind, repr(error), self._clock()
            ):
                log.exception("from %s: a %s broke what handles it, and is dropped", device, handling.kind)
            self._fault(device, handling.kind, repr(error))

    def tick(self, now: float) -> None:
        """Who has been quarantined for long enough is heard again."""
        for device in [name for name in self._quarantined if now >= self._until(name)]:
            self._quarantined.discard(device)
            self._store.set_quarantine(device, "")
            log.warning("%s is no longer quarantined", device)

    # -- inside -------------------------------------------------------------------------

    def _settle(self, device: str, size: int, charge: Charge) -> None:
        if charge is Charge.DEVICE or not self._member(device):
            return
        if charge is Charge.NOBODY or self._forgers.take(1.0, self._clock()):
            sender = self._sender(device, member=True)
            sender.messages.give_back(1.0)
            sender.bytes.give_back(size)

    def _fault(self, device: str, kind: str, reason: str) -> None:
        member = self._member(device)
        sender, now, limits = self._sender(device, member=member), self._clock(), self._limits
        sender.faults = [at for at in sender.faults if at >= now - limits.quarantine_s] + [now]
        if len(sender.faults) < limits.faults:
            return
        sender.faults = []
        sender.quarantined_until = now + limits.quarantine_s
        if not member:
            return  # there may be thousands: neither the log nor the disk is theirs to fill
        self._quarantined.add(device)
        why = f"{limits.faults} faults, the last a {kind}: {printable(reason, _SHOWN)}"
        self._store.set_quarantine(device, why)
        log.warning("%s is quarantined for %g s: %s", device, limits.quarantine_s, why)

    def _over(self, device: str, now: float, what: str) -> None:
        if not self._member(device):
            self._about_strangers.over(device, now)
            return
        if dropped := self._said.times(("over", device), now):
            log.warning("%s sends more %s than it may: %d dropped unread", device, what, dropped)

    def _until(self, device: str) -> float:
        sender = self._members.get(device)
        return 0.0 if sender is None else sender.quarantined_until

    def _unauthentic(self, device: str, reason: str) -> None:
        now = self._clock()
        if not self._member(device):
            self._about_strangers.fault(device, "message that it has not signed", reason, now)
        elif dropped := self._said.times(("unsigned", device), now):
            what = printable(reason, _SHOWN)
            log.warning("%d messages of %s dropped, which it has not signed: %s", dropped, device, what)

    def _sender(self, device: str, *, member: bool) -> _Sender:
        if member:
            sender = self._members.get(device)
            if sender is None:
                sender = self._strangers.pop(device, None) or _Sender(self._limits, self._clock())
                self._members[device] = sender
            return sender
        sender = self._strangers.get(device)
        if sender is None:
            sender = self._strangers[device] = _Sender(self._limits, self._clock())
            if len(self._strangers) > _MOST_STRANGERS:
                self._strangers.popitem(last=False)
        else:
            self._strangers.move_to_end(device)
        return sender

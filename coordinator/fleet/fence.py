"""One boundary around what a device says: what is wrong costs that message, and in the end that device's."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tinyfleet.coordinator.config import AllowanceSettings
from tinyfleet.coordinator.errors import StoreError
from tinyfleet.coordinator.store.devices import Devices
from tinyfleet.coordinator.wire.allowance import Allowance
from tinyfleet.fedcore.errors import CodecError, Unauthentic
from tinyfleet.fedcore.foreign.shown import printable

log = logging.getLogger(__name__)

_MOST_SENDERS = 20_000  # names that are watched; of those that spoke longest ago nothing is kept
_SHOWN = 300  # characters of a reason


@dataclass(slots=True)
class _Sender:
    messages: Allowance
    bytes: Allowance
    hellos: Allowance
    faults: deque[float] = field(default_factory=deque)  # when, in seconds of the clock
    quarantined_until: float = 0.0
    over: int = 0  # messages beyond its allowance since that was last said
    unauthentic: int = 0  # messages that it has not signed, likewise
    unauthentic_said_at: float = float("-inf")
    said_at: float = float("-inf")


@dataclass(slots=True)
class Handling:
    """What is being handled; ``kind`` is known better once it has been read."""

    kind: str


class Fence:
    """Lets messages in, and nothing out: only ``StoreError``, for then nothing can be written any more.

    A message that is none, or that breaks what handles it, is a fault of the device that has signed it. What nobody
    has signed is nobody's fault, or anybody could have a device put in quarantine. A device with too many of them
    within ``quarantine_s`` is quarantined for as long: its messages are dropped unread.
    """

    def __init__(self, store: Devices, limits: AllowanceSettings, clock: Callable[[], float]) -> None:
        self._store, self._limits, self._clock = store, limits, clock
        self._senders: OrderedDict[str, _Sender] = OrderedDict()
        self._quarantined: set[str] = set()
        store.end_quarantines()

    def admits(self, device: str, size: int) -> bool:
        """False where a message of ``size`` bytes is to be dropped unread."""
        sender, now = self._sender(device), self._clock()
        if now < sender.quarantined_until:
            return False
        if sender.messages.take(1.0, now) and sender.bytes.take(size, now):
            return True
        self._over(device, sender, now, "messages")
        return False

    def admits_hello(self, device: str) -> bool:
        """False for a hello beyond the device's allowance: each costs a write to the disk."""
        sender, now = self._sender(device), self._clock()
        if sender.hellos.take(1.0, now):
            return True
        self._over(device, sender, now, "hellos")
        return False

    @contextmanager
    def around(self, device: str, kind: str) -> Iterator[Handling]:
        """Whatever goes wrong inside is a fault of the device that sent it."""
        handling = Handling(kind)
        try:
            yield handling
        except StoreError:
            raise
        except Unauthentic as error:
            self._unauthentic(device, str(error))
        except CodecError as error:
            log.warning("from %s: %s dropped: %s", device, handling.kind, printable(str(error), _SHOWN))
            self._fault(device, handling.kind, str(error))
        except OSError as error:
            # The disk's fault, not the device's: what is dropped here is asked for again.
            log.warning("from %s: %s dropped, it cannot be kept: %s", device, handling.kind, error)
        except Exception as error:
            log.exception("from %s: a %s broke what handles it, and is dropped", device, handling.kind)
            self._fault(device, handling.kind, repr(error))

    def tick(self, now: float) -> None:
        """Who has been quarantined for long enough is heard again."""
        for device in [name for name in self._quarantined if now >= self._sender(name).quarantined_until]:
            self._quarantined.discard(device)
            self._store.set_quarantine(device, "")
            log.warning("%s is no longer quarantined", device)

    # -- inside -------------------------------------------------------------------------

    def _fault(self, device: str, kind: str, reason: str) -> None:
        sender, now, limits = self._sender(device), self._clock(), self._limits
        sender.faults.append(now)
        while sender.faults[0] < now - limits.quarantine_s:
            sender.faults.popleft()
        if len(sender.faults) < limits.faults:
            return
        sender.faults.clear()
        sender.quarantined_until = now + limits.quarantine_s
        self._quarantined.add(device)
        why = f"{limits.faults} faults, the last a {kind}: {printable(reason, _SHOWN)}"
        self._store.set_quarantine(device, why)
        log.warning("%s is quarantined for %g s: %s", device, limits.quarantine_s, why)

    def _over(self, device: str, sender: _Sender, now: float, what: str) -> None:
        sender.over += 1
        if now - sender.said_at >= self._limits.quarantine_s:
            log.warning("%s sends more %s than it may: %d dropped unread", device, what, sender.over)
            sender.over, sender.said_at = 0, now

    def _unauthentic(self, device: str, reason: str) -> None:
        sender, now = self._sender(device), self._clock()
        sender.unauthentic += 1
        if now - sender.unauthentic_said_at >= self._limits.quarantine_s:
            what = printable(reason, _SHOWN)
            log.warning("%d messages of %s dropped, which it has not signed: %s", sender.unauthentic, device, what)
            sender.unauthentic, sender.unauthentic_said_at = 0, now

    def _sender(self, device: str) -> _Sender:
        sender = self._senders.get(device)
        if sender is None:
            limits, now = self._limits, self._clock()
            sender = self._senders[device] = _Sender(
                Allowance(limits.messages_per_s, limits.messages_at_once, now),
                Allowance(limits.bytes_per_s, limits.bytes_at_once, now),
                Allowance(limits.hellos_per_s, limits.hellos_at_once, now),
            )
            while len(self._senders) > _MOST_SENDERS:
                gone, _ = self._senders.popitem(last=False)
                self._quarantined.discard(gone)
        else:
            self._senders.move_to_end(device)
        return sender

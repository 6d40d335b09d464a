"""The coordinator's part in its fleet's certificates: it signs renewals, asks for them, and renews its own."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tinyfleet.coordinator.fleet.turns import Turns
from tinyfleet.coordinator.wire.outgoing import Outgoing
from tinyfleet.fedcore.errors import ConfigError, TinyfleetError
from tinyfleet.fedcore.protocol.messages import (
    CertificateInUse,
    RenewalGrant,
    RenewalRefused,
    RenewalRequest,
    RenewalWanted,
)
from tinyfleet.fedcore.tls.context import TlsFiles

if TYPE_CHECKING:
    from tinyfleet.coordinator.fleet.authority import Authority

log = logging.getLogger(__name__)

OWN = "coordinator"  # the name in its certificate
DIRECTORY = "authority"  # beside the coordinator's state, where the settings name no other
LOOK_S = 10.0  # how soon a replaced authority is noticed
OWN_S, OWN_AFTER_FAULT_S = 3600.0, 900.0  # how often the own certificate's age is looked at
SIGN_S, NOTE_S = 10.0, 1.0  # between two answers to one device, and two notes of its certificate
WANT_S, WANT_AGAIN_S = 0.2, 900.0  # between two devices that are told to renew; between two times for one


class Certificates:
    """``directory`` is the authority's, ``named`` by the operator or not; it may be made while this runs.

    ``files`` are the coordinator's own, None where it shows none; ``broker`` is the URL where a new one is tried.
    Raises ``ConfigError`` and ``AuthorityError`` where an authority that was named cannot be opened.
    """

    def __init__(
        self,
        directory: Path,
        files: TlsFiles | None,
        broker: str,
        *,
        named: bool,
        outgoing: Outgoing,
        reconnect: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._directory, self._files, self._broker = directory, files, broker
        self._outgoing, self._reconnect, self._clock = outgoing, reconnect, clock
        self._authority: Authority | None = None
        self._fault = ""  # why there is none
        self._seen: object = None  # of the file that every change of an authority touches
        self._behind: set[str] = set()
        self._requests = Turns[RenewalRequest](SIGN_S)
        self._serials = Turns[CertificateInUse](NOTE_S)
        self._wanted: dict[str, float] = {}  # when it was last told to renew
        self._next_look = self._next_own = self._next_want = clock()
        self._own: queue.SimpleQueue[bool | str] = queue.SimpleQueue()  # what became of the renewal of the own one
        self._renewing = False
        if files is not None and (why := files.fixed()):
            log.warning("the coordinator's own certificate will not renew itself: %s", why)
        if named and self._open() is None:
            raise ConfigError(f"authority {directory}: {self._fault}")

    # -- what devices say -------------------------------------------------------------------

    def asked(self, device: str, request: RenewalRequest) -> None:
        """A device wants its next certificate: answered at once, or when it is its turn again."""
        self._requests.put(device, request)
        self._take_turns(self._clock())

    def in_use(self, device: str, message: CertificateInUse) -> None:
        """A device came with this certificate. One that was not signed here is another authority's business."""
        self._serials.put(device, message)
        self._take_turns(self._clock())

    def heard(self, device: str) -> None:
        """A device that is there, and may have to renew: one after another, and each again until it is done.

        The coordinator goes first: if the broker does not take its new certificate, it takes nobody's.
        """
        if device not in self._behind or (self._files is not None and OWN in self._behind):
            return
        now = self._clock()
        if now < self._next_want or now - self._wanted.get(device, -WANT_AGAIN_S) < WANT_AGAIN_S:
            return
        self._next_want, self._wanted[device] = now + WANT_S, now
        self._outgoing.send(device, RenewalWanted())

    # -- time -------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Look at the authority, and at the age of the own certificate."""
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            self._look()
        self._take_turns(now)
        if self._renewing:
            self._look_at_own(now)
        elif self._files is not None and now >= self._next_own:
            self._next_own = now + OWN_S
            self._renew_own()

    # -- inside -----------------------------------------------------------------------------

    def _take_turns(self, now: float) -> None:
        for device, request in self._requests.take(now):
            self._answer(device, request)
        for device, message in self._serials.take(now):
            self._note(device, message.serial)

    def _answer(self, device: str, request: RenewalRequest) -> None:
        """What is refused is a warning here too."""
        authority = self._open()
        reply: RenewalGrant | RenewalRefused
        if authority is None:
            reply = RenewalRefused(f"{self._fault}; renew by hand: tinyfleet ca renew {device}")
        else:
            from tinyfleet.coordinator.fleet.authority import answer

            try:
                reply = answer(authority, device, request)
            except Exception as error:  # one bad request costs one request
                log.exception("the request of %s breaks what answers it", device)
                reply = RenewalRefused(f"it cannot be answered: {type(error).__name__}")
        if isinstance(reply, RenewalRefused):
            log.warning("the certificate of %s is not renewed: %s", device, reply.reason)
        else:
            log.info("the certificate of %s is renewed", device)
        self._outgoing.send(device, reply)

    def _note(self, device: str, serial: str) -> None:
        authority = self._open()
        if authority is None:
            return
        try:
            authority.confirm(device, serial)
            if device in self._behind and not authority.behind(device):
                self._behind.discard(device)
                log.info("%s came with a certificate of the new authority; %d to go", device, len(self._behind))
        except TinyfleetError as error:
            log.info("%s: %s", device, error)

    def _open(self) -> Authority | None:
        """The authority, opened where it is there and was not open yet; else ``_fault`` says why not."""
        if self._authority is not None:
            return self._authority
        if not self._directory.exists():
            self._fault = f"this coordinator holds no certificate authority in {self._directory}"
            return None
        from tinyfleet.coordinator.fleet.authority import Authority  # 10 MB, where there is one

        try:
            self._authority = Authority(self._directory)
        except (TinyfleetError, OSError) as error:
            self._fault = str(error)
        return self._authority

    def _look(self) -> None:
        """Notice a rotation: its file is replaced, whoever did it."""
        authority = self._open()
        if authority is None:
            return
        try:
            seen = authority.trust_path.stat()
            if (seen.st_ino, seen.st_mtime_ns) == self._seen:
                return
            self._behind = authority.all_behind()
        except (TinyfleetError, OSError) as error:
            log.warning("the authority cannot be read: %s", error)
            return
        self._seen = (seen.st_ino, seen.st_mtime_ns)
        self._wanted.clear()
        if self._behind:
            log.info("the authority was replaced: %d certificates are to be renewed", len(self._behind))
        if OWN in self._behind:
            self._next_own = min(self._next_own, self._clock())

    def _renew_own(self) -> None:
        """In a thread: it waits for the disk, and for the broker's answer to the new certificate."""
        authority, files = self._open(), self._files
        if authority is None or files is None:
            return

        def work() -> None:
            from tinyfleet.coordinator.fleet.authority import renew_own

            try:
                self._own.put(renew_own(authority, files, self._broker))
            except (TinyfleetError, OSError, ValueError) as error:
                self._own.put(str(error))

        self._renewing = True
        threading.Thread(target=work, name="own-certificate", daemon=True).start()

    def _look_at_own(self, now: float) -> None:
        try:
            became = self._own.get_nowait()
        except queue.Empty:
            return
        self._renewing = False
        if isinstance(became, str):
            self._next_own = now + OWN_AFTER_FAULT_S
            log.warning(
                "the coordinator's own certificate is not renewed: %s; trying again in %.0f min",
                *(became, OWN_AFTER_FAULT_S / 60),
            )
        elif became:
            log.info("the coordinator's own certificate was renewed")
            self._seen = None  # look again who else is behind
            self._reconnect()

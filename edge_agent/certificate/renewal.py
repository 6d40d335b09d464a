"""A device's certificate renews itself: asked for over the connection that it opened, installed by a child.

The key in use proves who asks. ``cryptography`` works in the child alone: the supervisor stays small.
"""

from __future__ import annotations

import contextlib
import logging
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from tinyfleet.fedcore.child import last_line
from tinyfleet.fedcore.files import read_file
from tinyfleet.fedcore.protocol.messages import CertificateInUse, Message, RenewalGrant, RenewalRequest
from tinyfleet.fedcore.tls.context import TlsFiles
from tinyfleet.fedcore.tls.validity import lasting, renewal_due, serial_number, validity

logger = logging.getLogger(__name__)

LOOK_S = 3600.0  # how often the certificate's age is looked at
ANSWER_S = 60.0
CHILD_S = 120.0  # a loaded board imports cryptography in seconds
# After a failure: a twentieth of what is left of the certificate, within these.
LEAST_PAUSE_S, LONGEST_PAUSE_S = 600.0, 86_400.0
_CHILD_LOOK_S = 0.01
_MODULE = "tinyfleet.fedcore.certificates.renewal"


class Renewal:
    """One certificate's. ``files`` None: this device has none, and nothing happens. Call ``tick`` again and again.

    ``broker`` is the URL at which a new certificate is tried before it takes the place of the present one;
    ``clock`` is monotonic, ``wall_clock`` Unix time, both in seconds.
    """

    def __init__(
        self,
        files: TlsFiles | None,
        broker: str,
        *,
        send: Callable[[Message], None],
        reconnect: Callable[[], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.fault = ""  # why the last attempt came to nothing
        self._files, self._broker = files, broker
        self._send, self._reconnect = send, reconnect
        self._clock, self._wall_clock, self._rng = clock, wall_clock, rng
        self._wanted = False
        self._next_look = clock()
        self._child: subprocess.Popen[bytes] | None = None
        self._feed: bytes | None = None
        self._then: Callable[[bytes], None] = self._ask  # what the child's answer is for
        self._until = 0.0  # of the child, or of the coordinator's answer
        self._asked = False
        if files is not None and (why := files.fixed()):
            self.fault = why  # said now, and not for the first time in the last third of its life
            logger.warning("the certificate will not renew itself: %s", why)

    # -- what the coordinator says --------------------------------------------------------

    def welcomed(self) -> None:
        """Tell which certificate opened this connection: so the authority learns that it has arrived."""
        if self._files is None:
            return
        with contextlib.suppress(OSError, ValueError):  # unreadable: the next look tells
            self._send(CertificateInUse(serial_number(read_file(self._certificate).decode("ascii"))))

    def wanted(self) -> None:
        """The authority was replaced: do not wait for the certificate's age, only for the pause after a failure."""
        if not self._wanted and self._files is not None and not self.fault:
            self._next_look = min(self._next_look, self._clock())
        self._wanted = True

    def granted(self, grant: RenewalGrant) -> None:
        """The answer to what was asked; one that nobody asked for is ignored."""
        if self._asked:
            self._asked = False
            self._start("install", self._installed, msgspec.json.encode(grant), self._broker)

    def refused(self, reason: str) -> None:
        """The coordinator will not renew it."""
        if self._asked:
            self._failed(f"the coordinator refuses: {reason}")

    # -- time -----------------------------------------------------------------------------

    def tick(self, *, accepted: bool) -> None:
        """Move on what can move; ``accepted`` where the coordinator listens to this device."""
        if self._files is None:
            return
        now = self._clock()
        if self._child is not None:
            self._look_at_child(self._child, now)
        elif self._asked:
            if now >= self._until:
                self._failed("the coordinator did not answer; has it the fleet's authority?")
        elif accepted and now >= self._next_look:
            self._next_look = now + LOOK_S
            if self._due():
                self._start("prepare", self._ask)

    def close(self) -> None:
        """End the child, at any instant: its files are replaced whole."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    # -- inside ---------------------------------------------------------------------------

    @property
    def _certificate(self) -> Path:
        return Path((self._files.certificate if self._files else None) or "")

    def _due(self) -> bool:
        try:
            return renewal_due(self._certificate, self._wall_clock()) or self._wanted
        except (OSError, ValueError) as error:
            self._failed(f"{self._certificate}: {error}")
            return False

    def _start(self, action: str, then: Callable[[bytes], None], feed: bytes = b"", *arguments: str) -> None:
        files = self._files or TlsFiles()
        names = (files.authorities or "", files.certificate or "", files.key or "")
        pipe = subprocess.PIPE
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", _MODULE, action, *names, *arguments],
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                start_new_session=True,  # a Ctrl-C in a terminal is the agent's to handle
            )
        except OSError as error:
            self._failed(f"no process for it: {error.strerror}")
            return
        self._feed, self._then, self._until = feed, then, self._clock() + CHILD_S

    def _look_at_child(self, child: subprocess.Popen[bytes], now: float) -> None:
        feed, self._feed = self._feed, None  # said once; what is left of it goes on with the next look
        try:
            said, complaint = child.communicate(feed, _CHILD_LOOK_S)
        except subprocess.TimeoutExpired:  # which loses nothing
            if now >= self._until:
                self.close()
                self._failed(f"its process did not end within {CHILD_S:.0f} s")
            return
        self._child = None
        if child.returncode == 0:
            self._then(said)
        else:
            self._failed(last_line(complaint) or f"its process ended with {child.returncode}")

    def _ask(self, said: bytes) -> None:
        self._send(msgspec.json.decode(said, type=RenewalRequest))
        self._asked, self._until = True, self._clock() + ANSWER_S

    def _installed(self, said: bytes) -> None:
        self.fault, self._wanted = "", False
        told = lasting(self._certificate, self._wall_clock())
        logger.info("the certificate was renewed: serial %s, %s", said.decode(), told)
        self._reconnect()

    def _failed(self, why: str) -> None:
        """Said each time, and tried again sparsely: most causes are somebody's to mend."""
        self._asked = False
        pause = min(LONGEST_PAUSE_S, max(LEAST_PAUSE_S, self._left_s() / 20)) * self._rng.uniform(0.75, 1.25)
        self._next_look = self._clock() + pause
        self.fault = why
        logger.warning(
            "the certificate (%s) is not renewed: %s; trying again in %.1f h",
            lasting(self._certificate, self._wall_clock()),
            why,
            pause / 3600,
        )

    def _left_s(self) -> float:
        try:
            return validity(read_file(self._certificate).decode("ascii")).not_after - self._wall_clock()
        except (OSError, ValueError):
            return 0.0

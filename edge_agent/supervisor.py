"""The agent's one thread: broker events in, messages out, clocks minded. It never trains and never blocks.

Nothing here, nor anything it imports, may load numpy, an engine or cryptography: the supervisor
stays below 30 MB for as long as the board is up, and a test measures it.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tinyfleet.device_profiles.sensors.read import read_health
from tinyfleet.edge_agent.config import AgentConfig
from tinyfleet.edge_agent.guards.guards import Guards, reader
from tinyfleet.edge_agent.identity import Identity
from tinyfleet.edge_agent.states import LINK_TABLE, Link, LinkEvent, Task
from tinyfleet.edge_agent.status import StatusFile
from tinyfleet.edge_agent.task.assignment import Assignments
from tinyfleet.edge_agent.task.inbox import Inbox
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.edge_agent.task.uploads import Uploads
from tinyfleet.edge_agent.worker.budget import Governor
from tinyfleet.edge_agent.worker.pauses import Pauses
from tinyfleet.edge_agent.worker.slot import StartWorker
from tinyfleet.fedcore.errors import CodecError, TransportError
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.messages import (
    ChunkRequest,
    Enrolment,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    ResultVerdict,
    RunEnded,
    TaskCancel,
    TaskOffer,
    TaskState,
    TaskStatus,
    Traffic,
    Verdict,
    Welcome,
    decode_down,
    encode,
)
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Event, Received, Transport, Will

logger = logging.getLogger(__name__)

HELLO_REPEAT_S = 5.0
REOFFER_S = 10.0
# How long the loop may sleep: while it waits, for a worker's event, and while the send window is full. Each turn
# while a worker trains is taken from its training; what a task's end waits is nothing beside the task.
_IDLE_WAIT_S, _TRAINING_WAIT_S, _SENDING_WAIT_S = 0.5, 0.1, 0.005
# Broker events taken in before the clocks are minded again.
_EVENTS_A_TURN = 64
# A control message waits no longer for the window: the loop must go on.
_PUBLISH_TIMEOUT_S = 5.0

_WELCOMED = {
    Enrolment.PENDING: LinkEvent.WELCOMED_PENDING,
    Enrolment.ACCEPTED: LinkEvent.WELCOMED_ACCEPTED,
    Enrolment.REJECTED: LinkEvent.WELCOMED_REJECTED,
}


@dataclass(frozen=True, slots=True)
class Board:
    """What Hello tells of this board; found out once, by a child process."""

    engines: tuple[str, ...]
    samples: int
    profile: dict[str, Any] = field(default_factory=dict)
    version: str = "0"


class Supervisor:
    """Single-threaded: call ``run``, or ``open`` and then ``turn`` again and again."""

    def __init__(
        self,
        identity: Identity,
        config: AgentConfig,
        board: Board,
        transport: Transport,
        *,
        state: Path,
        governor: Governor,
        outbox: Outbox,
        inbox: Inbox,
        start_worker: StartWorker,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.link = Link.OFFLINE
        self.session = os.urandom(8).hex()
        self._identity = identity
        self._state = state
        self._board = board
        self._transport = transport
        self._governor = governor
        self._outbox = outbox
        self._clock = clock
        self._rng = rng
        self._up = topics.up(identity.device)
        self._down = topics.down(identity.device)
        self._down_chunk = topics.down_chunk(identity.device)
        self._uploads = Uploads(outbox, transport, topics.up_chunk(identity.device))
        self._sensors, self._sensor_options = config.sensors, config.sensors.options(state)
        guards = Guards(
            config.guards.limits(self._sensor_options), reader(self._sensors.disabled, self._sensor_options), clock
        )
        self.assignments = Assignments(
            identity.device,
            config,
            state,
            governor=governor,
            inbox=inbox,
            outbox=outbox,
            start_worker=start_worker,
            pauses=Pauses(guards, clock),
            say=self._say,
            clock=clock,
        )
        self._process = psutil.Process()
        self._status = StatusFile(state / "status.json", identity.device, self.session)
        self._heartbeat_s = 5.0
        self._next_hello = self._next_heartbeat = self._next_offers = 0.0
        self._counted = Traffic()  # socket bytes that earlier tasks have been charged with

    # -- the loop -----------------------------------------------------------------------------

    def run(self, stopping: Callable[[], bool]) -> None:
        """Serve until ``stopping``; then say goodbye and end the worker."""
        self.open()
        try:
            while not stopping():
                self.turn(self._patience())
        finally:
            self.close()

    def open(self) -> None:
        """Start connecting. The last will tells the coordinator when this board vanishes."""
        will = Will(self._up, encode(Goodbye(self.session, "connection lost")))
        self._transport.open((self._down, self._down_chunk), will)

    def close(self) -> None:
        """Goodbye, worker ended, disconnected."""
        self.assignments.stop()
        self._say(Goodbye(self.session, "the agent was stopped"))
        self._transport.close()
        self._status.write("stopped", self.assignments.state, None)

    def turn(self, timeout: float) -> None:
        """Take in what has come, waiting at most ``timeout`` seconds, then move on what can move."""
        event, left = self._transport.receive(timeout), _EVENTS_A_TURN
        while event is not None:
            self._handle(event)
            left -= 1
            event = self._transport.receive(0.0) if left else None
        self.assignments.tick()
        self._mind_clocks()
        self._pump()
        self._status.write(self.link, self.assignments.state, self.assignments.key)

    def _patience(self) -> float:
        if self._uploads.waiting and self._transport.connected:
            return _SENDING_WAIT_S
        if self.assignments.state is Task.TRAINING:
            return min(_TRAINING_WAIT_S, self.assignments.patience_s)
        return _IDLE_WAIT_S

    # -- what comes in --------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case Connected():
                self._step(LinkEvent.CONNECTED)
                logger.info("connected")
                self._uploads.clear()
                self.assignments.reconnected()
                self._greet()
                self._offer_results()
            case Disconnected(reason):
                self._step(LinkEvent.DISCONNECTED)
                logger.warning("disconnected: %s; training goes on, connecting again", reason)
                self._uploads.clear()
            case Received(topic, payload):
                try:
                    self._received(topic, payload)
                except CodecError as error:
                    logger.warning("dropped a message on %s: %s", topic, error)

    def _received(self, topic: str, payload: bytes) -> None:
        """Only our own topics count: a broker without access rules delivers what it likes."""
        if topic == self._down_chunk:
            self.assignments.chunk(payload)
        elif topic == self._down:
            self._told(decode_down(payload))
        else:
            logger.debug("ignored a message on %s", topic)

    def _told(self, message: Message) -> None:
        match message:
            case Welcome():
                self._welcomed(message)
            case TaskOffer():
                self._offered(message)
            case TaskCancel(run, step, reason):
                self.assignments.cancelled(run, step, reason)
            case ResultVerdict():
                self._judged(message)
            case RunEnded(run):
                self.assignments.ended(run)
            case ChunkRequest(sha256):
                if not self._uploads.asked(message):
                    logger.info("asked for chunks of %s, which is not in the outbox", sha256[:12])
            case _:
                logger.debug("a %s is not for an agent", type(message).__name__)

    def _welcomed(self, welcome: Welcome) -> None:
        before = self.link
        self._step(_WELCOMED[welcome.enrolment])
        self._heartbeat_s = welcome.heartbeat_s
        self._next_heartbeat = min(self._next_heartbeat, self._clock() + welcome.heartbeat_s)
        if self.link is not before:
            logger.info("enrolment: %s%s", self.link.value, f" ({welcome.reason})" if welcome.reason else "")

    def _offered(self, offer: TaskOffer) -> None:
        """An offer may overtake its Welcome; to a device that is not accepted none should come."""
        if self.link in (Link.PENDING, Link.REJECTED):
            self.assignments.decline(offer, f"enrolment of this device is {self.link.value}")
        elif not self._board.engines:
            self.assignments.decline(offer, "no training engine is installed on this board")
        else:
            self.assignments.offered(offer)

    def _judged(self, verdict: ResultVerdict) -> None:
        """The coordinator has decided: the outbox lets go, and the task's traffic is told."""
        held = self._outbox.drop(verdict.run, verdict.step)
        if not held:
            return
        if verdict.verdict is Verdict.REFUSED:
            logger.warning("run %s step %d: result refused (%s)", verdict.run, verdict.step, verdict.reason)
            return
        traffic = self._traffic()
        since = Traffic(traffic.sent - self._counted.sent, traffic.received - self._counted.received)
        self._counted = traffic
        self._say(TaskStatus(verdict.run, verdict.step, TaskState.ACKNOWLEDGED, verdict.reason, traffic=since))

    # -- what goes out --------------------------------------------------------------------------

    def _mind_clocks(self) -> None:
        now = self._clock()
        if self.link is Link.OFFLINE:
            return
        if self.link is Link.GREETING and now >= self._next_hello:
            self._greet()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + self._heartbeat_s
            self._say(Heartbeat(self.session, self._task(), self._health(), self._traffic()))
        if now >= self._next_offers:
            self._offer_results()

    def _greet(self) -> None:
        """Hello, and its next repetition with jitter: a whole fleet reconnects in the same second."""
        self._next_hello = self._clock() + HELLO_REPEAT_S * self._rng.uniform(0.5, 1.5)
        board = self._board
        self._say(
            Hello(
                name=self._identity.device,
                public_key=self._identity.public_key,
                session=self.session,
                agent_version=board.version,
                engines=list(board.engines),
                profile=board.profile,
                samples=board.samples,
                memory_limit_bytes=self._governor.memory_limit_bytes,
                task=self._task(),
            )
        )

    def _offer_results(self) -> None:
        """Everything in the outbox, until a verdict comes."""
        self._next_offers = self._clock() + REOFFER_S
        for offer in self._outbox.offers():
            self._say(offer)

    def _pump(self) -> None:
        try:
            self._uploads.pump()
        except (TransportError, OSError) as error:
            logger.info("upload interrupted: %s", error)
            self._uploads.clear()

    def _say(self, message: Message) -> None:
        """Publish if there is a connection. What gets lost is said again or asked for again."""
        if not self._transport.connected:
            return
        try:
            self._transport.publish(self._up, encode(message), _PUBLISH_TIMEOUT_S)
        except TransportError as error:
            logger.info("%s not sent: %s", type(message).__name__, error)

    # -- facts ----------------------------------------------------------------------------------

    def _task(self) -> tuple[str, int] | None:
        """The task under way, else the oldest result that waits."""
        if self.assignments.key is not None:
            return self.assignments.key
        waiting = self._outbox.offers()
        return (waiting[0].run, waiting[0].step) if waiting else None

    def _traffic(self) -> Traffic:
        return Traffic(self._transport.bytes_sent, self._transport.bytes_received)

    def _health(self) -> dict[str, float]:
        return {
            "rss_bytes": float(self._process.memory_info().rss),
            "worker_rss_bytes": float(self.assignments.worker_rss_bytes),
            **read_health(disabled=self._sensors.disabled, options=self._sensor_options),
        }

    def _step(self, event: LinkEvent) -> None:
        if not LINK_TABLE.allows(self.link, event):
            logger.debug("%s means nothing while %s", event.value, self.link.value)
            return
        self.link = LINK_TABLE.after(self.link, event)

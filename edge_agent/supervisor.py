"""The agent's one thread: broker events in, messages out, clocks minded. It never trains and never blocks.

Nothing here, nor anything it imports, may load numpy, an engine or cryptography: the supervisor
stays below 30 MB for as long as the board is up, and a test measures it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

from tinyfleet.edge_agent.certificate.renewal import Renewal
from tinyfleet.edge_agent.config import AgentConfig
from tinyfleet.edge_agent.fleet.channel import Channel
from tinyfleet.edge_agent.fleet.pin import FleetPin
from tinyfleet.edge_agent.guards.guards import Guards, reader
from tinyfleet.edge_agent.identity import Identity
from tinyfleet.edge_agent.link import Link
from tinyfleet.edge_agent.self_report import Board, SelfReport, TaskKey
from tinyfleet.edge_agent.state_directory import STATUS
from tinyfleet.edge_agent.states import AssignmentState, LinkState
from tinyfleet.edge_agent.status import StatusFile
from tinyfleet.edge_agent.task.assignment import Assignment
from tinyfleet.edge_agent.task.delivery import Delivery
from tinyfleet.edge_agent.task.inbox import Inbox
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.edge_agent.worker.budget import Governor
from tinyfleet.edge_agent.worker.pauses import Pauses
from tinyfleet.edge_agent.worker.slot import StartWorker
from tinyfleet.fedcore.errors import CodecError, Unauthentic
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.messages import (
    Challenge,
    ChunkRequest,
    Enrolment,
    Heartbeat,
    Hello,
    HelloWanted,
    LeaseExtended,
    LeftOut,
    Message,
    RenewalGrant,
    RenewalRefused,
    RenewalWanted,
    ResultVerdict,
    RunEnded,
    TaskCancel,
    TaskOffer,
    Welcome,
)
from tinyfleet.fedcore.protocol.reach.watch import ReachWatch
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Event, Received, Transport, Will

logger = logging.getLogger(__name__)

# How long the loop may sleep: while it waits, for a worker's event, and while the send window is full. Each turn
# while a worker trains is taken from its training; what a task's end waits is nothing beside the task.
_IDLE_WAIT_S, _TRAINING_WAIT_S, _SENDING_WAIT_S = 0.5, 0.1, 0.005
# Broker events taken in before the clocks are minded again.
_EVENTS_A_TURN = 64


class Supervisor:
    """Single-threaded: call ``run``, or ``open`` and then ``turn`` again and again."""

    def __init__(
        self,
        identity: Identity,
        pin: FleetPin,
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
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        device = identity.device
        self._can_train = bool(board.engines)
        self._offered_to = ""  # the coordinator's session that has been told what waits here
        self._transport = transport
        self._up, self._down, self._down_chunk = topics.up(device), topics.down(device), topics.down_chunk(device)
        self._self_report = SelfReport(identity, board, config.sensors, state, governor.memory_limit_bytes)
        self._channel = Channel(identity, pin, self.session, clock)
        self.link = Link(
            transport,
            device,
            self._channel,
            hello=self._hello,
            heartbeat=self._heartbeat,
            clock=clock,
            rng=rng,
        )
        self._renewal = Renewal(
            config.broker.tls_files if config.broker.tls_cert else None,
            config.broker.url,
            send=self.link.send,
            reconnect=transport.reconnect,
            clock=clock,
            wall_clock=wall_clock,
            rng=rng,
        )
        self._delivery = Delivery(outbox, transport, topics.up_chunk(device), self.link.send, clock)
        sensors = config.sensors.options(state)
        guards = Guards(config.guards.limits(sensors), reader(config.sensors.disabled, sensors), clock)
        self.assignment = Assignment(
            device,
            config,
            state,
            governor=governor,
            inbox=inbox,
            outbox=outbox,
            start_worker=start_worker,
            pauses=Pauses(guards, clock),
            send=self._delivery.say,
            clock=clock,
        )
        self._watch = ReachWatch(logger, clock, wall_clock)
        self._status = StatusFile(state / STATUS, identity, self.session)

    @property
    def session(self) -> str:
        """Tells this start of the agent from every other."""
        return self._self_report.session

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
        self._transport.open((self._down, self._down_chunk), self._will)

    def _will(self) -> Will:
        """Signed anew for every connection: an old one that somebody has kept says nothing."""
        return Will(self._up, self._channel.will(self._self_report.goodbye("connection lost")))

    def close(self) -> None:
        """Goodbye, worker ended, disconnected."""
        self.assignment.stop()
        self._renewal.close()
        self.link.send(self._self_report.goodbye("the agent was stopped"))
        self._transport.close()
        self._status.write(link="stopped", task_state=self.assignment.state, refused=self._delivery.refused)

    def turn(self, timeout: float) -> None:
        """Take in what has come, waiting at most ``timeout`` seconds, then move on what can move."""
        event, left = self._transport.receive(timeout), _EVENTS_A_TURN
        while event is not None:
            self.handle(event)
            left -= 1
            event = self._transport.receive(0.0) if left else None
        self.assignment.tick()
        self.link.tick()
        self._renewal.tick(accepted=self.link.state is LinkState.ACCEPTED)
        if self.link.online:
            self._delivery.tick()
        self._delivery.pump()
        self._look_at_reach()
        self._status.write(
            link=self.link.state,
            task_state=self.assignment.state,
            task=self.assignment.key,
            fleet=self._channel.fleet,
            others=self._channel.strangers.trouble,
            trouble=self._watch.trouble,
            refused=self._delivery.refused,
            renewal=self._renewal.fault,
        )

    def _look_at_reach(self) -> None:
        """Log what keeps the coordinator away, and that nothing does any more."""
        cause = self.link.cause
        if cause is not None or self.link.answered:
            self._watch.note(cause)

    def _patience(self) -> float:
        if self._delivery.sending:
            return _SENDING_WAIT_S
        if self.assignment.state is AssignmentState.TRAINING:
            return min(_TRAINING_WAIT_S, self.assignment.patience_s)
        return _IDLE_WAIT_S

    # -- what comes in --------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """One event of the transport.

        A message that is none, or that breaks what handles it, is dropped and logged: none ends the loop.
        """
        match event:
            case Connected():
                self._delivery.interrupted()
                self.assignment.connected()
                self.link.connected()
                self._delivery.offer()
            case Disconnected():
                self.link.disconnected(event.cause)
                self.assignment.disconnected()
                self._delivery.interrupted()
                self._look_at_reach()
            case Received(topic, payload):
                try:
                    self._received(topic, payload)
                except Unauthentic as error:
                    self._channel.strangers.unauthentic(str(error))
                except CodecError as error:
                    logger.warning("dropped a message on %s: %s", topic, error)
                except Exception:
                    logger.exception("dropped a message on %s, which broke what handles it", topic)

    def _received(self, topic: str, payload: bytes) -> None:
        """Only our own topics count: a broker without access rules delivers what it likes."""
        if topic == self._down_chunk:
            try:
                self.assignment.chunk(payload)
            except CodecError as error:
                raise Unauthentic(str(error)) from None  # nobody signs a chunk
        elif topic == self._down:
            message = self._channel.open(payload)
            if message is not None:
                self._dispatch(message)
        else:
            logger.debug("ignored a message on %s", topic)

    def _dispatch(self, message: Message) -> None:
        match message:
            case HelloWanted():
                self.link.hello_wanted()
            case Challenge():
                self.link.challenged(message)
            case Welcome():
                self._welcomed(message)
                if self.link.state is LinkState.ACCEPTED:
                    self._renewal.welcomed()
            case TaskOffer():
                self._offered(message)
            case TaskCancel(run, step, reason):
                self.assignment.cancelled(run, step, reason)
            case LeaseExtended(run, step, lease_s):
                self.assignment.extended(run, step, lease_s)
            case ResultVerdict():
                self._delivery.judged(message)
            case LeftOut(run, reason):
                self.assignment.left_out(run, reason)
            case RunEnded(run):
                self.assignment.ended(run)
            case ChunkRequest():
                self._delivery.requested(message)
            case RenewalGrant():
                self._renewal.granted(message)
            case RenewalRefused(reason):
                self._renewal.refused(reason)
            case RenewalWanted():
                self._renewal.wanted()
            case _:
                logger.debug("a %s is not for an agent", type(message).__name__)

    def _welcomed(self, welcome: Welcome) -> None:
        if welcome.enrolment is Enrolment.ACCEPTED:
            self._channel.accepted()
        self.link.welcomed(welcome)
        if self._channel.peer != self._offered_to and self.link.state is LinkState.ACCEPTED:
            self._offered_to = self._channel.peer  # what was said to an earlier one may have been lost
            self.assignment.connected()
            self._delivery.offer()

    def _offered(self, offer: TaskOffer) -> None:
        """An offer may overtake its Welcome; to a device that is not accepted none should come."""
        if self.link.state in (LinkState.PENDING, LinkState.REJECTED):
            self.assignment.decline(offer, f"enrolment of this device is {self.link.state.value}")
        elif not self._can_train:
            self.assignment.decline(offer, "no training engine is installed on this board")
        else:
            self._take_up(offer)

    def _take_up(self, offer: TaskOffer) -> None:
        """The coordinator hears of an offer that breaks what handles it: else it would wait for its deadline."""
        try:
            self.assignment.offered(offer)
        except Exception as error:
            logger.exception("the offer of run %s step %d cannot be taken", offer.run, offer.step)
            self.assignment.decline(offer, f"the offer cannot be taken: {error!r}")

    # -- what the link says ----------------------------------------------------------------------

    def _hello(self) -> Hello:
        return self._self_report.hello(self._task(), self.assignment.held_runs)

    def _heartbeat(self) -> Heartbeat:
        return self._self_report.heartbeat(self._task(), self.assignment.worker_rss_bytes, self._delivery.traffic)

    def _task(self) -> TaskKey | None:
        """The task under way, else the oldest result that waits."""
        return self.assignment.key or self._delivery.oldest

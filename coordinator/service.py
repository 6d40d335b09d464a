"""The coordinator's loop: one thread, one queue of events, nothing that blocks for long."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.coordinator.fleet import certificates
from tinyfleet.coordinator.fleet.certificates import Certificates
from tinyfleet.coordinator.fleet.fence import Charge, Fence, Handling
from tinyfleet.coordinator.fleet.registry import Registry
from tinyfleet.coordinator.fleet.rivals import Rivals
from tinyfleet.coordinator.fleet.sessions import Sessions
from tinyfleet.coordinator.run.engine_process import EngineProcess, EngineRequests
from tinyfleet.coordinator.run.scheduler import Creator, Scheduler, create_method
from tinyfleet.coordinator.status import ServiceStatusFile
from tinyfleet.coordinator.step.context import Context
from tinyfleet.coordinator.store.store import Store
from tinyfleet.coordinator.wire.outgoing import Outgoing
from tinyfleet.coordinator.wire.transfers import Downloads, OfferedBlobs
from tinyfleet.fedcore.errors import CodecError, Unauthentic
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.chunks import unpack_chunk
from tinyfleet.fedcore.protocol.messages import (
    CertificateInUse,
    ChunkRequest,
    Enrolment,
    Goodbye,
    Heartbeat,
    Hello,
    RenewalRequest,
    ResultOffer,
    TaskStatus,
    UpMessage,
)
from tinyfleet.fedcore.protocol.reach.causes import Cause, CauseKind
from tinyfleet.fedcore.protocol.reach.watch import ReachWatch
from tinyfleet.fedcore.protocol.signed.signatures import SigningKey
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Event, Received, Transport

log = logging.getLogger(__name__)

STORE_POLL_S = 0.25  # how soon an operator's command is noticed
FLUSH_S = 0.5
ENGINE_POLL_S = 0.02  # while a run waits for the engine process and nothing else
QUIET_S = 60.0  # without a word of any device, of which the log then tells
MAX_EVENTS = 64  # between two looks at the clock


class Service:
    """Everything the coordinator does, driven by ``poll``. Raises ``StoreError`` where the disk fails it."""

    def __init__(
        self,
        store: Store,
        transport: Transport,
        config: CoordinatorConfig,
        key: SigningKey,
        *,
        engine: EngineRequests | None = None,
        create: Creator = create_method,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        outgoing = Outgoing(transport, key, session=secrets.token_hex(8))
        self._store, self._transport, self._outgoing, self._clock = store, transport, outgoing, clock
        self._engine = engine or EngineProcess(
            engine=config.engine,
            threads=config.threads,
            nice=config.nice,
            restarts=config.engine_restarts,
            hung_s=config.engine_hung_s,
            clock=clock,
        )
        self._registry = Registry(
            store.devices,
            outgoing,
            heartbeat_s=config.heartbeat_s,
            auto_accept=config.auto_accept,
            most_pending=config.limits.pending,
            most_accepted=config.limits.auto_accepted,
            clock=clock,
        )
        self._rivals = Rivals(store.devices, outgoing.fleet, clock)
        self._sessions = Sessions(outgoing, self._registry, self._rivals, clock)
        self._certificates = Certificates(
            Path(config.authority or store.directory / certificates.DIRECTORY).expanduser(),
            config.broker.tls_files if config.broker.tls_cert else None,
            config.broker.url,
            named=bool(config.authority),
            outgoing=outgoing,
            reconnect=transport.reconnect,
            clock=clock,
        )
        self._fence = Fence(store.devices, config.limits, clock, self._registry.accepted)
        transport.favour(self._is_of_member)
        self._offered = OfferedBlobs(outgoing, config.limits, clock)
        self._downloads = Downloads(store.incoming, outgoing, timeout_s=config.chunk_timeout_s, clock=clock)
        context = Context(config, store, outgoing, self._registry, self._offered, self._downloads, clock)
        self._scheduler = Scheduler(context, self._engine, create)
        self._changed = store.changed()
        self._looked_at = self._flushed_at = clock()
        self._watch = ReachWatch(log, clock, wall_clock)
        self._status = ServiceStatusFile(store.directory, transport.address)
        self._down: Cause | None = None  # why there is no connection
        self._heard_at = clock()  # any device, or else the broker
        self._was_connected = False

    def start(self) -> None:
        """Connect, and take up the run that was under way."""
        self._transport.open((topics.ALL_UP, topics.ALL_UP_CHUNKS))
        self._scheduler.resume()
        self._scheduler.check_stop()

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Serve until ``should_stop`` says so; looked at four times a second at least."""
        while not should_stop():
            self.poll()

    def poll(self, timeout: float = STORE_POLL_S) -> None:
        """Wait for an event, handle what there is, do what is due."""
        wait = min(timeout, ENGINE_POLL_S) if self._scheduler.waits_for_engine else timeout
        event = self._transport.receive(wait)
        for _ in range(MAX_EVENTS):
            if event is None:
                break
            self._handle(event)
            event = self._transport.receive(0)
        else:
            self._handle_last(event)
        now = self._clock()
        if now - self._looked_at >= STORE_POLL_S:
            self._looked_at = now
            self._look_at_store()
        if self._transport.connected:
            self._registry.tick(now)
            self._downloads.tick(now)
        self._look_at_reach(now)
        self._fence.tick(now)
        self._rivals.tick(now)
        self._certificates.tick(now)
        self._scheduler.tick(now)
        if now - self._flushed_at >= FLUSH_S:
            self._flush(now)

    def close(self) -> None:
        """Stop cleanly. The run that is under way goes on at the next start."""
        self._flush(self._clock())
        self._transport.close()
        self._status.write(connected=False, trouble=None, stopped=True)
        self._engine.close()
        self._store.close()

    # -- events -------------------------------------------------------------------------

    def _handle_last(self, event: Event | None) -> None:
        if event is not None:
            self._handle(event)

    def _handle(self, event: Event) -> None:
        match event:
            case Received(topic, payload):
                device = topics.device_of(topic)
                self._heard_at = self._clock()
                if device is None or not self._fence.admits(device, len(payload)):
                    return
                with self._fence.around(device, "chunk", len(payload)) as handling:
                    if topic == topics.up_chunk(device):
                        handling.charge = Charge.NOBODY
                        self._on_chunk(device, payload, handling)
                    else:
                        self._on_envelope(device, payload, handling)
            case Connected():
                log.log(logging.DEBUG if self._was_connected else logging.INFO, "connected to the broker")
                self._was_connected, self._down, self._heard_at = True, None, self._clock()
                self._registry.on_connected()
                for device, session in self._registry.awaited():
                    self._sessions.wish(device, session)
                self._downloads.resume()
            case Disconnected():
                self._rivals.disconnected(event.cause)
                self._down = event.cause
                self._look_at_reach(self._clock())

    def _is_of_member(self, topic: str) -> bool:
        device = topics.device_of(topic)
        return device is not None and self._registry.accepted(device)

    def _on_envelope(self, device: str, payload: bytes, handling: Handling) -> None:
        handling.kind, handling.charge = "message", Charge.NOBODY
        envelope = self._sessions.unseal(device, payload)
        if envelope is None:
            return
        handling.charge = Charge.FORGERS
        message = self._sessions.open(device, envelope)
        if message is not None:
            handling.kind, handling.charge = type(message).__name__, Charge.DEVICE
            self._on_message(device, message)

    def _on_chunk(self, device: str, payload: bytes, handling: Handling) -> None:
        """Nobody signs a chunk: it is what its offer's hash says, once all are here, or nothing."""
        if not self._registry.accepted(device):
            return
        try:
            chunk = unpack_chunk(payload)
            if not self._downloads.awaits(device, chunk.sha256):
                return
            download = self._downloads.accept(device, chunk)
        except CodecError as error:
            raise Unauthentic(str(error)) from None
        handling.charge = Charge.DEVICE
        if download is not None:
            self._scheduler.on_download(download)

    def _on_message(self, device: str, message: UpMessage) -> None:
        match message:
            case Hello() if not self._fence.admits_hello(device):
                pass
            case Hello():
                if self._registry.on_hello(device, message) and self._registry.accepted(device):
                    self._scheduler.on_hello(device, message.held)
            case Heartbeat():
                if self._registry.on_heartbeat(device, message) and self._registry.accepted(device):
                    self._scheduler.on_heartbeat(device)
                    self._certificates.heard(device)
            case Goodbye():
                self._registry.on_goodbye(device, message)
            case _ if not self._registry.accepted(device):
                if isinstance(message, ResultOffer) and self._outgoing.idle:
                    self._scheduler.on_result_offer(device, message)  # which refuses it
            case TaskStatus():
                self._registry.on_sign_of_life(device)
                self._scheduler.on_status(device, message)
            case ResultOffer():
                self._registry.on_sign_of_life(device)
                self._scheduler.on_result_offer(device, message)
            case ChunkRequest():
                self._registry.on_sign_of_life(device)
                self._offered.serve(device, message)
            case RenewalRequest():
                self._certificates.asked(device, message)
            case CertificateInUse():
                self._certificates.in_use(device, message)

    # -- time ---------------------------------------------------------------------------

    def _look_at_reach(self, now: float) -> None:
        """Log, and tell ``status``, what keeps the broker or all devices away, and that nothing does any more."""
        connected = self._transport.connected
        if self._down is not None or connected:
            self._watch.note(self._down or self._transport.hindrance or self._quiet(now))
        self._status.write(connected=connected, trouble=self._watch.trouble)

    def _quiet(self, now: float) -> Cause | None:
        if now - self._heard_at < max(QUIET_S, self._registry.silence_s):
            return None
        return Cause(
            CauseKind.DEVICES,
            f"{self._transport.address}: no device is heard of; see whether the boards' agents run and reach this "
            f"broker, and whether its access list allows this client to read {topics.ALL_UP}",
        )

    def _look_at_store(self) -> None:
        """Another process may have submitted, stopped, accepted or rejected."""
        changed = self._store.changed()
        if changed == self._changed:
            return
        self._changed = changed
        for device, enrolment in self._registry.refresh().items():
            if enrolment is None:
                self._sessions.forget(device)
            if enrolment in (None, Enrolment.REJECTED):
                self._scheduler.on_rejected(device)
        self._scheduler.check_stop()

    def _flush(self, now: float) -> None:
        self._flushed_at = now
        self._registry.flush()
        self._scheduler.flush()

"""Control messages: small JSON documents in signed envelopes (``signed/``), validated before anything acts on them.

Blobs travel beside them as chunks (``chunks.py``): an offer carries a manifest, the receiver asks
for ranges of chunks, verifies the hash, and only then acts. All messages are idempotent.
Durations travel, never clock times: clocks may disagree.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.foreign.board import BoardFacts, Health
from tinyfleet.fedcore.foreign.data_description import DataDescription
from tinyfleet.fedcore.foreign.shown import printable

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(max_length=2000)]
Size = Annotated[int, Meta(ge=0, le=1 << 40)]
Index = Annotated[int, Meta(ge=0, le=1 << 32)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]
Version = Annotated[int, Meta(ge=1, le=1 << 16)]
Nonce = Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?$")]  # random, to be said again in an answer; empty: none
Task = tuple[Name, Index]
Pem = Annotated[str, Meta(max_length=4096)]
Bundle = Annotated[str, Meta(max_length=16384)]
Serial = Annotated[str, Meta(pattern=r"^[0-9a-f]{1,40}$")]  # of a certificate

MAX_MESSAGE_BYTES = 64 * 1024
MAX_CHUNK_BYTES = 1 << 20


class Enrolment(StrEnum):
    """Where a device stands with the fleet's operator."""

    PENDING = "pending"  # known, waiting for the operator
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class TaskState(StrEnum):
    """What an agent says of a task."""

    ACCEPTED = "accepted"  # the offer arrived, its blob is being fetched
    RUNNING = "running"
    PAUSED = "paused"  # the board is too hot, too low on power or disk; ``reason`` says which
    FINISHED = "finished"  # the result is in the outbox on disk
    ACKNOWLEDGED = "acknowledged"  # the coordinator has it; ``traffic`` is the whole task's
    OVER_BUDGET = "over_budget"  # stopped at the memory limit; the next try takes less
    FAILED = "failed"  # the worker died or raised; ``reason`` says how
    DECLINED = "declined"  # not started: will not fit now, or busy; ``reason`` says why
    UNFIT = "unfit"  # cannot be done here while the device is what it is; ``reason`` says what would have to change
    NEEDS_MASK = "needs_mask"  # the blob refers to a mask that this device does not hold


class Verdict(StrEnum):
    """What the coordinator did with an offered result."""

    STORED = "stored"  # on disk, counted in its round
    DUPLICATE = "duplicate"  # was already there
    REFUSED = "refused"  # too late, unknown run, or invalid; ``reason`` says which


class Message(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", omit_defaults=True):
    """Base of all control messages; the JSON key ``type`` names the kind."""


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """A content-addressed blob, cut into ``count`` chunks of ``chunk_size`` bytes (the last may be shorter)."""

    sha256: Digest
    size: Size
    chunk_size: Annotated[int, Meta(ge=1, le=MAX_CHUNK_BYTES)]

    @property
    def count(self) -> int:
        return -(-self.size // self.chunk_size)


class Traffic(Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes through the agent's broker socket, counted by the kernel."""

    sent: Size = 0
    received: Size = 0


class ChunkRequest(Message, frozen=True, tag="chunk_request"):
    """Either direction: send chunks [start, start + count) of a blob that was offered."""

    sha256: Digest
    start: Index
    count: Annotated[int, Meta(ge=1, le=1024)]


# -- device -> coordinator ---------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """First message after every connect, and once more with the ``answer`` to the ``Challenge`` that meets it.

    ``session`` is new at each agent start, ``nonce`` at each greeting. Only the second one counts: the first may be
    an old one that somebody has kept.
    """

    name: Name
    public_key: Annotated[str, Meta(max_length=200)]
    session: Name
    agent_version: Name
    engines: Annotated[list[Name], Meta(max_length=32)]
    profile: BoardFacts = {}
    samples: Size = 0
    memory_limit_bytes: Size = 0
    task: Task | None = None  # (run, step) that is under way or in the outbox
    protocol: Version = 2  # the newest that the agent speaks
    nonce: Nonce = ""
    answer: Nonce = ""  # of the challenge
    held: Annotated[list[Name], Meta(max_length=64)] = []  # runs of which it keeps masks
    data: DataDescription | None = None  # what its numbers and labels mean


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    """Sent by the supervisor every ``Welcome.heartbeat_s``, whatever the worker does."""

    session: Name
    task: Task | None = None
    health: Health = {}  # free_memory_bytes, rss_bytes, worker_rss_bytes, temperature_c, ...
    traffic: Traffic = Traffic()


class Goodbye(Message, frozen=True, tag="goodbye"):
    """A clean stop, or the last will (``reason`` "connection lost")."""

    session: Name
    reason: Text = ""


class TaskStatus(Message, frozen=True, tag="task_status"):
    """Progress or end of a task."""

    run: Name
    step: Index
    state: TaskState
    reason: Text = ""
    local_steps_done: Index = 0
    local_steps_total: Index = 0
    loss: float | None = None
    micro_batch: Index = 0
    levers: Text = ""  # what the results suffer to fit the board's memory, in words; empty: nothing
    paused_s: Seconds = 0.0  # of the task so far, by its board's guards
    traffic: Traffic = Traffic()
    peak_rss_bytes: Size = 0


class ResultOffer(Message, frozen=True, tag="result_offer"):
    """A finished result waits in the device's outbox; the coordinator fetches it by ``ChunkRequest``."""

    run: Name
    step: Index
    manifest: Manifest
    train_s: Seconds  # training inside the worker: without engine import, process start and pauses
    task_s: Seconds  # from the offer's arrival to the result on disk
    peak_rss_bytes: Size
    engine: Name
    base: Digest  # as in the ``TaskOffer`` that it answers
    micro_batch: Index = 0
    levers: Text = ""  # as in ``TaskStatus``


class RenewalRequest(Message, frozen=True, tag="renewal_request"):
    """Sign this request for a certificate. Idempotent: the same request gets the same certificate."""

    request: Pem
    proof: Annotated[bytes, Meta(max_length=80)]  # ECDSA signature of the request by the key in use


class CertificateInUse(Message, frozen=True, tag="certificate_in_use"):
    """After each Welcome: the certificate that this device came with, so that its arrival is known."""

    serial: Serial


# -- coordinator -> device ---------------------------------------------------------------


class Challenge(Message, frozen=True, tag="challenge"):
    """Answer to the first ``Hello``: who greets is to say this ``challenge`` again. ``nonce`` is the greeting's.

    ``fleet_key`` is the fleet's public key in base64, for a device that knows none yet.
    """

    nonce: Nonce
    challenge: Nonce
    fleet_key: Annotated[str, Meta(max_length=64)]


class HelloWanted(Message, frozen=True, tag="hello_wanted"):
    """The coordinator does not know this session, after a restart for example: greet, and then say it again."""


class Welcome(Message, frozen=True, tag="welcome"):
    """Answer to ``Hello``; sent again when the operator decides."""

    enrolment: Enrolment
    heartbeat_s: Annotated[float, Meta(gt=0.0, le=3600.0)] = 5.0
    reason: Text = ""
    protocol: Version = 2  # the one that is spoken from here on


class TaskOffer(Message, frozen=True, tag="task_offer"):
    """One step of a run for this device. ``spec`` is the run's RunSpec as JSON data.

    A device that has too little time or memory for the whole job is given a part of it. ``spec`` is free in form:
    ``check_bounds`` comes before anything else looks at it.
    """

    run: Name
    step: Index
    stage: Name
    lease_s: Seconds
    manifest: Manifest
    spec: dict[str, Any]
    base: Digest  # of the state that the step starts from: a run may come to the same step again from another one
    local_steps: Index = 0  # at most; 0: the whole round's
    activation_keep: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0  # the most that may be cached of a layer's input


class TaskCancel(Message, frozen=True, tag="task_cancel"):
    """Stop this task and drop its result: the round is over without it, or the run was stopped."""

    run: Name
    step: Index
    reason: Text = ""


class LeaseExtended(Message, frozen=True, tag="lease_extended"):
    """The coordinator still waits for this task: its lease runs for ``lease_s`` seconds from now on."""

    run: Name
    step: Index
    lease_s: Seconds


class ResultVerdict(Message, frozen=True, tag="result_verdict"):
    """The application's acknowledgement of a result: only now may the outbox drop it."""

    run: Name
    step: Index
    verdict: Verdict
    reason: Text = ""


class LeftOut(Message, frozen=True, tag="left_out"):
    """The device takes no part in a run while it and the run are what they are, and why."""

    run: Name
    reason: Text


class RunEnded(Message, frozen=True, tag="run_ended"):
    """No more tasks of this run: a warm worker may exit and held masks may go."""

    run: Name


class RenewalGrant(Message, frozen=True, tag="renewal_grant"):
    """The certificate that was asked for, and whom to trust from now on."""

    certificate: Pem
    authorities: Bundle


class RenewalWanted(Message, frozen=True, tag="renewal_wanted"):
    """Renew now: the authority was replaced. Said again until it is done."""


class RenewalRefused(Message, frozen=True, tag="renewal_refused"):
    """There will be no certificate, and why."""

    reason: Text


UpMessage: TypeAlias = (
    Hello | Heartbeat | Goodbye | TaskStatus | ResultOffer | ChunkRequest | RenewalRequest | CertificateInUse
)
DownMessage: TypeAlias = (
    Challenge
    | HelloWanted
    | Welcome
    | TaskOffer
    | TaskCancel
    | LeaseExtended
    | ResultVerdict
    | LeftOut
    | RunEnded
    | ChunkRequest
    | RenewalGrant
    | RenewalWanted
    | RenewalRefused
)

_up_decoder = msgspec.json.Decoder(UpMessage)
_down_decoder = msgspec.json.Decoder(DownMessage)
_encoder = msgspec.json.Encoder()


def encode(message: Message) -> bytes:
    """One message as JSON."""
    return _encoder.encode(message)


def decode_up(payload: bytes) -> UpMessage:
    """A device's message. Raises ``CodecError`` for anything that is not one."""
    message: UpMessage = _decode(payload, _up_decoder)
    return message


def decode_down(payload: bytes) -> DownMessage:
    """A coordinator's message. Raises ``CodecError`` for anything that is not one."""
    message: DownMessage = _decode(payload, _down_decoder)
    return message


def _decode(payload: bytes, decoder: Any) -> Any:
    if len(payload) > MAX_MESSAGE_BYTES:
        raise CodecError(f"control message of {len(payload)} bytes; at most {MAX_MESSAGE_BYTES} are read")
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"not a control message: {printable(str(error), 300)}") from None

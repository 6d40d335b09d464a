"""A step whose results are summed securely is four steps of its run, one a phase; here is what they carry.

The state and the tasks of these steps are those of the method, with the exchange around them: ``meta["inner"]`` is
the method's own meta, ``meta["exchange"]`` how far the exchange is, and ``raw`` holds what was said in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.server.optimisers import carried
from tinyfleet.fedcore.payload import Json, Payload
from tinyfleet.fedcore.secure_sum.exchange import Exchange, Member
from tinyfleet.fedcore.secure_sum.messages import MAX_MEMBERS, SEALED_BYTES, Roster, decode

ROSTER, SEALED, SUM, ADVERT, DEALT, VECTOR, SHARES = (
    *("roster", "sealed", "sum", "advert", "dealt", "vector", "shares"),
)
DEVICE, EXCHANGE, INNER, OUT_OF_REACH = "device", "exchange", "inner", "out_of_reach"
HELD = "held"


class Phase(StrEnum):
    """What a step of the run is for; the run shows it beside the method's stage."""

    KEYS = "keys"  # devices advertise their public keys
    SHARES = "shares"  # and deal shares of the private ones
    RESULTS = "results"  # they do the task, and send their masked vectors
    UNMASK = "unmask"  # the survivors reveal what takes the masks off the sum


Summed = Annotated[str, Meta(max_length=200)]
"""A summand's name."""
MAX_WIDE = 10_000


class ExchangeState(Struct, frozen=True, forbid_unknown_fields=True):
    """How far the exchange of a state or a task is."""

    exchange: Exchange
    phase: Phase
    wide: Annotated[tuple[Summed, ...], Meta(max_length=MAX_WIDE)] = ()  # sums that once took it, in this run
    failures: int = 0  # exchanges that came to nothing since the last that did
    names: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)] = ()  # that go on
    dealt: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)] = ()  # whose masks may be in vectors


class Around(NamedTuple):
    """A state or a task: the method's own, and where its exchange stands."""

    inner: Payload
    standing: ExchangeState


def taken_apart(payload: Payload) -> Around:
    """Raises ``ResultError`` where it is of no secure run."""
    try:
        standing = msgspec.convert(payload.meta.get(EXCHANGE), ExchangeState)
    except msgspec.ValidationError as error:
        raise ResultError(f"where the secure sum stands cannot be read: {error}") from None
    inner = payload.meta.get(INNER)
    if not isinstance(inner, dict):
        raise ResultError("a step of a secure sum has no step of its method inside")
    return Around(Payload(inner, payload.params, payload.mask, payload.gradients, carried(payload)), standing)


def put_together(inner: Payload, standing: ExchangeState, step: int, raw: dict[str, bytes]) -> Payload:
    """The same the other way round; ``step`` is the run's."""
    meta: dict[str, Json] = {
        "step": step,
        "stage": f"{inner.meta['stage']}: {standing.phase.value}",
        "round": inner.meta["round"],
        "normalization": inner.meta["normalization"],
        INNER: inner.meta,
        EXCHANGE: msgspec.to_builtins(standing),
    }
    if "metrics" in inner.meta:
        meta["metrics"] = inner.meta["metrics"]
    if "grow" in inner.meta:
        meta["grow"] = inner.meta["grow"]  # planning looks for it
    return Payload(meta, inner.params, inner.mask, inner.gradients, raw | carried(inner))


def phase_of(stage: str) -> Phase | None:
    """The phase that a stage of the run names; None where it names none."""
    word = stage.rpartition(": ")[2]
    return Phase(word) if word in {phase.value for phase in Phase} and ": " in stage else None


def sealed_table(roster: Roster, names: tuple[str, ...], sealed: Callable[[str, str], bytes]) -> bytes:
    """All sealed shares of ``names``, by sender and receiver, in an order that all know."""
    return b"".join(sealed(sender, receiver) for sender, receiver in _pairs(roster, names))


def sealed_for(device: str, roster: bytes, names: tuple[str, ...], table: bytes) -> dict[str, bytes]:
    """What of the table is for ``device``, by sender; ``roster`` as it travels."""
    places = _places(roster, names).get(device, {})
    return {sender: table[at * SEALED_BYTES : (at + 1) * SEALED_BYTES] for sender, at in places.items()}


def _pairs(roster: Roster, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(sender, receiver) of all that dealt, itself included."""
    known = set(names)
    for sender in names:
        for receiver in sorted((*roster.neighbours[sender], sender)):
            if receiver in known:
                yield sender, receiver


@lru_cache(maxsize=2)
def _places(roster: bytes, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Receiver -> sender -> place in the table: made once for all devices of a step."""
    found: dict[str, dict[str, int]] = {}
    for place, (sender, receiver) in enumerate(_pairs(decode(roster, Roster), names)):
        found.setdefault(receiver, {})[sender] = place
    return found

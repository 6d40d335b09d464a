"""Which devices take part in a step, and with how much of its job: the seam, and the uniform random policy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from tinyfleet.coordinator.store.records import Choice, Share
from tinyfleet.fedcore.run_spec import FleetSettings


@dataclass(frozen=True, slots=True)
class JobForecast:
    """What a device's whole job is predicted to take, in seconds."""

    fixed_s: float  # whatever the number of local steps: transfers, and the worker's start
    work_s: float  # training
    basis: str  # what this rests on

    @property
    def seconds(self) -> float:
        return self.fixed_s + self.work_s


@dataclass(frozen=True, slots=True)
class Candidate:
    """An accepted device that is online and not busy, and what is known of its job."""

    device: str
    samples: int = 0
    waited: int = 0  # steps since it was last chosen; never chosen: since the run began
    whole_local_steps: int = 0  # of the whole job; 0: the job cannot be divided
    forecast: JobForecast | None = None  # None: nothing is known of the board's speed
    need_bytes: int = 0  # of the whole job with exact caches, analytic; 0: not known
    room_bytes: int = 0  # what the device may take; 0: not known
    health: Mapping[str, float] = field(default_factory=dict)


class Selection(Protocol):
    """A policy: a pure function, so that whoever is chosen can be explained and repeated."""

    def __call__(
        self, candidates: Sequence[Candidate], fleet: FleetSettings, *, size: int, seed: int, step: int
    ) -> Choice:
        """A cohort of at most ``size`` of the ``candidates`` (0: as many as there are)."""


def uniform(candidates: Sequence[Candidate], fleet: FleetSettings, *, size: int, seed: int, step: int) -> Choice:
    """Everybody is given the whole job, and the cohort is drawn whatever the devices are like."""
    chosen = set(draw([candidate.device for candidate in candidates], size=size, seed=seed, step=step))
    shares = (replace(whole(candidate), chosen=candidate.device in chosen) for candidate in candidates)
    return Choice(tuple(sorted(shares, key=lambda share: share.device)))


def everyone(devices: Iterable[str]) -> Choice:
    """All of ``devices`` with the whole job, whether they are there or not."""
    return Choice(tuple(Share(device, chosen=True) for device in sorted(devices)))


def whole(candidate: Candidate) -> Share:
    """The whole job."""
    forecast = candidate.forecast
    return Share(
        candidate.device,
        whole_local_steps=candidate.whole_local_steps,
        predicted_s=None if forecast is None else forecast.seconds,
        basis="" if forecast is None else forecast.basis,
    )


def draw(names: Sequence[str], *, size: int, seed: int, step: int) -> tuple[str, ...]:
    """``size`` of ``names`` (0: all), sorted, depending on nothing but (seed, step) and the names.

    The names with the lowest hashes win, so a candidate more or less changes the cohort by one
    device at most, and no library's random stream matters.
    """
    chosen = sorted(names)
    if size and size < len(chosen):
        chosen = sorted(chosen, key=lambda name: hash_of(seed, step, name))[:size]
    return tuple(sorted(chosen))


def hash_of(seed: int, step: int, name: str) -> bytes:
    """What is random about ``name`` in a step: the same everywhere, always."""
    return hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()

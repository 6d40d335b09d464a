"""Whether a run fits a board, how it would be run there, how long a round takes, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from tinyfleet.device_profiles.limits import format_size
from tinyfleet.device_profiles.profile import DeviceProfile
from tinyfleet.device_profiles.speed import core_gflops
from tinyfleet.edge_agent.worker.budget import DEFAULT_SHARE, SOFT_SHARE
from tinyfleet.emulation.board import USABLE_SHARE
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.models import registry as models
from tinyfleet.fedcore.planning.cost_model import CostModel
from tinyfleet.fedcore.planning.plan import MARGIN, Plan
from tinyfleet.fedcore.planning.planner import plan_task
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec
from tinyfleet.fedcore.training.levers import Levers

# Cores do not add up: what several threads of a small model's step reach together (measured on two).
THREAD_EXPONENT = 0.7


@dataclass(frozen=True, slots=True)
class BoardFit:
    """What a run would be on one board. Sizes in bytes."""

    board: str
    fits: bool
    levers: Levers
    peak_bytes: int  # predicted, of the whole worker process
    target_bytes: int  # what a plan may fill
    limit_bytes: int  # of the worker
    memory_basis: str  # "measured", "data sheet" or "given"
    step_seconds: float
    round_seconds: float | None  # None: the profile does not tell how fast the board is
    speed_basis: str
    samples: int
    remedies: tuple[str, ...]


def plan_board(
    spec: RunSpec,
    profile: DeviceProfile,
    cost_model: CostModel,
    samples: int,
    *,
    memory_bytes: int = 0,
    own: bool = False,
) -> BoardFit:
    """The gentlest way to run ``spec`` on a board, as its agent would choose it with default settings.

    ``memory_bytes``: of the worker, in place of what the board leaves it. ``own``: ``cost_model`` was
    measured on this very board, so its times hold as they are. Raises ``ConfigError``.
    """
    limit, memory_basis = _limit(profile, memory_bytes)
    rated, speed_basis = (cost_model, "own cost model") if own else _rated(cost_model, profile)
    target = int(SOFT_SHARE * limit)
    found = _plan(spec, rated, target, samples)
    return BoardFit(
        board=profile.name,
        fits=found.fits,
        levers=found.levers,
        peak_bytes=found.forecast.peak_bytes,
        target_bytes=target,
        limit_bytes=limit,
        memory_basis=memory_basis,
        step_seconds=found.forecast.step_seconds,
        round_seconds=found.round_seconds if speed_basis else None,
        speed_basis=speed_basis,
        samples=samples,
        remedies=() if found.fits else tuple(_remedies(spec, rated, found, limit, samples)),
    )


def _plan(spec: RunSpec, cost_model: CostModel, target: int, samples: int) -> Plan:
    return plan_task(create(spec.method, problem_of(spec)), cost_model, target, samples)


def _limit(profile: DeviceProfile, memory_bytes: int) -> tuple[int, str]:
    if memory_bytes:
        return memory_bytes, "given"
    if profile.measured is not None:
        return int(DEFAULT_SHARE * profile.measured.usable_memory_bytes), "measured"
    if not profile.memory_bytes:
        raise ConfigError(f"board {profile.name!r} does not say how much memory it has; give --memory")
    return int(DEFAULT_SHARE * USABLE_SHARE * profile.memory_bytes), "data sheet"


def _rated(cost_model: CostModel, profile: DeviceProfile) -> tuple[CostModel, str]:
    """``cost_model`` with the board's speed, and what that rests on ("": not known)."""
    rate = core_gflops(profile)
    if rate is None or not cost_model.convolution_gflops:
        return cost_model, ""
    return cost_model.at_speed(rate[0] * profile.cores**THREAD_EXPONENT), rate[1]


def _remedies(spec: RunSpec, cost_model: CostModel, found: Plan, limit: int, samples: int) -> Iterator[str]:
    """What would make it fit, the least change first."""
    least = min(found.forecasts, key=lambda forecast: forecast.peak_bytes)
    needed = int(least.peak_bytes * MARGIN / SOFT_SHARE)
    yield f"a limit of {format_size(needed)} (limits.memory_limit; it is {format_size(limit)})"
    count = models.build(spec.model).parameter_count()
    smaller: list[tuple[int, str]] = []
    for name in models.names():
        settings = ModelSettings(name, spec.model.input_shape, spec.model.classes, {})
        try:
            size = models.build(settings).parameter_count()
            other = msgspec.structs.replace(spec, model=settings)
            if size < count and _plan(other, cost_model, found.limit_bytes, samples).fits:
                smaller.append((size, name))
        except ConfigError:
            continue  # it takes another kind of input
    if smaller:
        size, name = max(smaller)
        yield f"model {name} ({size:,} parameters in place of {count:,})"

"""Engines by name: ours, and those of other distributions (entry points ``tinyfleet.engines``).

Looking is cheap: no engine is imported until ``create``, nor numpy. "auto" means one of ours.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tinyfleet.device_profiles.plugins import Door
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.lookup import lookup
from tinyfleet.fedcore.training.engine_facts import NO_KERNEL_CHOICE, EngineFacts
from tinyfleet.fedcore.training.native.facts import NATIVE
from tinyfleet.fedcore.training.torch.facts import TORCH, TORCH_CUDA

if TYPE_CHECKING:
    from tinyfleet.fedcore.training.engine import Engine

AUTO = "auto"
ENGINES: tuple[EngineFacts, ...] = (NATIVE, TORCH, TORCH_CUDA)  # the preferred first
REFERENCE = TORCH  # to which the others are compared


def _facts(name: str, given: object) -> EngineFacts:
    if not isinstance(given, EngineFacts) or given.name != name or given.automatic:
        raise TypeError(f"it is {given!r}; give EngineFacts called {name!r} that are not automatic")
    return given


DOOR = Door("tinyfleet.engines", lambda: (AUTO, *(facts.name for facts in ENGINES)), _facts)

_log = logging.getLogger(__name__)


def available() -> tuple[str, ...]:
    """Names of the engines that can be created here, the preferred first; those that must be asked for apart."""
    return tuple(facts.name for facts in ENGINES if facts.automatic and not facts.fault())


def facts_of(name: str) -> EngineFacts:
    """Those of the engine that ``name`` stands for. Raises ``ConfigError``: it is unknown, or none is installed."""
    if name != AUTO:
        return _known(name)
    for facts in ENGINES:
        if facts.automatic and not facts.fault():
            return facts
    missing = "; ".join(f"{facts.name} {facts.fault()} ({facts.install})" for facts in ENGINES if facts.automatic)
    raise ConfigError(f"no training engine can be used: {missing}; install one of them")


def expected(name: str) -> EngineFacts:
    """As ``facts_of`` will say in another process, by what is on the disk: nothing is loaded.

    Where nothing is found, the one that is most often there.
    """
    if name != AUTO:
        return _known(name)
    return next((facts for facts in ENGINES if facts.automatic and facts.looks_installed()), REFERENCE)


def preferred(name: str = AUTO) -> str:
    """The name of the engine that ``name`` stands for. Raises ``ConfigError`` as ``facts_of``."""
    return facts_of(name).name


def require(name: str) -> None:
    """Raise ``ConfigError``, with the remedy, where the engine is unknown or not installed; loads no torch."""
    facts = facts_of(name)
    if fault := facts.fault():
        others = " or ".join(repr(other.name) for other in ENGINES if other.automatic and other is not facts)
        raise ConfigError(f"engine {facts.name!r} {fault}; {facts.install}, or use engine {others}")


def create(name: str = AUTO, threads: int = 1, kernel_choice: Mapping[str, float] = NO_KERNEL_CHOICE) -> Engine:
    """Create an engine by its name; ``auto`` is the first that is available.

    ``kernel_choice`` is the board's, for engines that choose kernels. Raises ``ConfigError`` where the engine is
    unknown or cannot run here.
    """
    require(name)
    facts, first = facts_of(name), ENGINES[0]
    if name == AUTO and facts is not first:
        cost = "" if facts.saves_by_sparsity else ", whose sparsity saves neither time nor memory"
        _log.warning(
            "the %s engine %s: %s trains%s; remedy: %s", first.name, first.fault(), facts.name, cost, first.install
        )
    return facts.create(threads, kernel_choice)


def _known(name: str) -> EngineFacts:
    return lookup("engine", name, {facts.name: facts for facts in ENGINES}, DOOR)

"""What a run's settings ask of its result, and which of its measured states is the best one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.run_spec import RunSpec

VALIDATION_FRACTION = 0.25  # of public data, where the run names none
WELL_BELOW = 0.02  # of accuracy: what lies further below a run's best state is worth a warning


@dataclass(frozen=True, slots=True)
class Validated:
    """A state as it is on validation data."""

    step: int  # that it is the state after
    accuracy: float
    loss: float


def best(states: Iterable[Validated]) -> Validated | None:
    """The highest accuracy; of equals the lowest loss, then the latest. None of none."""
    return max(states, key=lambda state: (state.accuracy, -state.loss, state.step), default=None)


def with_validation(spec: RunSpec) -> RunSpec:
    """``spec`` with validation data where its result needs some and it names none.

    Raises ``ConfigError`` where there is nothing to hold out.
    """
    data = spec.data
    if spec.result != "best":
        return spec
    if not data.public_fraction:
        raise ConfigError(
            'result "best" is chosen on a held-out part of the public data, and data.public_fraction is 0: '
            'raise it (0.1, say), or take result = "averaged", which chooses nothing'
        )
    if data.validation_fraction:
        return spec
    return msgspec.structs.replace(
        spec, data=msgspec.structs.replace(data, validation_fraction=VALIDATION_FRACTION)
    )


def shortfall(ending: float | None, accuracies: dict[int, float]) -> str:
    """What to say of a run whose result has the test accuracy ``ending``; empty where it is not far below its best.

    ``accuracies``: step -> test accuracy of the state after it.
    """
    if ending is None or not accuracies:
        return ""
    step = max(accuracies, key=lambda number: (accuracies[number], number))
    if accuracies[step] - ending <= WELL_BELOW:
        return ""
    return (
        f"its result has {ending:.1%} on test data, and the state after step {step} had {accuracies[step]:.1%}: "
        f'see export --step {step}, and result = "averaged" or "best" for the next run'
    )

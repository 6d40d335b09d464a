"""Small runs that are summed securely, and one step of drawn results in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tinyfleet.demo.spec import demo_spec
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.methods.parts.checks import checked_samples
from tinyfleet.fedcore.methods.summing.summands import fill, layout_of, terms_of
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import RunSpec, SecureAggregationSettings
from tinyfleet.fedcore.secure_sum.errors import OutOfReach
from tinyfleet.fedcore.secure_sum.exchange import Exchange
from tinyfleet.fedcore.secure_sum.in_process import Exchanged, Losses, exchange_sums


def spec_of(method: str = "static", devices: int = 4, limit: int = 120, **changes: Any) -> RunSpec:
    """Two rounds of the demo's digits, with the settings that a secure sum needs."""
    spec = demo_spec(method, 2, 0.1, data="digits", limit=limit, agents=devices)
    fleet = msgspec.structs.replace(spec.fleet, norm_limit=0.0, influence_limit=0.0, min_results=3)
    training = msgspec.structs.replace(spec.training, pretrain_epochs=1)
    return msgspec.structs.replace(spec, fleet=fleet, training=training, **changes)


def secure(spec: RunSpec, **settings: Any) -> RunSpec:
    """The same run, summed securely."""
    return msgspec.structs.replace(spec, secure_aggregation=SecureAggregationSettings(True, **settings))


def secure_step(
    method: Method,
    state: Payload,
    task: Payload,
    results: Mapping[str, Payload],
    samples: int,
    settings: SecureAggregationSettings,
    entropy: Callable[[int], bytes],
    *,
    run: str = "simulation",
    losses: Losses | None = None,
    refused: Callable[[str, str], None] = lambda device, reason: None,
    watch: Callable[[str], None] = lambda part: None,
) -> tuple[Payload, Exchanged]:
    """The state after a step, and what the exchange took. ``samples``: of all devices together, at most.

    Where a device has a value beyond the reach of a sum, all begin anew with fresh keys, and with that sum wide.
    ``refused`` hears of devices whose own check fails: they send nothing.
    """
    stage = method.sum_stage(task)
    wide: set[str] = set()
    for attempt in (1, 2, 3):
        watch("terms")
        try:
            terms = _terms(stage, results, samples, wide, refused)
        except OutOfReach as error:
            wide |= set(error.names)
            continue
        layout = layout_of(stage, samples, wide)
        exchange = Exchange(run, int(state.meta["step"]), attempt)  # type: ignore[arg-type]
        exchanged = exchange_sums(
            exchange,
            layout,
            terms,
            samples,
            entropy,
            degree=settings.neighbours,
            share=settings.threshold,
            losses=losses,
            watch=watch,
        )
        watch("finish")
        fold: Any = method.begin_fold(state)
        fill(stage, fold, exchanged.sums, len(exchanged.survivors))
        after = method.finish_round(state, fold)
        watch("")
        return after, exchanged
    raise AssertionError("a wide sum has no reach to be out of")


def _terms(
    stage: Any, results: Mapping[str, Payload], samples: int, wide: set[str], refused: Callable[[str, str], None]
) -> dict[str, Any]:
    terms = {}
    for device, result in results.items():
        try:
            terms[device] = terms_of(stage, result, checked_samples(result), samples, wide)
        except ResultError as error:
            refused(device, str(error))
    return terms

"""Which runs can be aggregated securely: whatever needs a single result is refused by name, before it starts."""

from __future__ import annotations

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.secure_sum.messages import LEAST_MEMBERS


def check_secure_aggregation(spec: RunSpec, method: Method) -> None:
    """Raise ``ConfigError`` where the run asks for what nobody can do who sees sums alone."""
    settings, fleet = spec.secure_aggregation, spec.fleet
    if not settings.enabled:
        return
    if not _sums_what_it_folds(type(method)):
        raise ConfigError(
            f"secure_aggregation: method {method.name} needs more of a device's result than sums over the devices; "
            "use fedavg, static, snip, synflow, fl_pqsu, fedtiny, fedmef or tinyfleet"
        )
    refused = {
        f'fleet.aggregate = "{fleet.aggregate}" compares single results; set it to "mean"': fleet.aggregate
        != "mean",
        f"fleet.norm_limit = {fleet.norm_limit:g} judges single results, which nobody sees; set it to 0": bool(
            fleet.norm_limit
        ),
        f'fleet.selection = "{fleet.selection}" gives devices parts of a step; set it to "random"': (
            fleet.selection != "random"
        ),
        f'privacy.mode = "{spec.privacy.mode}" clips and adds noise to what is masked; set it to "none"': (
            spec.privacy.mode != "none"
        ),
        f"fleet.influence_limit = {fleet.influence_limit:g} cuts single results back; set it to 0": bool(
            fleet.influence_limit
        ),
        f"fleet.staleness = {fleet.staleness}: a late result is in no sum; set it to 0": fleet.staleness > 0,
        f"fleet.min_results = {fleet.min_results}: a sum hides a result among {LEAST_MEMBERS} or more; raise it": (
            fleet.min_results < LEAST_MEMBERS
        ),
        "data.public_fraction = 0: each device's sums of inputs are seen; raise it (0.01, say)": (
            not spec.data.public_fraction
        ),
        f"neighbours = {settings.neighbours} is odd; a ring needs an even number": settings.neighbours % 2 == 1,
    }
    reasons = [reason for reason, holds in refused.items() if holds]
    if reasons:
        raise ConfigError(f"secure_aggregation: {'; '.join(reasons)}")


def _sums_what_it_folds(method: type[Method]) -> bool:
    """True where the class that says what is summed knows of every change to what is folded."""
    if method.sum_stage is Method.sum_stage:
        return False
    order = [one for one in method.__mro__ if issubclass(one, Method)]
    first = {name: next(n for n, one in enumerate(order) if name in vars(one)) for name in _TOGETHER}
    return first["sum_stage"] <= min(first["begin_fold"], first["fold"])


_TOGETHER = ("sum_stage", "begin_fold", "fold")

"""What a private run may be combined with: all else is refused by name, with the remedy."""

from __future__ import annotations

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.run_spec import FleetSettings, RunSpec


def check_privacy(spec: RunSpec, method: Method) -> None:
    """Raise ``ConfigError`` where the run's privacy cannot be what it says."""
    privacy, fleet = spec.privacy, spec.fleet
    if privacy.mode == "none":
        if privacy.noise or privacy.epsilon:
            raise ConfigError('privacy.noise and privacy.epsilon need privacy.mode = "central" or "local"')
        return
    if not privacy.noise and not privacy.epsilon:
        raise ConfigError(f"privacy.mode {privacy.mode!r} needs privacy.noise, or privacy.epsilon to find it by")
    what = f"privacy.mode {privacy.mode!r}"
    if more := method.more_than_updates():
        raise ConfigError(f"{what} bounds updates, and method {method.name}'s results tell more: {more}")
    if method.own_masks:
        raise ConfigError(f"{what} needs one mask for all devices; method {method.name} has one a device")
    if privacy.mode == "central" and fleet.aggregate != "mean":
        raise ConfigError(
            f"{what} adds noise to a sum; how far one device moves fleet.aggregate {fleet.aggregate!r} is not "
            'bounded by the clip: use "mean"'
        )
    if privacy.mode == "central" and fleet.staleness:
        raise ConfigError(f"{what} counts one result of a device a step; set fleet.staleness = 0")


def admission_of(spec: RunSpec) -> FleetSettings:
    """How results are admitted: with central noise each by itself, never by what the others are like.

    Else one device's data would decide over the results of many, and no clip bounds that. The clip takes the
    place of those limits.
    """
    import msgspec

    if spec.privacy.mode != "central":
        return spec.fleet
    return msgspec.structs.replace(spec.fleet, norm_limit=0.0, influence_limit=0.0)

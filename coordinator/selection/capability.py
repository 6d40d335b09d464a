"""Selection by what devices can do: each is given what it can finish in time, and none is forgotten.

1. Devices whose health is critical, or that cannot even do the least part of the job in time, are left out,
   with the reason.
2. All others are given as many local steps as fit into the round's target.
3. Whoever has waited for ``patience`` steps comes first, the longest wait before all others. So a device that
   can do its part is chosen after at most ``patience`` + ceil(devices / cohort) steps.
4. The other places are drawn at random, weighted by the samples that a device would train on and by how
   long it has waited (weighted sampling without replacement, Efraimidis and Spirakis 2006).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from tinyfleet.coordinator.selection.health import critical
from tinyfleet.coordinator.selection.policy import Candidate, hash_of, whole
from tinyfleet.coordinator.store.records import Choice, Part, Share
from tinyfleet.fedcore.run_spec import FleetSettings

DEADLINE_SHARE = 0.9  # of the deadline, that a part may be predicted to take: predictions err
LEAST_ACTIVATION_KEEP = 0.25
MOST_SAMPLES = 10.0  # median devices' that one is drawn for: what it enrolled with is only its word


def capable(candidates: Sequence[Candidate], fleet: FleetSettings, *, size: int, seed: int, step: int) -> Choice:
    """The policy ``capability``."""
    spared = [
        Share(candidate.device, Part.LEFT_OUT, reason=reason)
        for candidate in candidates
        if (reason := critical(candidate.health))
    ]
    ill = {share.device for share in spared}
    able = [candidate for candidate in candidates if candidate.device not in ill]
    target_s = round_target_s(able, fleet)
    shares = {candidate.device: fitted(candidate, target_s, fleet) for candidate in able}
    _bring_back(able, shares, target_s, fleet)
    ready = [candidate for candidate in able if shares[candidate.device].part is not Part.LEFT_OUT]
    most = MOST_SAMPLES * statistics.median(max(1, c.samples) for c in ready) if ready else 0.0
    first = sorted(ready, key=lambda c: _place(c, shares[c.device], most, fleet, seed, step))
    chosen = {candidate.device for candidate in (first[:size] if size else first)}
    everyone = [*spared, *(replace(share, chosen=device in chosen) for device, share in shares.items())]
    return Choice(tuple(sorted(everyone, key=lambda share: share.device)))


def round_target_s(candidates: Sequence[Candidate], fleet: FleetSettings) -> float:
    """Seconds that a part may take: as set, else what half of the devices need for the whole job.

    A target that nobody has set is long enough for everybody's least part: it leaves nobody out, unless the
    deadline does.
    """
    limit = DEADLINE_SHARE * fleet.deadline_s
    if fleet.round_target_s:
        return min(fleet.round_target_s, limit)
    known = [candidate.forecast.seconds for candidate in candidates if candidate.forecast is not None]
    if not known:
        return limit
    least = [_seconds(c, _least(c, fleet)) for c in candidates if c.forecast is not None and c.whole_local_steps]
    possible = [seconds for seconds in least if seconds <= limit]
    # A hair more than the slowest needs, lest rounding takes a step from its least part.
    return min(max([statistics.median_low(known), *(seconds * 1.001 for seconds in possible)]), limit)


def fitted(candidate: Candidate, target_s: float, fleet: FleetSettings) -> Share:
    """The largest part of the job that the device finishes within ``target_s``, or why there is none."""
    share = _with_room(whole(candidate), candidate)
    forecast = candidate.forecast
    if not candidate.whole_local_steps:
        target_s = DEADLINE_SHARE * fleet.deadline_s  # of a job that cannot be divided
    if forecast is None or forecast.seconds <= target_s:
        return share
    least = _least(candidate, fleet)
    spare_s = target_s - forecast.fixed_s  # below work_s, since the whole job does not fit
    steps = math.floor(candidate.whole_local_steps * (spare_s / forecast.work_s)) if spare_s > 0 else 0
    if candidate.whole_local_steps and steps >= least:
        return _part(share, candidate, steps, target_s)
    reason = f"the whole job takes {seconds_text(forecast.seconds)} here, the round has {seconds_text(target_s)}"
    if candidate.whole_local_steps:
        least_s = _seconds(candidate, least)
        reason += (
            f", and even {least} of its {candidate.whole_local_steps} local steps take {seconds_text(least_s)}"
        )
    return replace(share, part=Part.LEFT_OUT, activation_keep=1.0, reason=reason)


def _part(share: Share, candidate: Candidate, steps: int, target_s: float) -> Share:
    """``steps`` of the job."""
    if steps >= candidate.whole_local_steps:
        return share
    text = f"the whole job would take {seconds_text(_whole_s(candidate))}, the round has {seconds_text(target_s)}"
    reason = f"{text}; {share.reason}" if share.reason else text
    return replace(share, part=Part.PART, local_steps=steps, predicted_s=_seconds(candidate, steps), reason=reason)


def _least(candidate: Candidate, fleet: FleetSettings) -> int:
    """Local steps of the least part."""
    return max(1, math.ceil(fleet.least_share * candidate.whole_local_steps))


def _seconds(candidate: Candidate, steps: int) -> float:
    forecast = candidate.forecast
    if forecast is None:
        raise AssertionError("nothing is known of the device's speed")
    return forecast.fixed_s + forecast.work_s * steps / candidate.whole_local_steps


def _with_room(share: Share, candidate: Candidate) -> Share:
    """Where exact caches do not fit, the device caches less, in quarters: the rest is its own governor's matter."""
    need, room = candidate.need_bytes, candidate.room_bytes
    if not need or not room or need <= room:
        return share
    activation_keep = max(LEAST_ACTIVATION_KEEP, math.floor(4.0 * room / need) / 4.0)
    reason = f"exact training needs {need / 1e6:.0f} MB, and {room / 1e6:.0f} MB are free here"
    return replace(share, activation_keep=activation_keep, reason=reason)


def _bring_back(able: Sequence[Candidate], shares: dict[str, Share], target_s: float, fleet: FleetSettings) -> None:
    """Where too few devices meet the target for a round to count, the fastest others do their least part."""
    missing = fleet.min_results - sum(share.part is not Part.LEFT_OUT for share in shares.values())
    late = [candidate for candidate in able if shares[candidate.device].part is Part.LEFT_OUT]
    least = {c.device: _least(c, fleet) for c in late}
    seconds = {c.device: _seconds(c, least[c.device]) if c.whole_local_steps else _whole_s(c) for c in late}
    for candidate in sorted(late, key=lambda c: (seconds[c.device], c.device))[: max(0, missing)]:
        share = replace(
            _with_room(whole(candidate), candidate), reason="too slow for the target, and there is no other"
        )
        steps = least[candidate.device] if candidate.whole_local_steps else 0
        if 0 < steps < candidate.whole_local_steps:
            share = replace(share, part=Part.PART, local_steps=steps, predicted_s=seconds[candidate.device])
        shares[candidate.device] = share


def seconds_text(seconds: float) -> str:
    """Seconds as a person reads them."""
    return f"{seconds:.0f} s" if seconds >= 10.0 else f"{seconds:.2g} s"


def _whole_s(candidate: Candidate) -> float:
    return math.inf if candidate.forecast is None else candidate.forecast.seconds


def _place(
    candidate: Candidate, share: Share, most: float, fleet: FleetSettings, seed: int, step: int
) -> tuple[bool, float, bytes]:
    """Where the device stands in the queue: the smallest are chosen. ``most`` of its samples draw it."""
    random = hash_of(seed, step, candidate.device)
    if candidate.waited >= fleet.patience:
        return False, -float(candidate.waited), random
    portion = share.local_steps / share.whole_local_steps if share.part is Part.PART else 1.0
    weight = min(max(1, candidate.samples), most) * portion * (1.0 + candidate.waited / fleet.patience)
    uniform = (int.from_bytes(random[:8], "big") + 1) / (2.0**64 + 1)
    return True, -math.log(uniform) / weight, random

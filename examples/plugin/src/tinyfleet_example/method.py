"""SET (Mocanu et al. 2018, arXiv 1707.04780), federated: weak weights go, random ones come."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta

from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.methods.fedavg import FedAvg, RandomStartSettings, random_start
from tinyfleet.fedcore.methods.parts.checks import integer
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import Positive, Settings
from tinyfleet.fedcore.sparsity.mask import active_counts, adjust_layer, apply_mask


class SetSettings(RandomStartSettings, frozen=True):
    """A random mask, part of which is drawn anew every ``interval`` rounds."""

    name: Literal["set"] = "set"
    interval: Positive = 2  # rounds
    share: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.3  # zeta: of a layer's active weights


class Set(FedAvg):
    """FedAvg under a mask of which the coordinator replaces the weakest ``share``, at random: devices send nothing
    more for it. Regrown weights start at zero.
    """

    name = "set"
    settings_type: ClassVar[type[Settings]] = SetSettings

    def initial_mask(self) -> Mask:
        return random_start(self.problem, self.settings.density, self.settings.allocation)

    def finish_round(self, state: Payload, fold: Any) -> Payload:
        after = super().finish_round(state, fold)
        round_index = integer(after, "round")
        if round_index % self.settings.interval or self.finished(after):
            return after
        rng = np.random.default_rng([self.problem.seed, round_index, 0x5E7])
        mask = dict(after.mask)
        for name, count in active_counts(after.mask).items():
            pruned = np.flatnonzero(~mask[name].reshape(-1))
            grown = rng.choice(pruned, size=min(round(self.settings.share * count), len(pruned)), replace=False)
            mask[name], _ = adjust_layer(mask[name], after.params[name], np.sort(grown))
        apply_mask(after.params, mask)
        return Payload(after.meta, after.params, mask)

"""FedRTS (NeurIPS 2025, arXiv 2501.19122): masks drawn by Thompson sampling from a posterior a weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta

from tinyfleet.fedcore.arrays import AnyArray, BoolArray, FloatArray, IntArray, Mask
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData
from tinyfleet.fedcore.methods.fedavg import RandomStartSettings, random_start
from tinyfleet.fedcore.methods.method import Control, Fold
from tinyfleet.fedcore.methods.parts.checks import integer
from tinyfleet.fedcore.methods.parts.growing import Growing
from tinyfleet.fedcore.methods.parts.local import LocalResult
from tinyfleet.fedcore.methods.parts.progressive import adjustment_counts, check_gradients
from tinyfleet.fedcore.methods.parts.training_aggregate import TrainFold
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.run_spec import Count, Positive, Settings
from tinyfleet.fedcore.sparsity.mask import active_counts, apply_mask, largest
from tinyfleet.fedcore.sparsity.schedule import is_adjustment_round
from tinyfleet.fedcore.training.engine import Engine

SUCCESSES, FAILURES = "posterior.a/", "posterior.b/"  # prefixes of a weight's name in the state's params


class FedRtsSettings(RandomStartSettings, frozen=True):
    """A random mask that is drawn anew every ``interval`` rounds."""

    name: Literal["fedrts"] = "fedrts"
    interval: Positive = 10  # dR
    stop: Count = 300  # R_stop
    scale: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.2  # of the cosine schedule of K - kappa
    # The aggregate's part of an outcome; the rest is the devices'.
    gamma: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5
    strength: Annotated[float, Meta(gt=0.0)] = 10.0  # lambda: observations that one outcome counts for


class VoteFold(TrainFold):
    """A training round's means, and of every weight the samples of the devices that voted for it.

    A device votes for the ``core[name]`` largest of its active weights, and for the pruned weights whose
    gradient positions it sent, ``asked[name]`` at most.
    """

    def __init__(self, graph: Graph, mask: Mask, core: Mapping[str, int], asked: Mapping[str, int]) -> None:
        super().__init__(graph, mask)
        self._core, self._asked = dict(core), dict(asked)
        self._votes = {name: np.zeros(mask[name].size, np.int64) for name in core}

    def share(self, name: str) -> AnyArray:
        """Float64 share of all samples whose devices voted for each flat position."""
        return self._votes[name] / float(self.arrays.weight)

    def add(self, result: Payload, weight: int) -> None:
        check_gradients(result.gradients, self._asked, self.mask)
        super().add(Payload(result.meta, result.params, result.mask), weight)
        for name, count in self._core.items():
            self._votes[name][largest_active(result.params[name], self.mask[name], count)] += weight
        for name, vector in result.gradients.items():
            self._votes[name][vector.positions] += weight


def largest_active(weights: FloatArray, active: BoolArray, count: int) -> IntArray:
    """Flat positions of the ``count`` largest |weights| among the active ones."""
    positions = np.flatnonzero(active)
    return largest(weights.reshape(-1)[positions], positions, count)


class FedRts(Growing):
    """Sparse FedAvg; every maskable weight has a Beta(a, b) posterior of being worth its place, prior Beta(1, 1).

    Each round a weight in the mask is judged by whether it is among the kappa = K - q_l largest, in the mean
    and on each device; in adjustment rounds one outside it by whether its gradient is among the q_l largest
    on each device. The new mask is then the K largest of one sample a weight.
    """

    name = "fedrts"
    settings_type: ClassVar[type[Settings]] = FedRtsSettings

    # -- coordinator half ---------------------------------------------------------------

    def initial_mask(self) -> Mask:
        return random_start(self.problem, self.settings.density, self.settings.allocation)

    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        state = super().initial_state(engine, public)
        for name, active in state.mask.items():
            state.params[SUCCESSES + name] = np.ones(active.shape, np.float32)
            state.params[FAILURES + name] = np.ones(active.shape, np.float32)
        return state

    def configure_round(self, state: Payload) -> Payload:
        return super().configure_round(self.deployed(state))

    def deployed(self, state: Payload) -> Payload:
        """The model alone: posteriors stay at the coordinator."""
        return Payload(state.meta, {name: state.params[name] for name in self.problem.graph.params}, state.mask)

    def candidates(self, state: Payload) -> dict[str, int]:
        """q_l = K - kappa of every layer by this round's clock; empty once no adjustment can follow."""
        round_index = integer(state, "round")
        if round_index > self.settings.stop:
            return {}
        return adjustment_counts(state.mask, list(state.mask), round_index, self.settings.stop, self.settings.scale)

    def adjustment(self, state: Payload) -> dict[str, int]:
        """q_l of the layers whose masks are drawn anew after this round; empty between adjustments."""
        if not is_adjustment_round(integer(state, "round"), self.settings.interval, self.settings.stop):
            return {}
        return {name: count for name, count in self.candidates(state).items() if count}

    def more_than_updates(self) -> str:
        return "devices vote for single weights; use method static"

    def begin_fold(self, state: Payload) -> Fold:
        active = active_counts(state.mask)
        core = {name: active[name] - count for name, count in self.candidates(state).items()}
        return VoteFold(self.problem.graph, state.mask, core, self.adjustment(state))

    def finish_round(self, state: Payload, fold: Any) -> Payload:
        after = super().finish_round(state, fold)
        active, drawn = active_counts(state.mask), self.adjustment(state)
        rng = np.random.default_rng([self.problem.seed, integer(state, "round"), 7])
        after.mask = dict(state.mask)
        for name in state.mask:
            after.params[SUCCESSES + name] = state.params[SUCCESSES + name]
            after.params[FAILURES + name] = state.params[FAILURES + name]
        for name, count in self.candidates(state).items():
            self.observe(after, fold, name, active[name] - count, pruned=name in drawn)
            if name in drawn:
                after.mask[name] = self.draw(after, name, active[name], rng)
        apply_mask(after.params, after.mask)  # grown weights start at zero: the old mask left them so
        return after

    def observe(self, state: Payload, fold: VoteFold, name: str, core: int, *, pruned: bool) -> None:
        """(a, b) += lambda (X, 1 - X) for the layer's active weights, and for its ``pruned`` ones where asked."""
        gamma, strength = self.settings.gamma, self.settings.strength
        active = state.mask[name].reshape(-1)
        outcome = (1.0 - gamma) * fold.share(name)
        outcome[largest_active(state.params[name], state.mask[name], core)] += gamma
        outcome[~active] += 0.5 * gamma  # the aggregate knows nothing of a pruned weight
        judged = (active | pruned).reshape(state.mask[name].shape)
        outcome = outcome.reshape(judged.shape)
        for prefix, successes in ((SUCCESSES, outcome), (FAILURES, 1.0 - outcome)):
            counted = state.params[prefix + name] + np.where(judged, strength * successes, 0.0)
            state.params[prefix + name] = counted.astype(np.float32)

    def draw(self, state: Payload, name: str, count: int, rng: np.random.Generator) -> BoolArray:
        """The ``count`` largest of one sample a weight from its posterior."""
        successes = state.params[SUCCESSES + name].astype(np.float64)
        sample: AnyArray = rng.beta(successes, state.params[FAILURES + name].astype(np.float64)).reshape(-1)
        mask = np.zeros(sample.size, np.bool_)
        mask[largest(sample, np.arange(sample.size), count)] = True
        if int(np.count_nonzero(mask)) != count:
            raise AssertionError(f"{name}: active count drifted from {count} to {int(np.count_nonzero(mask))}")
        return mask.reshape(successes.shape)

    # -- device half --------------------------------------------------------------------

    def growth_gradients(
        self, task: Payload, engine: Engine, data: DeviceData, local: LocalResult, control: Control
    ) -> dict[str, SparseVector]:
        """Where the q_l largest gradients of pruned weights are: a vote has no value, and zeros cost no bytes."""
        found = super().growth_gradients(task, engine, data, local, control)
        return {name: SparseVector(where, np.zeros_like(values)) for name, (where, values) in found.items()}

"""FedDST (Bibikar et al. 2022, arXiv 2112.09824): devices adjust their own masks, the coordinator merges them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from tinyfleet.fedcore.arrays import FloatArray, IntArray, Mask
from tinyfleet.fedcore.datasets.dataset import DeviceData
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.fedavg import RandomStartSettings, random_start
from tinyfleet.fedcore.methods.method import Control, Fold, Problem, device_seed
from tinyfleet.fedcore.methods.parts.checks import integer
from tinyfleet.fedcore.methods.parts.growing import Growing, growth_counts
from tinyfleet.fedcore.methods.parts.local import Progress, all_samples
from tinyfleet.fedcore.methods.parts.per_weight_aggregate import HolderFold, prune_to
from tinyfleet.fedcore.methods.parts.progressive import adjustment_counts
from tinyfleet.fedcore.payload import Json, Payload
from tinyfleet.fedcore.run_spec import Count, Positive, Settings
from tinyfleet.fedcore.sparsity.mask import active_counts, adjust_layer, density
from tinyfleet.fedcore.sparsity.schedule import is_adjustment_round
from tinyfleet.fedcore.training.engine import Engine


class FedDstSettings(RandomStartSettings, frozen=True):
    """A random mask that devices adjust every ``interval`` rounds."""

    name: Literal["feddst"] = "feddst"
    interval: Positive = 10  # dR
    stop: Count = 100  # R_stop
    scale: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.15  # of the cosine schedule: the first adjusts 2 scale a_l
    adjust_epochs: Count = 0  # trained after the readjustment; 0: half of the round's steps, rounded down


class FedDst(Growing):
    """In an adjustment round a device trains, prunes its smallest weights, regrows where the gradient is large,
    trains on, and sends its own mask. A weight's new value is its mean over the devices that hold it; each
    layer is then pruned by magnitude to its active count.
    """

    name = "feddst"
    own_masks = True
    settings_type: ClassVar[type[Settings]] = FedDstSettings

    def __init__(self, settings: Any, problem: Problem) -> None:
        super().__init__(settings, problem)
        epochs = problem.training.local_epochs
        if settings.adjust_epochs >= epochs and settings.adjust_epochs:
            raise ConfigError(
                f"adjust_epochs {settings.adjust_epochs} leaves none of the {epochs} local epochs before the "
                "readjustment; lower it, or 0 for half of the round's steps"
            )

    # -- coordinator half ---------------------------------------------------------------

    def initial_mask(self) -> Mask:
        return random_start(self.problem, self.settings.density, self.settings.allocation)

    def adjustment(self, state: Payload) -> dict[str, int]:
        """q_l of every layer, empty between adjustments."""
        s, round_index = self.settings, integer(state, "round")
        if not is_adjustment_round(round_index, s.interval, s.stop):
            return {}
        return adjustment_counts(state.mask, list(state.mask), round_index, s.stop, s.scale)

    def more_than_updates(self) -> str:
        return "each device's mask is its own, and tells where its gradients are large; use method static"

    def begin_fold(self, state: Payload) -> Fold:
        counts = active_counts(state.mask)
        return HolderFold(self.problem.graph, counts, counts)

    def finish_round(self, state: Payload, fold: Any) -> Payload:
        params = fold.mean(state.params)
        mask = prune_to(params, fold.held(), active_counts(state.mask))
        meta: dict[str, Json] = dict(state.meta)
        meta["step"] = integer(state, "step") + 1
        meta["round"] = integer(state, "round") + 1
        meta["metrics"] = {"loss": fold.number("loss"), "samples": fold.weight, "density": density(mask)}
        return Payload(meta, params, mask)

    # -- device half --------------------------------------------------------------------

    def run(self, task: Payload, engine: Engine, data: DeviceData, control: Control) -> Payload:
        counts = growth_counts(task)
        if not counts:
            return super().run(task, engine, data, control)
        rng = device_seed(self.problem.seed, task, data.name)
        local = self.local_round(task, engine, all_samples(data), rng, control)
        engine.load(self.problem.graph, task.params, task.mask)
        mask, before = task.mask, self.steps_before(local.steps)
        progress = Progress(local.steps, control)
        for x, y in local.batches(local.steps):
            progress.add(local.step(x, y, local.settings), len(y), local.settings.learning_rate)
            if progress.step == before:
                mask = self.readjust(engine, task.mask, counts, (x, y), control)
        done = local.result(progress, (x, y))
        meta: dict[str, Json] = {"step": task.meta["step"], "samples": done.samples, "loss": done.loss}
        return Payload(meta, engine.params(), mask)

    def steps_before(self, steps: int) -> int:
        """Of so many steps those before the readjustment: at least one, which gives its gradients.

        Half of the steps, not of the epochs, so that a round of one epoch trains on with its new mask too.
        """
        after = self.settings.adjust_epochs * steps // self.problem.training.local_epochs
        return steps - (after or steps // 2)

    def readjust(
        self,
        engine: Engine,
        mask: Mask,
        counts: dict[str, int],
        batch: tuple[FloatArray, IntArray],
        control: Control,
    ) -> Mask:
        """Regrow the q_l largest gradients of pruned weights at value 0, prune the q_l smallest active weights.

        Leaves the engine with the new mask, its momentum cleared.
        """
        params = engine.params()
        gradients = engine.top_gradients(*batch, counts, self.step_settings(0.0, control))
        own = dict(mask)
        for name, vector in gradients.items():
            own[name], _ = adjust_layer(mask[name], params[name], vector.positions)
        engine.load(self.problem.graph, params, own)  # pruned weights become zero; regrown ones were
        return own

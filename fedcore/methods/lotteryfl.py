"""LotteryFL (Li et al. 2020, arXiv 2008.03371): every device seeks a winning ticket, a mask of its own."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from msgspec import Meta

from tinyfleet.fedcore.accounting import Cost
from tinyfleet.fedcore.arrays import BoolArray, FloatArray, Mask, Params
from tinyfleet.fedcore.datasets.dataset import DeviceData
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.fedavg import FedAvg
from tinyfleet.fedcore.methods.method import Control, Fold, Problem, device_seed, normalization_of
from tinyfleet.fedcore.methods.parts.checks import integer
from tinyfleet.fedcore.methods.parts.per_weight_aggregate import HolderFold
from tinyfleet.fedcore.payload import Json, Payload
from tinyfleet.fedcore.run_spec import Settings
from tinyfleet.fedcore.sparsity.allocation import uniform_counts
from tinyfleet.fedcore.sparsity.mask import active_counts, apply_mask, density, largest, magnitude_mask
from tinyfleet.fedcore.training.engine import Engine


class LotteryFlSettings(Settings, frozen=True):
    """Personal masks, pruned while the personal accuracy holds."""

    name: Literal["lotteryfl"] = "lotteryfl"
    density: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05  # at which a device stops to prune
    prune_rate: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.2  # share of the active weights pruned at a time
    accuracy_threshold: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5  # on the development set
    pretrained: bool = True


class Ticket(NamedTuple):
    """What a device remembers: its mask, and the initial parameters under it, to which it rewinds."""

    mask: Mask
    initial: Params


class LotteryFl(FedAvg):
    """A device whose accuracy holds prunes its own mask by magnitude and rewinds to the initial parameters,
    then trains under it. The coordinator's model stays dense: a weight becomes its mean over those who hold it.

    Initial parameters: without pre-training those drawn from the run's seed. With it, those of the device's
    first task: the pre-trained ones for all who are in the first cohort; one that comes later rewinds to the
    model that it began with, since sending the pre-trained one along would double every task.
    """

    name = "lotteryfl"
    own_masks = True
    settings_type: ClassVar[type[Settings]] = LotteryFlSettings

    def __init__(self, settings: Any, problem: Problem) -> None:
        super().__init__(settings, problem)
        graph = problem.graph
        if not graph.maskable:
            raise ConfigError(f"model {graph.name} has no maskable layer to prune")
        self.sizes = {name: graph.params[name].size for name in graph.maskable}
        self.targets = self._counts(settings.density)

    def _counts(self, share: float) -> dict[str, int]:
        return uniform_counts(self.problem.graph.maskable_shapes, share)

    # -- coordinator half ---------------------------------------------------------------

    def configure_round(self, state: Payload) -> Payload:
        task = super().configure_round(state)
        metrics: Any = state.meta.get("metrics", {})
        task.meta["personal_density"] = metrics.get("personal_density", 1.0)
        return task

    def more_than_updates(self) -> str:
        return "each device's mask is its own, and follows its accuracy; use method static"

    def begin_fold(self, state: Payload) -> Fold:
        numbers = ("loss", "accuracy", "density")
        return HolderFold(self.problem.graph, self.targets, self.sizes, numbers)

    def finish_round(self, state: Payload, fold: Any) -> Payload:
        meta: dict[str, Json] = dict(state.meta)
        meta["step"] = integer(state, "step") + 1
        meta["round"] = integer(state, "round") + 1
        meta["metrics"] = {
            "loss": fold.number("loss"),
            "samples": fold.weight,
            "density": 1.0,
            "personal_accuracy": fold.number("accuracy"),
            "personal_density": fold.number("density"),
        }
        return Payload(meta, fold.mean(state.params), {})

    def deployed(self, state: Payload) -> Payload:
        """The dense model pruned by magnitude to the target density of each layer: nobody's personal one."""
        mask = magnitude_mask(state.params, self.targets)
        params = {name: values.copy() if name in mask else values for name, values in state.params.items()}
        apply_mask(params, mask)
        return Payload(state.meta, params, mask)

    def cost(self, task: Payload, samples: int, development: int) -> Cost:
        """Under a mask of the mean personal density before this round, each layer at the same."""
        share: Any = task.meta["personal_density"]
        counts = self._counts(min(1.0, max(share, self.settings.density)))
        mask = {name: np.arange(self.sizes[name]) < count for name, count in counts.items()}
        trained = super().cost(Payload(task.meta, {}, mask), samples - development, 0)
        # The accuracy is measured before and after training, by forward passes alone.
        return trained._replace(flops=trained.flops + 2.0 * self.problem.graph.flops(mask) * development)

    # -- device half --------------------------------------------------------------------

    def run(self, task: Payload, engine: Engine, data: DeviceData, control: Control) -> Payload:
        x, y = normalization_of(task)(data.development.x), data.development.y
        batch = control.levers.micro_batch or self.problem.training.batch
        ticket = self.ticket(task, control)
        mask, start = ticket.mask, task.params
        engine.load(self.problem.graph, task.params, mask)
        if engine.evaluate(x, y, batch).accuracy >= self.settings.accuracy_threshold and self.prunable(mask):
            mask, start = self.prune(task.params, mask), self.rewound(ticket)
            engine.load(self.problem.graph, start, mask)
        self.remember(task, control, Ticket(mask, ticket.initial))
        del ticket, start  # the initial parameters are on disk: training has the memory to itself
        local = self.train(task, engine, data.train, device_seed(self.problem.seed, task, data.name), control)
        meta: dict[str, Json] = {
            "step": task.meta["step"],
            "samples": local.samples,
            "loss": local.loss,
            "accuracy": engine.evaluate(x, y, batch).accuracy,
            "density": density(mask),
        }
        return Payload(meta, engine.params(), mask)

    def ticket(self, task: Payload, control: Control) -> Ticket:
        """What the device remembers from before this task; at first a dense mask."""
        kept = control.memory.read(integer(task, "step"))
        if kept is not None:
            return Ticket(kept.mask, kept.params)
        mask = {name: np.ones(self.problem.graph.params[name].shape, np.bool_) for name in self.sizes}
        return Ticket(mask, task.params if self.settings.pretrained or self.problem.started else {})

    def remember(self, task: Payload, control: Control, ticket: Ticket) -> None:
        """Masks only shrink, so what the mask has dropped of the initial parameters is never needed again."""
        initial = {name: values.copy() for name, values in ticket.initial.items()}
        if initial:
            apply_mask(initial, ticket.mask)
        control.memory.write(integer(task, "step"), Payload({}, initial, ticket.mask))

    def rewound(self, ticket: Ticket) -> Params:
        """The initial parameters, of pruned weights at least those that the ticket's mask keeps."""
        return ticket.initial or self.problem.graph.initial_params(self.problem.seed)

    def prunable(self, mask: Mask) -> bool:
        """True while a layer is above its target."""
        return any(count > self.targets[name] for name, count in active_counts(mask).items())

    def prune(self, params: Params, mask: Mask) -> Mask:
        """Each layer without the ``prune_rate`` smallest |weights| of its active ones, never below its target."""
        return {name: self._smaller(params[name], mask[name], self.targets[name]) for name in mask}

    def _smaller(self, weights: FloatArray, active: BoolArray, target: int) -> BoolArray:
        before = np.flatnonzero(active)
        count = max(target, len(before) - math.ceil(self.settings.prune_rate * len(before)))
        own = np.zeros(active.size, np.bool_)
        own[largest(weights.reshape(-1)[before], before, count)] = True
        return own.reshape(active.shape)

"""FedAvg (McMahan et al. 2017), dense or under a fixed mask: the frame that pruning methods build on."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta

from tinyfleet.fedcore.accounting import Cost, training_flops, training_memory
from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData, Normalization
from tinyfleet.fedcore.methods.method import (
    CARRIED,
    Control,
    Fold,
    Method,
    Problem,
    device_seed,
    normalization_entry,
    normalization_of,
)
from tinyfleet.fedcore.methods.parts.checks import checked_samples, integer
from tinyfleet.fedcore.methods.parts.local import LocalResult, LocalRound, all_samples, pretrain, train_locally
from tinyfleet.fedcore.methods.parts.training_aggregate import TrainFold
from tinyfleet.fedcore.methods.summing.stages import TrainStage
from tinyfleet.fedcore.methods.summing.summands import SumStage
from tinyfleet.fedcore.payload import Json, Payload, SparseVector
from tinyfleet.fedcore.run_spec import Settings
from tinyfleet.fedcore.sparsity.allocation import ALLOCATIONS
from tinyfleet.fedcore.sparsity.mask import apply_mask, density, random_mask
from tinyfleet.fedcore.training.engine import Engine


class FedAvgSettings(Settings, frozen=True):
    """Dense FedAvg."""

    name: Literal["fedavg"] = "fedavg"
    pretrained: bool = True  # start from the same public pre-training as the pruning methods


class FedAvg(Method):
    """Each round every device trains on its own data; the coordinator takes the sample-weighted mean."""

    name = "fedavg"
    settings_type: ClassVar[type[Settings]] = FedAvgSettings

    # -- coordinator half ---------------------------------------------------------------

    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        normalization = Normalization.of(public)
        if self.pretrains(public):
            params = pretrain(engine, public, self.problem, normalization)
        else:
            params = self.problem.first_params()
        mask = self.initial_mask()
        apply_mask(params, mask)
        meta: dict[str, Json] = {
            "step": 0,
            "stage": "train",
            "round": 0,
            "normalization": normalization_entry(normalization),
        }
        return Payload(meta, params, mask)

    def pretrains(self, public: Dataset) -> bool:
        """Whether it starts from a model that is trained on ``public``."""
        return bool(self.settings.pretrained)

    def initial_mask(self) -> Mask:
        """No mask: the model is dense."""
        return {}

    def configure_round(self, state: Payload) -> Payload:
        meta: dict[str, Json] = {key: state.meta[key] for key in CARRIED}
        return Payload(meta, state.params, state.mask)

    def cost(self, task: Payload, samples: int, development: int) -> Cost:
        training = self.problem.training
        graph = self.problem.graph
        flops = training_flops(graph, task.mask, training.local_epochs * samples)
        return Cost(flops, self.training_memory(task.mask))

    def training_memory(self, mask: Mask, extra: int = 0) -> int:
        """Bytes of a training step under ``mask``, and ``extra``."""
        settings = self.step_settings(1.0, Control())
        return training_memory(
            self.problem.graph,
            mask,
            self.problem.training.batch,
            held=settings.held_arrays,
            activation_keep=settings.levers.activation_keep,
            value=settings.levers.value_bytes,
            pruned_norm=settings.pruned_norm,
            extra=extra,
        )

    def begin_fold(self, state: Payload) -> Fold:
        return TrainFold(self.problem.graph, state.mask)

    def sum_stage(self, task: Payload) -> SumStage:
        return TrainStage(self.problem.graph, task, {}, self.precision)

    @property
    def precision(self) -> str:
        """How results travel."""
        return self.upload_precision or self.problem.wire_precision

    def fold(self, fold: Any, result: Payload) -> None:
        fold.add(result, checked_samples(result))

    def finish_round(self, state: Payload, fold: Any) -> Payload:
        params = fold.arrays.mean()
        apply_mask(params, state.mask)
        meta: dict[str, Json] = dict(state.meta)
        meta["step"] = integer(state, "step") + 1
        meta["round"] = integer(state, "round") + 1
        meta["metrics"] = {
            "loss": fold.loss,
            "samples": fold.arrays.weight,
            "density": density(state.mask),
        }
        return Payload(meta, params, state.mask)

    def needs_public_data(self) -> str:
        return "pre-trains on public data: set method.pretrained = false" if self.settings.pretrained else ""

    def more_than_updates(self) -> str:
        return ""

    # -- device half --------------------------------------------------------------------

    def run(self, task: Payload, engine: Engine, data: DeviceData, control: Control) -> Payload:
        engine.load(self.problem.graph, task.params, task.mask)
        rng = device_seed(self.problem.seed, task, data.name)
        local = self.train(task, engine, all_samples(data), rng, control)
        meta: dict[str, Json] = {"step": task.meta["step"], "samples": local.samples, "loss": local.loss}
        gradients = self.growth_gradients(task, engine, data, local, control)
        # The parameters come last: the memory that growing took has gone by then.
        return Payload(meta, engine.params(), task.mask, gradients)

    def train(
        self, task: Payload, engine: Engine, data: Dataset, rng: np.random.Generator, control: Control
    ) -> LocalResult:
        """The local epochs of one round on the loaded model."""
        return train_locally(self.local_round(task, engine, data, rng, control))

    def local_round(
        self, task: Payload, engine: Engine, data: Dataset, rng: np.random.Generator, control: Control
    ) -> LocalRound:
        """What the task's round trains with on a device."""
        settings = self.step_settings(self.learning_rate(task), control)
        return LocalRound(engine, data, self.problem.training, normalization_of(task), settings, rng, control)

    def learning_rate(self, task: Payload) -> float:
        """eta_r of the task's round."""
        return self.problem.training.learning_rate_at(integer(task, "round"))

    def growth_gradients(
        self, task: Payload, engine: Engine, data: DeviceData, local: LocalResult, control: Control
    ) -> dict[str, SparseVector]:
        """Nothing grows."""
        return {}


class RandomStartSettings(Settings, frozen=True):
    """A random mask with ERK or uniform layer densities to start from."""

    density: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05
    allocation: Literal["erk", "uniform"] = "erk"
    pretrained: bool = True


class StaticSettings(RandomStartSettings, frozen=True):
    """A random mask that never changes."""

    name: Literal["static"] = "static"


class Static(FedAvg):
    """FedAvg under one random mask, drawn once from the run's seed and never changed."""

    name = "static"
    settings_type = StaticSettings

    def initial_mask(self) -> Mask:
        return random_start(self.problem, self.settings.density, self.settings.allocation)


def random_start(problem: Problem, density: float, allocation: str) -> Mask:
    """A random mask with ERK or uniform layer densities, drawn from the run's seed."""
    shapes = problem.graph.maskable_shapes
    rng = np.random.default_rng([problem.seed, 2])
    return random_mask(shapes, ALLOCATIONS[allocation](shapes, density), rng)

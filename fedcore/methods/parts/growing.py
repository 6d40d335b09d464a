"""Sparse FedAvg that now and then asks devices for the largest gradients of pruned weights, to grow there."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from tinyfleet.fedcore.accounting import Cost, growth_cost
from tinyfleet.fedcore.arrays import FloatArray, IntArray
from tinyfleet.fedcore.datasets.dataset import DeviceData
from tinyfleet.fedcore.methods.fedavg import FedAvg
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.methods.parts.local import LocalResult
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.training.engine import Engine


class Growing(FedAvg):
    """A training task has the weights to grow in each layer in ``meta["grow"]``, none between adjustments."""

    @abstractmethod
    def adjustment(self, state: Payload) -> dict[str, int]:
        """q_l of the layers that this round adjusts: one computation for growth and pruning alike."""

    def configure_round(self, state: Payload) -> Payload:
        task = super().configure_round(state)
        if state.meta["stage"] == "train":
            task.meta["grow"] = dict(self.adjustment(state))
        return task

    def cost(self, task: Payload, samples: int, development: int) -> Cost:
        own, counts = super().cost(task, samples, development), growth_counts(task)
        if not counts:
            return own
        return growth_cost(own, self.problem.graph, task.mask, counts, self.growth_samples(samples))

    def growth_samples(self, samples: int) -> int:
        """How many of a device's samples are behind its growth gradients."""
        return min(samples, self.problem.training.batch)

    # -- device half --------------------------------------------------------------------

    def growth_gradients(
        self, task: Payload, engine: Engine, data: DeviceData, local: LocalResult, control: Control
    ) -> dict[str, SparseVector]:
        """The q_l largest gradients of pruned weights."""
        counts = growth_counts(task)
        if not counts:
            return {}
        batch = self.growth_batch(task, data, local)
        return engine.top_gradients(*batch, counts, self.step_settings(0.0, control))

    def growth_batch(self, task: Payload, data: DeviceData, local: LocalResult) -> tuple[FloatArray, IntArray]:
        """What the growth gradients are taken on: the round's last mini-batch."""
        return local.last_batch


def growth_counts(task: Payload) -> dict[str, int]:
    """What a task asks to grow, by weight; empty between adjustments."""
    counts: Any = task.meta.get("grow")
    return counts or {}

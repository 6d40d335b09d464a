"""The engine seam: everything a method asks of a training runtime, and nothing more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from fedcore.arrays import FloatArray, IntArray, Mask, Params
from fedcore.models.graph import Graph
from fedcore.payload import SparseVector


@dataclass(frozen=True, slots=True)
class StepSettings:
    """Settings of one optimiser step: SGD with momentum and weight decay (none on masked entries)."""

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    micro_batch: int = 0  # samples per forward pass; 0: the whole batch at once


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Sums over ``samples``; kept as sums so that batches and devices add exactly."""

    samples: int
    loss_sum: float
    correct: int

    @property
    def loss(self) -> float:
        return self.loss_sum / max(1, self.samples)

    @property
    def accuracy(self) -> float:
        return self.correct / max(1, self.samples)


class Engine(ABC):
    """Holds one model at a time. Inputs are float32 (N, C, *spatial), already normalised; labels int64 (N,)."""

    name: str

    @abstractmethod
    def load(self, graph: Graph, params: Params, mask: Mask) -> None:
        """Take a model; masked entries become zero and the optimiser state is cleared."""

    @abstractmethod
    def params(self) -> Params:
        """Float32 copies of every named array of the graph, statistics included."""

    @abstractmethod
    def train_step(self, x: FloatArray, y: IntArray, settings: StepSettings) -> float:
        """One optimiser step on the mean cross-entropy of the batch; returns that loss.

        Weights AND momentum are masked after the step; batch-norm statistics move with momentum 0.1.
        """

    @abstractmethod
    def update_statistics(self, x: FloatArray, micro_batch: int = 0) -> None:
        """One forward pass in training mode: moves batch-norm running statistics only (momentum 0.1)."""

    @abstractmethod
    def evaluate(self, x: FloatArray, y: IntArray, batch: int = 256) -> Evaluation:
        """Loss and hits in evaluation mode, every sample counted once."""

    @abstractmethod
    def predict(self, x: FloatArray, batch: int = 256) -> FloatArray:
        """Logits (N, classes) in evaluation mode."""

    @abstractmethod
    def top_gradients(
        self, x: FloatArray, y: IntArray, counts: Mapping[str, int], micro_batch: int = 0
    ) -> dict[str, SparseVector]:
        """Per weight name, the ``counts[name]`` largest-|gradient| entries among PRUNED positions.

        Positions are flat positions in the whole tensor. Working memory is O(count) a layer: no dense
        gradient of the layer is ever held (FedTiny, section 3.3).
        """

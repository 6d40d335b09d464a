"""The engine seam: everything a method asks of a training runtime, and nothing more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tinyfleet.fedcore.arrays import FloatArray, IntArray, Mask, Params
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.payload import SparseVector
from tinyfleet.fedcore.training.levers import NO_LEVERS, Levers


@dataclass(frozen=True, slots=True)
class StepSettings:
    """Settings of one optimiser step: SGD with momentum and weight decay (none on masked entries), unless told.

    ``penalty`` is lambda of lambda ||theta||^2 over the marked weights. ``momentum`` is Adam's beta_1.
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    levers: Levers = NO_LEVERS
    # Where ``levers`` prune caches, batch norm's are pruned as well: its input gradient is approximate then.
    pruned_norm: bool = False
    penalty: float = 0.0
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    second: float = 0.999  # Adam's beta_2
    epsilon: float = 1e-8  # beside the root in Adam's denominator
    clip: float = 0.0  # 2-norm that the whole gradient is cut to; 0: it is not
    proximal: float = 0.0  # FedProx's mu: weights are drawn to what they were when they were loaded

    @property
    def beyond_sgd(self) -> bool:
        """Whether a step needs all gradients at once, and what ``LocalOptimiser`` holds."""
        return self.optimiser != "sgd" or self.clip > 0 or self.proximal > 0

    @property
    def held_arrays(self) -> int:
        """Numbers that are held for each trained one from step to step: moments, and FedProx's anchor."""
        moments = 2 if self.optimiser != "sgd" else int(self.momentum > 0)
        return moments + int(self.proximal > 0)


GROWTH = StepSettings(learning_rate=0.0)
"""Growth gradients of a whole batch, exact."""


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
        """One optimiser step on the mean cross-entropy of the batch; returns that loss, without FedProx's term.

        Weights AND momentum are masked after the step; batch-norm statistics move with momentum 0.1.
        """

    @abstractmethod
    def mark(self, positions: Mapping[str, IntArray]) -> None:
        """Flat positions of the weights that ``StepSettings.penalty`` draws to zero; ``load`` clears them."""

    @abstractmethod
    def marked_norm(self) -> float:
        """The 2-norm of all marked weights together."""

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
        self, x: FloatArray, y: IntArray, counts: Mapping[str, int], settings: StepSettings = GROWTH
    ) -> dict[str, SparseVector]:
        """Per weight name, the ``counts[name]`` largest-|gradient| entries among PRUNED positions.

        Positions are flat positions in the whole tensor. Working memory is O(count) a layer: no dense
        gradient of the layer is ever held (FedTiny, section 3.3). Of a normalised convolution it is the
        gradient with respect to the normalised weight before the mask. Of ``settings`` the levers apply,
        ``recompute`` apart.
        """

    @abstractmethod
    def dense_gradients(
        self, x: FloatArray, y: IntArray, names: Iterable[str], objective: Literal["loss", "flow"] = "loss"
    ) -> Params:
        """The whole gradient of the named weights, pruned positions included, in training mode.

        ``objective`` is the mean cross-entropy, or the sum of all logits ("flow": ``y`` is ignored).
        Running statistics do not move. It takes a dense layer's memory: for coordinators and for methods
        that cannot do without. Of a normalised convolution it is the gradient with respect to the normalised
        weight before the mask.
        """

"""The reference engine: torch on CPU or CUDA. Masked dense arithmetic; exact, but it saves nothing on a board."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from fedcore.arrays import FloatArray, IntArray, Mask, Params
from fedcore.models.graph import STATISTICS, Graph, Node
from fedcore.payload import SparseVector
from fedcore.sparsity.topk import StreamingTopK
from fedcore.training.engine import Engine, Evaluation, StepSettings
from fedcore.training.torch_forward import Capture, Mode, forward

BN_MOMENTUM = 0.1
TILE_ELEMENTS = 1 << 16  # of a weight gradient held at once while the largest entries are picked


class TorchEngine(Engine):
    """Holds one model's tensors, its masks and its momentum; no ``torch.nn`` module and no ``torch.optim``
    (whose import alone costs 71 MB).

    Deterministic for a given ``threads``; on CUDA with cuDNN's deterministic algorithms.
    """

    name = "torch"

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        self._device = torch.device(device)
        if device != "cpu":
            self.name = f"torch-{device}"
        self._tensors: dict[str, torch.Tensor] = {}

    # -- the model ----------------------------------------------------------------------

    def load(self, graph: Graph, params: Params, mask: Mask) -> None:
        self._graph = graph
        self._tensors = {
            name: torch.from_numpy(params[name]).to(self._device, torch.float32, copy=True) for name in graph.params
        }
        self._active = {name: torch.from_numpy(active).to(self._device) for name, active in mask.items()}
        for name, active in self._active.items():
            self._tensors[name].mul_(active)
        self._trained = [name for name, spec in graph.params.items() if spec.role not in STATISTICS]
        self._momentum: dict[str, torch.Tensor] = {}

    def params(self) -> Params:
        return {
            name: tensor.detach().to("cpu", copy=True).numpy().astype(np.float32, copy=False)
            for name, tensor in self._tensors.items()
        }

    # -- training -----------------------------------------------------------------------

    def train_step(self, x: FloatArray, y: IntArray, settings: StepSettings) -> float:
        weights = [self._tensors[name].requires_grad_(True) for name in self._trained]
        parts = list(self._micro_batches(x, y, settings.micro_batch))
        # k micro-batches together move the statistics as far as one batch does.
        mode = Mode(training=True, momentum=1.0 - (1.0 - BN_MOMENTUM) ** (1.0 / len(parts)))
        gradients: list[torch.Tensor] = []
        total = 0.0
        for part_x, part_y in parts:
            share = len(part_y) / len(y)
            loss = functional.cross_entropy(forward(self._graph, self._tensors, part_x, mode), part_y) * share
            part = list(torch.autograd.grad(loss, weights))
            if gradients:
                torch._foreach_add_(gradients, part)
            else:
                gradients = part
            total += float(loss.detach())
        with torch.no_grad():
            self._apply(weights, gradients, settings)
        for weight in weights:
            weight.requires_grad_(False)
        return total

    def _apply(self, weights: list[torch.Tensor], gradients: list[torch.Tensor], settings: StepSettings) -> None:
        """SGD. Masked gradients keep weights and momentum at exactly zero where masked."""
        if settings.weight_decay:
            torch._foreach_add_(gradients, weights, alpha=settings.weight_decay)
        for name, gradient in zip(self._trained, gradients, strict=True):
            if name in self._active:
                gradient.mul_(self._active[name])
        if settings.momentum:
            if not self._momentum:
                self._momentum = dict(zip(self._trained, gradients, strict=True))
            else:
                velocity = [self._momentum[name] for name in self._trained]
                torch._foreach_mul_(velocity, settings.momentum)
                torch._foreach_add_(velocity, gradients)
            gradients = [self._momentum[name] for name in self._trained]
        torch._foreach_add_(weights, gradients, alpha=-settings.learning_rate)

    def update_statistics(self, x: FloatArray, micro_batch: int = 0) -> None:
        labels = np.zeros(len(x), np.int64)
        parts = list(self._micro_batches(x, labels, micro_batch))
        mode = Mode(training=True, momentum=1.0 - (1.0 - BN_MOMENTUM) ** (1.0 / len(parts)))
        with torch.no_grad():
            for part, _ in parts:
                forward(self._graph, self._tensors, part, mode)

    # -- evaluation ---------------------------------------------------------------------

    def evaluate(self, x: FloatArray, y: IntArray, batch: int = 256) -> Evaluation:
        loss, correct = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(y), batch):
                logits = self._logits(x[start : start + batch])
                labels = torch.from_numpy(y[start : start + batch]).to(self._device)
                loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
                correct += int((logits.argmax(1) == labels).sum())
        return Evaluation(len(y), loss, correct)

    def predict(self, x: FloatArray, batch: int = 256) -> FloatArray:
        with torch.no_grad():
            parts = [self._logits(x[start : start + batch]).cpu().numpy() for start in range(0, len(x), batch)]
        return np.concatenate(parts) if parts else np.empty((0, self._graph.classes), np.float32)

    def _logits(self, x: FloatArray) -> torch.Tensor:
        return forward(self._graph, self._tensors, torch.from_numpy(x).to(self._device), Mode(training=False))

    # -- growth -------------------------------------------------------------------------

    def top_gradients(
        self, x: FloatArray, y: IntArray, counts: Mapping[str, int], micro_batch: int = 0
    ) -> dict[str, SparseVector]:
        layers = [node for node in self._graph.nodes if counts.get(node.weight, 0) > 0]
        parts = list(self._micro_batches(x, y, micro_batch))
        # One pass serves all layers; with micro-batches one pass a layer, so that only one layer's
        # input and output gradient of the whole batch are ever held.
        groups = [layers] if layers and len(parts) == 1 else [[layer] for layer in layers]
        found: dict[str, SparseVector] = {}
        for group in groups:
            captured = [self._capture(part_x, part_y, len(part_y) / len(y), group) for part_x, part_y in parts]
            for node in group:
                inputs = torch.cat([part[node.name][0] for part in captured])
                gradients = torch.cat([part[node.name][1] for part in captured])
                found[node.weight] = self._largest(node, inputs, gradients, counts[node.weight])
        return {name: found.get(name) or StreamingTopK(0).result() for name in counts}

    def _capture(
        self, x: torch.Tensor, y: torch.Tensor, share: float, layers: Sequence[Node]
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Input and output gradient of each layer; no weight gradient is computed."""
        capture = Capture({node.name for node in layers})
        logits = forward(self._graph, self._tensors, x, Mode(training=True, momentum=None), capture)
        loss = functional.cross_entropy(logits, y) * share
        outputs = [capture.outputs[node.name] for node in layers]
        gradients = torch.autograd.grad(loss, outputs)
        return {
            node.name: (capture.inputs[node.name], gradient)
            for node, gradient in zip(layers, gradients, strict=True)
        }

    def _largest(self, node: Node, inputs: torch.Tensor, gradients: torch.Tensor, count: int) -> SparseVector:
        """Stream the weight gradient in tiles of output channels, keeping the largest pruned entries."""
        top = StreamingTopK(count)
        active = self._active.get(node.weight)
        if active is None:
            return top.result()  # a dense layer has no pruned weight to grow
        shape = self._graph.params[node.weight].shape
        fan_in = int(np.prod(shape[1:]))
        # A grouped convolution ties output to input channels: its small gradient is one tile.
        tile = shape[0] if node.groups > 1 else max(4, TILE_ELEMENTS // fan_in)
        for start in range(0, shape[0], tile):
            rows = slice(start, min(start + tile, shape[0]))
            gradient = _weight_gradient(node, inputs, gradients[:, rows], (rows.stop - rows.start, *shape[1:]))
            pruned = torch.nonzero(active[rows].reshape(-1).logical_not()).reshape(-1)
            values = gradient.reshape(-1)[pruned].cpu().numpy()
            top.push(pruned.cpu().numpy() + start * fan_in, values)
        return top.result()

    def _micro_batches(self, x: FloatArray, y: IntArray, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Even parts of at most ``size`` samples, on the engine's device."""
        parts = 1 if size <= 0 else -(-len(y) // size)
        for index in np.array_split(np.arange(len(y)), parts):
            rows = slice(int(index[0]), int(index[-1]) + 1)
            yield torch.from_numpy(x[rows]).to(self._device), torch.from_numpy(y[rows]).to(self._device)


def _weight_gradient(
    node: Node, inputs: torch.Tensor, gradients: torch.Tensor, shape: tuple[int, ...]
) -> torch.Tensor:
    """Gradient of the weights that make these output channels."""
    if not node.kernel:
        return gradients.T @ inputs
    weight_like = torch.empty(shape, device=inputs.device)
    dilation = [1] * len(node.kernel)
    result: Any = torch.ops.aten.convolution_backward(
        gradients.contiguous(), inputs, weight_like, None, list(node.stride), list(node.padding), dilation,
        False, [0] * len(node.kernel), node.groups, (False, True, False),
    )  # fmt: skip
    gradient: torch.Tensor = result[1]
    return gradient

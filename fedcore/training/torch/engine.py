"""The reference engine: torch on CPU or CUDA. Masked dense arithmetic; exact, but it saves nothing on a board."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from tinyfleet.fedcore.arrays import AnyArray, FloatArray, IntArray, Mask, Params
from tinyfleet.fedcore.models.graph import STATISTICS, Graph, Node
from tinyfleet.fedcore.payload import SparseVector
from tinyfleet.fedcore.sparsity.topk import StreamingTopK
from tinyfleet.fedcore.training.allocator import keep_freed_memory
from tinyfleet.fedcore.training.engine import GROWTH, Engine, Evaluation, StepSettings
from tinyfleet.fedcore.training.first_pass import first_pass
from tinyfleet.fedcore.training.local_optimiser import LocalOptimiser
from tinyfleet.fedcore.training.torch.activation_pruning import Pruning
from tinyfleet.fedcore.training.torch.forward import Mode, forward
from tinyfleet.fedcore.training.torch.growth import largest_pruned, weight_gradient
from tinyfleet.fedcore.training.torch.layers import Collect, Collector

BN_MOMENTUM = 0.1


class TorchEngine(Engine):
    """Holds one model's tensors, its masks and its momentum; no ``torch.nn`` module and no ``torch.optim``
    (whose import alone costs 71 MB).

    Deterministic for a given ``threads``; on CUDA with cuDNN's deterministic algorithms.
    """

    name = "torch"

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        keep_freed_memory()
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
        self._tensors = {name: self._placed(params[name], torch.float32, copy=True) for name in graph.params}
        self._active = {name: self._placed(active, torch.bool) for name, active in mask.items()}
        self._marked: dict[str, torch.Tensor] = {}
        for name, active in self._active.items():
            self._tensors[name].mul_(active)
        self._trained = [name for name, spec in graph.params.items() if spec.role not in STATISTICS]
        self._momentum: dict[str, torch.Tensor] = {}
        self._passed = first_pass(graph, params)
        self._optimiser = LocalOptimiser()

    def params(self) -> Params:
        return {
            name: np.array(tensor.detach().to("cpu").numpy(), np.float32, order="C")
            for name, tensor in self._tensors.items()
        }

    def _placed(self, values: AnyArray, dtype: torch.dtype, *, copy: bool = False) -> torch.Tensor:
        """``values`` on the device; images and their kernels with channels innermost, which trains faster."""
        tensor = torch.from_numpy(values).to(self._device, dtype, copy=copy)
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    def mark(self, positions: Mapping[str, IntArray]) -> None:
        self._marked = {
            name: torch.from_numpy(np.stack(np.unravel_index(flat, self._graph.params[name].shape))).to(
                self._device
            )
            for name, flat in positions.items()
            if len(flat)
        }

    def marked_norm(self) -> float:
        squares = [self._tensors[name][tuple(at)].detach().square().sum() for name, at in self._marked.items()]
        return float(torch.stack(squares).sum().sqrt()) if squares else 0.0

    # -- training -----------------------------------------------------------------------

    def train_step(self, x: FloatArray, y: IntArray, settings: StepSettings) -> float:
        parts = list(self._micro_batches(x, y, settings.levers.micro_batch))
        # k micro-batches together move the statistics as far as one batch does.
        momentum = 1.0 - (1.0 - BN_MOMENTUM) ** (1.0 / len(parts))
        mode = Mode(True, momentum, self._active, self._pruning(settings), passed=self._passed)
        sums: dict[str, torch.Tensor] = {}
        total = 0.0
        for index, (part_x, part_y) in enumerate(parts):
            share = len(part_y) / len(y)
            last = index == len(parts) - 1 and not settings.beyond_sgd
            with self._receiving(sums, settings if last else None):
                loss = functional.cross_entropy(forward(self._graph, self._tensors, part_x, mode), part_y) * share
                total += float(loss.detach())
                torch.autograd.backward([loss])
            mode = replace(mode, passed=mode.passed + 1)
        self._passed = mode.passed
        if settings.beyond_sgd:
            with torch.no_grad():
                self._move(sums, settings)
        return total

    def _move(self, gradients: dict[str, torch.Tensor], settings: StepSettings) -> None:
        """A step that needs all gradients at once."""
        for name, gradient in gradients.items():
            self._complete(name, self._tensors[name], gradient, settings)
        self._optimiser.step(settings, {name: self._tensors[name] for name in gradients}, gradients)

    def _complete(self, name: str, weight: torch.Tensor, gradient: torch.Tensor, settings: StepSettings) -> None:
        """The penalty's part; nothing where masked."""
        if settings.penalty and name in self._marked:
            at = tuple(self._marked[name])
            gradient[at] += 2.0 * settings.penalty * weight[at]
        if name in self._active:
            gradient.mul_(self._active[name])

    @contextlib.contextmanager
    def _receiving(self, sums: dict[str, torch.Tensor], settings: StepSettings | None) -> Iterator[None]:
        """Take each gradient as the backward pass gives it, and with ``settings`` update its weight at once.

        A weight serves one layer, whose backward pass is over by then: so no two gradients of a step are
        ever held, unless micro-batches have to be summed.
        """

        def receive(name: str, weight: torch.Tensor) -> None:
            gradient = weight.grad
            assert gradient is not None  # noqa: S101 - it has just been accumulated
            weight.grad = None
            if name in sums:
                gradient.add_(sums.pop(name))
            if settings is None:
                sums[name] = gradient
            else:
                with torch.no_grad():
                    self._update(name, weight, gradient, settings)

        handles = []
        for name in self._trained:
            weight = self._tensors[name].requires_grad_(True)
            hook = partial(receive, name)
            handles.append(weight.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for name in self._trained:
                self._tensors[name].requires_grad_(False)

    def _pruning(self, settings: StepSettings) -> Pruning | None:
        levers = settings.levers
        if not levers.lossy:
            return None
        dtype = torch.float16 if levers.cache == "fp16" else torch.float32
        return Pruning(levers.activation_keep, dtype, settings.pruned_norm)

    def _update(self, name: str, weight: torch.Tensor, gradient: torch.Tensor, settings: StepSettings) -> None:
        """SGD. Masked gradients keep weights and momentum at exactly zero where masked."""
        if settings.weight_decay:
            gradient.add_(weight, alpha=settings.weight_decay)
        self._complete(name, weight, gradient, settings)
        if settings.momentum:
            velocity = self._momentum.get(name)
            gradient = gradient if velocity is None else velocity.mul_(settings.momentum).add_(gradient)
            self._momentum[name] = gradient
        weight.add_(gradient, alpha=-settings.learning_rate)

    def update_statistics(self, x: FloatArray, micro_batch: int = 0) -> None:
        labels = np.zeros(len(x), np.int64)
        parts = list(self._micro_batches(x, labels, micro_batch))
        momentum = 1.0 - (1.0 - BN_MOMENTUM) ** (1.0 / len(parts))
        mode = Mode(training=True, momentum=momentum, active=self._active, passed=self._passed)
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
        mode = Mode(training=False, active=self._active)
        return forward(self._graph, self._tensors, self._placed(x, torch.float32), mode)

    # -- gradients of pruned weights ----------------------------------------------------

    def top_gradients(
        self, x: FloatArray, y: IntArray, counts: Mapping[str, int], settings: StepSettings = GROWTH
    ) -> dict[str, SparseVector]:
        layers = [
            node for node in self._graph.nodes if counts.get(node.weight, 0) > 0 and node.weight in self._active
        ]
        parts = list(self._micro_batches(x, y, settings.levers.micro_batch))
        found: dict[str, SparseVector] = {}
        pruning = self._pruning(settings)
        if len(parts) == 1:
            # Each layer's gradient is searched as the backward pass comes by: nothing waits for another layer.
            def search(node: Node, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
                found[node.weight] = largest_pruned(
                    node, inputs, gradient, self._active[node.weight], counts[node.weight]
                )

            self._backward(*parts[0], layers, search, pruning)
        else:
            # One pass a layer, so that only one layer's input and output gradient of the whole batch are held.
            for node in layers:
                held: list[torch.Tensor] = []
                begin = 0
                for part_x, part_y in parts:
                    collect = partial(_hold, held, begin, len(y))
                    self._backward(part_x, part_y, [node], collect, pruning)
                    begin += len(part_y)
                inputs, gradients = held
                found[node.weight] = largest_pruned(
                    node, inputs, gradients, self._active[node.weight], counts[node.weight]
                )
        return {name: found.get(name) or StreamingTopK(0).result() for name in counts}

    def dense_gradients(
        self, x: FloatArray, y: IntArray, names: Iterable[str], objective: Literal["loss", "flow"] = "loss"
    ) -> Params:
        wanted = set(names)
        found: Params = {}

        def take(node: Node, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
            shape = self._graph.params[node.weight].shape
            whole = weight_gradient(node, inputs, gradient, shape)
            found[node.weight] = np.array(whole.cpu().numpy(), np.float32, order="C")

        (part,) = self._micro_batches(x, y, 0)
        layers = [node for node in self._graph.weighted if node.weight in wanted]
        self._backward(*part, layers, take, None, objective)
        return found

    def _backward(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        layers: Sequence[Node],
        collect: Collect,
        pruning: Pruning | None,
        objective: str = "loss",
    ) -> None:
        """One backward pass that hands each layer's input and output gradient to ``collect``.

        It goes no deeper than the first of ``layers`` and computes no weight gradient of its own.
        """
        if not layers:
            return
        collector = Collector(frozenset(node.name for node in layers), collect, self._device)
        mode = Mode(True, None, self._active, pruning, collector, self._passed)
        logits = forward(self._graph, self._tensors, x, mode)
        loss = functional.cross_entropy(logits, y) if objective == "loss" else logits.sum()
        torch.autograd.grad(loss, [collector.token], allow_unused=True)

    def _micro_batches(self, x: FloatArray, y: IntArray, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Even parts of at most ``size`` samples, on the engine's device."""
        parts = 1 if size <= 0 else -(-len(y) // size)
        for index in np.array_split(np.arange(len(y)), parts):
            rows = slice(int(index[0]), int(index[-1]) + 1)
            yield self._placed(x[rows], torch.float32), torch.from_numpy(y[rows]).to(self._device)


def _hold(
    held: list[torch.Tensor], begin: int, samples: int, _node: Node, inputs: torch.Tensor, gradient: torch.Tensor
) -> None:
    """Put one part's input and output gradient, weighted by its size, into those of all ``samples``."""
    if not held:
        held += [_rows_like(part, samples) for part in (inputs, gradient)]
    rows = slice(begin, begin + len(inputs))
    held[0][rows] = inputs
    torch.mul(gradient, len(inputs) / samples, out=held[1][rows])


def _rows_like(part: torch.Tensor, samples: int) -> torch.Tensor:
    """Room for so many rows, laid out in memory as ``part`` is."""
    innermost = part.dim() == 4 and part.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if innermost else torch.contiguous_format
    return torch.empty((samples, *part.shape[1:]), dtype=part.dtype, device=part.device, memory_format=layout)

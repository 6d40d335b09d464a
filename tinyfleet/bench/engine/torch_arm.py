"""A child process that trains the same model with dense torch, a step each time it is told to.

``python -m tinyfleet.bench.engine.torch_arm``, asked as ``child`` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import torch

from tinyfleet.bench.engine.cells import LEARNING_RATE, MOMENTUM
from tinyfleet.bench.engine.child import main, steps
from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.torch import engine as torch_engine


class RowMajor(torch_engine.TorchEngine):
    """The torch engine with channels outermost, torch's default."""

    def _placed(self, values: AnyArray, dtype: torch.dtype, *, copy: bool = False) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device, dtype, copy=copy)


def engine_of(layout: str, malloc: str, threads: int) -> torch_engine.TorchEngine:
    """``layout`` "channels_last" or "contiguous"; ``malloc`` "tuned" as the torch engine does, or "default"."""
    if malloc == "default":
        # Of this process alone, which has nothing else to train.
        setattr(torch_engine, "keep_freed_memory", lambda: None)  # noqa: B010
    return (RowMajor if layout == "contiguous" else torch_engine.TorchEngine)(threads)


def serve(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers: to the first step, then to each that the caller asks for."""
    graph = build(msgspec.convert(request["settings"], ModelSettings))
    engine = engine_of(request["layout"], request["malloc"], request["threads"])
    engine.load(graph, graph.initial_params(0), {})  # no mask: nothing that dense training would not do
    settings = StepSettings(LEARNING_RATE, momentum=MOMENTUM)
    return steps(lambda x, y: engine.train_step(x, y, settings), request["batch"], graph.input_shape, graph.classes)


if __name__ == "__main__":
    main(serve)

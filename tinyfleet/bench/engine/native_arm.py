"""A child process that trains one model with the native engine, a step each time it is told to.

``python -m tinyfleet.bench.engine.native_arm``, asked as ``child`` says. It imports no more than the
engine needs, so that its memory is the engine's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_engine.layers import Layer, Model, Op
from sparse_engine.network import Network
from sparse_engine.step_options import StepOptions
from tinyfleet.bench.engine.cells import LEARNING_RATE, MOMENTUM
from tinyfleet.bench.engine.child import main, steps
from tinyfleet.fedcore.training.allocator import trim
from tinyfleet.fedcore.training.levers import Levers

Floats = NDArray[np.float32]
DRAWN = 4099  # values, over and over: a first step's time is not to be that of drawing millions


class Drawn(Mapping[str, Any]):
    """Random masks, or the parameters that go with them; one layer's is made when it is asked for, and not kept.

    Every maskable layer has just the share ``density`` of its weights, anywhere; the masks are the same
    whenever they are drawn.
    """

    def __init__(self, model: Model, maskable: list[str], density: float, *, masks: bool) -> None:
        self._layers = {layer.name: layer for layer in model.layers}
        self._maskable = frozenset(maskable)
        self._density = density
        self._masks = masks
        self._seeds = {name: seed for seed, name in enumerate(self._layers)}

    def __getitem__(self, name: str) -> Any:
        layer, _, what = name.rpartition(".")
        if layer not in self._layers or (self._masks and layer not in self._maskable):
            raise KeyError(name)
        rng = np.random.default_rng(self._seeds[layer])
        if self._masks:
            return self._mask(self._layers[layer], rng)
        return self._values(self._layers[layer], what, rng)

    def __contains__(self, name: object) -> bool:
        layer = str(name).rpartition(".")[0]
        return layer in (self._maskable if self._masks else self._layers)

    def __iter__(self) -> Iterator[str]:
        return (f"{name}.weight" for name in (self._maskable if self._masks else self._layers))

    def __len__(self) -> int:
        return len(self._maskable if self._masks else self._layers)

    def _mask(self, layer: Layer, rng: np.random.Generator) -> NDArray[np.bool_]:
        mask = np.zeros(layer.weight_shape, bool)
        mask.reshape(-1)[positions(rng, mask.size, max(1, int(self._density * mask.size)))] = True
        return mask

    def _values(self, layer: Layer, what: str, rng: np.random.Generator) -> Floats:
        if layer.op is Op.BATCH_NORM or what != "weight":
            ones = what in ("weight", "running_var", "gain")
            return np.full(layer.out_channels, ones, np.float32)
        shape = layer.weight_shape
        share = self._density if layer.name in self._maskable else 1.0
        some = rng.standard_normal(DRAWN, np.float32)
        some *= (2.0 / max(1.0, share * math.prod(shape[1:]))) ** 0.5
        return np.resize(some, shape)


def positions(rng: np.random.Generator, size: int, count: int) -> NDArray[np.int64]:
    """``count`` of ``size`` positions, ascending, any set as likely as another; no memory but for them."""
    if count >= size:
        return np.arange(size)
    found: NDArray[np.int64] = np.unique(rng.integers(size, size=count))
    while len(found) < count:
        found = np.unique(np.concatenate([found, rng.integers(size, size=count - len(found))]))
    return found


def model_from(document: dict[str, Any]) -> Model:
    """A model as ``dataclasses.asdict`` wrote it, lists for tuples."""
    layers = []
    for fields in document["layers"]:
        tuples = {name: tuple(fields[name]) for name in ("inputs", "kernel", "stride", "padding", "dilation")}
        layers.append(Layer(**{**fields, **tuples, "op": Op(fields["op"])}))
    return Model(tuple(document["input_shape"]), tuple(layers))


def serve(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers: to the first step, then to each that the caller asks for."""
    model = model_from(request["model"])
    network = Network(model, request["threads"])
    maskable, density = request["maskable"], request["density"]
    network.set(
        Drawn(model, maskable, density, masks=False),
        Drawn(model, maskable, density, masks=True) if density < 1.0 else None,
    )
    trim()
    levers = Levers(**request["levers"])
    step = StepOptions(
        LEARNING_RATE,
        MOMENTUM,
        micro_batch=levers.micro_batch,
        recompute=levers.recompute,
        keep=levers.activation_keep,
        cache=levers.cache,
        pruned_norm=request["pruned_norm"],
    )
    classes = model.layers[-1].out_channels
    return steps(lambda x, y: network.train_step(x, y, step), request["batch"], model.input_shape, classes)


if __name__ == "__main__":
    main(serve)

"""The numbers of a model: only the weights that are left, norms, and their momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from sparse_engine import _core
from sparse_engine.arrays import floats, integers
from sparse_engine.file.sections import Sparse
from sparse_engine.layers import Model, ModelError, Op
from sparse_engine.program.tape import State

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Parameters:
    """Of one model, by layer. Masks and positions are of ``LAYER.weight`` in its full shape."""

    def __init__(self, model: Model, dense_from: Mapping[str, float] | None = None) -> None:
        self.model = model
        self._layers = {layer.name: layer for layer in model.layers}
        weights, norms = {}, {}
        for layer in model.layers:
            if layer.op in (Op.CONV, Op.LINEAR):
                row = int(np.prod(layer.weight_shape[1:]))
                norm = getattr(_core.WeightNorm, layer.weight_norm or "none")
                weights[layer.name] = _core.Weights(layer.out_channels, row, layer.bias, norm)
            elif layer.op is Op.BATCH_NORM:
                norms[layer.name] = _core.Norm(layer.out_channels)
        unknown = sorted(set(dense_from or ()) - weights.keys())
        if unknown:
            raise ModelError(f"dense_from names {unknown}, which are no convolutions or linear layers of the model")
        self.state = State(weights, norms, dict(dense_from or {}))

    def set(self, params: Mapping[str, Floats], mask: Mapping[str, NDArray[np.bool_]] | None = None) -> None:
        """Take numbers; weights outside the mask are dropped, and all momentum is cleared."""
        self._check_names("mask", mask or ())
        for name, weights in self.state.weights.items():
            shape = self._layers[name].weight_shape
            values = _array(params, f"{name}.weight", shape).reshape(-1)
            active = None if mask is None else mask.get(f"{name}.weight")
            if active is not None and active.shape != shape:
                raise ModelError(f"mask of {name}.weight has shape {active.shape}, not {shape}")
            if active is None:
                weights.set(np.arange(values.size, dtype=np.int64), values)
            else:
                positions = np.flatnonzero(active.reshape(-1)).astype(np.int64)
                weights.set(positions, values[positions])
        self._set_channels(lambda name, shape: _array(params, name, shape))

    def load(self, arrays: Mapping[str, Sparse]) -> None:
        """Take a file's numbers, weights without ever being whole; all momentum is cleared."""
        for name, weights in self.state.weights.items():
            weight = arrays[f"{name}.weight"]
            weights.set(weight.positions, weight.values)
        self._set_channels(lambda name, _: arrays[name].dense())

    def _set_channels(self, read: Callable[[str, tuple[int, ...]], Floats]) -> None:
        """What has one number a channel: biases, gains and norms."""
        for name, weights in self.state.weights.items():
            layer = self._layers[name]
            for suffix, has, param in (
                ("bias", layer.bias, weights.bias),
                ("gain", layer.weight_norm, weights.gain),
            ):
                if has:
                    param.value = read(f"{name}.{suffix}", (layer.out_channels,))
                    param.velocity = np.zeros(layer.out_channels, np.float32)
        for name, norm in self.state.norms.items():
            shape = (self._layers[name].out_channels,)
            norm.gamma.value = read(f"{name}.weight", shape)
            norm.beta.value = read(f"{name}.bias", shape)
            for param in (norm.gamma, norm.beta):
                param.velocity = np.zeros(shape, np.float32)
            norm.running_mean = read(f"{name}.running_mean", shape)
            norm.running_var = read(f"{name}.running_var", shape)

    def get(self) -> dict[str, Floats]:
        """Dense copies of all numbers."""
        found: dict[str, Floats] = {}
        for layer in self.model.layers:
            if (weights := self.state.weights.get(layer.name)) is not None:  # those of an empty layer are false
                dense = np.zeros(int(np.prod(layer.weight_shape)), np.float32)
                dense[weights.positions] = weights.param.value
                found[f"{layer.name}.weight"] = dense.reshape(layer.weight_shape)
                if layer.weight_norm:
                    found[f"{layer.name}.gain"] = weights.gain.value
                if layer.bias:
                    found[f"{layer.name}.bias"] = weights.bias.value
            elif norm := self.state.norms.get(layer.name):
                found[f"{layer.name}.weight"] = norm.gamma.value
                found[f"{layer.name}.bias"] = norm.beta.value
                found[f"{layer.name}.running_mean"] = norm.running_mean
                found[f"{layer.name}.running_var"] = norm.running_var
        return found

    def mark(self, positions: Mapping[str, Ints]) -> None:
        """Flat positions of the weights that ``StepOptions.penalty`` draws to zero."""
        self._check_names("marked positions", positions)
        for name, weights in self.state.weights.items():
            weights.mark(integers(positions.get(f"{name}.weight", ()), f"marked positions of {name}"))

    def marked_norm(self) -> float:
        """The 2-norm of all marked weights together."""
        return float(np.sqrt(sum(weights.marked_square() for weights in self.state.weights.values())))

    def _check_names(self, what: str, names: Iterable[str]) -> None:
        if unknown := sorted(set(names) - {f"{name}.weight" for name in self.state.weights}):
            raise ModelError(f"{what} of {', '.join(unknown)}, of which the model has no weight")

    # -- pruning, growing, going on ------------------------------------------------------

    def remask(self, mask: Mapping[str, NDArray[np.bool_]]) -> None:
        """Prune and grow in place: what stays keeps its value and momentum, what is new begins at zero."""
        for name, active in mask.items():
            layer = self._layers.get(name.removesuffix(".weight"))
            if layer is None or layer.name not in self.state.weights or active.shape != layer.weight_shape:
                raise ModelError(f"mask {name} of shape {active.shape} fits no weight of the model")
        for name, active in mask.items():
            weights = self.state.weights[name.removesuffix(".weight")]
            old, new = weights.positions, np.flatnonzero(active).astype(np.int64)
            stays, at = np.isin(new, old, assume_unique=True), np.isin(old, new, assume_unique=True)
            moved = []
            for values in (weights.param.value, weights.param.velocity):
                moved.append(np.zeros(len(new), np.float32))
                moved[-1][stays] = values[at]
            weights.set(new, moved[0])
            weights.param.velocity = moved[1]

    def checkpoint(self) -> dict[str, Floats | Ints]:
        """All that training goes on from: positions, values, momentum and running statistics, by name."""
        found: dict[str, Floats | Ints] = {}
        for name, weights in self.state.weights.items():
            found[f"{name}.positions"] = weights.positions
        for name, param in self._params():
            found[f"{name}.value"] = param.value
            found[f"{name}.velocity"] = param.velocity
        for name, norm in self.state.norms.items():
            found[f"{name}.running_mean"] = norm.running_mean
            found[f"{name}.running_var"] = norm.running_var
        return found

    def restore(self, state: Mapping[str, Floats | Ints]) -> None:
        """Go on from a ``checkpoint``. Raises ``ModelError`` where it is of another model."""
        if missing := self.checkpoint().keys() - state.keys():
            raise ModelError(
                f"the checkpoint lacks {min(missing)} and {len(missing) - 1} more: it is of another model"
            )
        try:
            for name, weights in self.state.weights.items():
                positions = np.ascontiguousarray(state[f"{name}.positions"], np.int64)
                weights.set(positions, np.ascontiguousarray(state[f"{name}.weight.value"], np.float32))
            for name, param in self._params():
                param.value = np.ascontiguousarray(state[f"{name}.value"], np.float32)
                param.velocity = np.ascontiguousarray(state[f"{name}.velocity"], np.float32)
            for name, norm in self.state.norms.items():
                norm.running_mean = np.ascontiguousarray(state[f"{name}.running_mean"], np.float32)
                norm.running_var = np.ascontiguousarray(state[f"{name}.running_var"], np.float32)
        except ValueError as error:
            raise ModelError(f"the checkpoint does not fit the model: {error}") from None

    def _params(self) -> Iterator[tuple[str, _core.Param]]:
        """All trained vectors by name, those that have no values included."""
        for name, weights in self.state.weights.items():
            yield f"{name}.weight", weights.param
            yield f"{name}.bias", weights.bias
            yield f"{name}.gain", weights.gain
        for name, norm in self.state.norms.items():
            yield f"{name}.weight", norm.gamma
            yield f"{name}.bias", norm.beta


def _array(params: Mapping[str, Floats], name: str, shape: tuple[int, ...]) -> Floats:
    if name not in params:
        raise ModelError(f"{name} is missing")
    values = floats(params[name], name)
    if values.shape != shape:
        raise ModelError(f"{name} has shape {values.shape}, not {shape}")
    return values

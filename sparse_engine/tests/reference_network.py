"""A model's training step in float64, layer after layer: nothing is fused, stored apart or left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from reference import (
    KINKS,
    Array,
    Sides,
    activation,
    activation_slope,
    batch_norm,
    batch_norm_gradients,
    convolution,
    convolution_gradients,
    kept,
    moved,
    moved_gradient,
    normalised,
    normalised_gradients,
    objective,
    pool,
    pool_gradient,
    pruned_batch_norm_gradients,
)

from sparse_engine import Cache, Layer, Model, Op, StepOptions

BN_MOMENTUM = 0.1
WEIGHTED = (Op.CONV, Op.LINEAR)
MOVING = (Op.SLICE, Op.CROP, Op.SHUFFLE, Op.UPSAMPLE)
POOLS = (Op.MAX_POOL, Op.AVG_POOL, Op.GLOBAL_AVG_POOL)


def _pair(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    return (*((missing,) * (2 - len(values))), *values)  # type: ignore[return-value]


def _sides(layer: Layer) -> Sides:
    rows, columns = zip(*(_pair(side, 0) for side in layer.pads), strict=True)
    return rows, columns


class Reference:
    """``params`` and ``mask`` are named as the engine's. ``dropped`` gives each dropout layer's factors.

    ``caches``: what the backward pass sees of the inputs of layers with weights, and of norms' normalised values,
    by the layer's name; all where none is given.
    """

    def __init__(self, model: Model, params: dict, mask: dict | None = None, dropped: dict | None = None):
        self.caches: dict[str, Cache] = {}
        self.model, self.dropped = model, dropped or {}
        self.params = {name: np.array(value, np.float64) for name, value in params.items()}
        self.mask = {}
        for layer in model.layers:
            if layer.op in WEIGHTED:
                name = f"{layer.name}.weight"
                self.mask[name] = np.ones(layer.weight_shape, np.bool_)
                if mask and name in mask:
                    self.mask[name] = mask[name]
                self.params[name] *= self.mask[name]
        self.velocity = {name: np.zeros_like(value) for name, value in self.params.items() if "running" not in name}
        self.marked: dict[str, NDArray[np.int64]] = {}
        self.values: dict[str, Array] = {}

    # -- forwards ------------------------------------------------------------------------

    def forward(self, x: Array, training: bool = False, momentum: float = 0.0) -> Array:
        """Logits (N, classes); ``momentum`` moves the running statistics."""
        x = np.asarray(x, np.float64)
        self.values = {"input": x if x.ndim == 4 else x[:, :, None, :]}
        for layer in self.model.layers:
            self.values[layer.name] = self._layer(layer, training, momentum)
        return self.values[self.model.layers[-1].name][:, :, 0, 0]

    def used_weight(self, layer: Layer) -> Array:
        """As the layer is computed with: masked, normalised, of four dimensions."""
        weight = self.params[f"{layer.name}.weight"]
        if layer.weight_norm:
            active = self.mask[f"{layer.name}.weight"]
            weight = normalised(weight, self.params[f"{layer.name}.gain"], active, layer.weight_norm)
        return weight.reshape(*weight.shape[:2], *_pair(weight.shape[2:], 1))

    def _layer(self, layer: Layer, training: bool, momentum: float) -> Array:
        sources = [self.values[name] for name in layer.inputs]
        x = sources[0]
        if layer.op in WEIGHTED:
            return self._convolution(layer, x)
        if layer.op is Op.BATCH_NORM:
            return self._batch_norm(layer.name, x, training, momentum)
        if layer.op in POOLS:
            return pool(x, *self._window(layer, x), layer.op is Op.MAX_POOL)
        if layer.op is Op.ADD:
            return sources[0] + sources[1]
        if layer.op is Op.MUL:
            return sources[0] * sources[1]
        if layer.op is Op.CONCAT:
            return np.concatenate(sources, axis=1)
        if layer.op in MOVING:
            return moved(layer, x)
        if layer.op is Op.FLATTEN:
            return x.reshape(len(x), -1, 1, 1)
        if layer.op is Op.DROPOUT:
            return x * self.dropped[layer.name] if training else x
        return layer.gain * activation(layer.op.value, x)

    def _convolution(self, layer: Layer, x: Array) -> Array:
        flat = x.reshape(len(x), -1, 1, 1) if layer.op is Op.LINEAR else x
        out = convolution(flat, self.used_weight(layer), *self._geometry(layer))
        return out + self.params[f"{layer.name}.bias"][:, None, None] if layer.bias else out

    @staticmethod
    def _geometry(layer: Layer) -> tuple[tuple[int, int], Sides, int, tuple[int, int]]:
        return _pair(layer.stride, 1), _sides(layer), layer.groups, _pair(layer.dilation, 1)

    @staticmethod
    def _window(layer: Layer, x: Array) -> tuple[tuple[int, int], tuple[int, int], Sides]:
        if layer.op is Op.GLOBAL_AVG_POOL:
            return (x.shape[2], x.shape[3]), (1, 1), ((0, 0), (0, 0))
        return _pair(layer.kernel, 1), _pair(layer.stride, 1), _sides(layer)

    def _batch_norm(self, name: str, x: Array, training: bool, momentum: float) -> Array:
        gamma, beta = self.params[f"{name}.weight"], self.params[f"{name}.bias"]
        mean, var = self.params[f"{name}.running_mean"], self.params[f"{name}.running_var"]
        if not training:
            return batch_norm(x, gamma, beta, mean, var)
        own_mean, own_var = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
        count = x.size / x.shape[1]
        mean += momentum * (own_mean - mean)
        var += momentum * (own_var * (count / (count - 1) if count > 1 else 1.0) - var)
        return batch_norm(x, gamma, beta, own_mean, own_var)

    # -- backwards -----------------------------------------------------------------------

    def backward(self, of_logits: Array) -> dict[str, Array]:
        """Gradients of all values ("value:LAYER"), parameters, and weights as they are used ("used:LAYER")."""
        found: dict[str, Array] = {}

        def add(name: str, g: Array) -> None:
            found[name] = found[name] + g if name in found else g

        add(f"value:{self.model.layers[-1].name}", of_logits[:, :, None, None])
        for layer in reversed(self.model.layers):
            g = found.get(f"value:{layer.name}")
            if g is not None:
                for name, of_source in zip(layer.inputs, self._layer_gradients(layer, g, add), strict=True):
                    add(f"value:{name}", of_source)
        return found

    def _layer_gradients(self, layer: Layer, g: Array, add) -> list[Array]:
        sources = [self.values[name] for name in layer.inputs]
        x = sources[0]
        if layer.op in WEIGHTED:
            return [self._convolution_gradients(layer, x, g, add)]
        if layer.op is Op.BATCH_NORM:
            gamma, cache = self.params[f"{layer.name}.weight"], self.caches.get(layer.name)
            if cache is None:
                of_x, of_gamma, of_beta = batch_norm_gradients(x, gamma, g)
            else:
                of_x, of_gamma, of_beta = pruned_batch_norm_gradients(x, gamma, g, cache)
            add(f"{layer.name}.weight", of_gamma)
            add(f"{layer.name}.bias", of_beta)
            return [of_x]
        if layer.op in POOLS:
            return [pool_gradient(x, *self._window(layer, x), layer.op is Op.MAX_POOL, g)]
        if layer.op is Op.ADD:
            return [g, g]
        if layer.op is Op.MUL:
            whole = g * x
            one = sources[1].shape != x.shape
            return [g * sources[1], whole.sum(axis=(2, 3), keepdims=True) if one else whole]
        if layer.op in MOVING:
            return [moved_gradient(layer, x, g)]
        if layer.op is Op.CONCAT:
            return np.split(g, np.cumsum([source.shape[1] for source in sources])[:-1], axis=1)
        if layer.op is Op.FLATTEN:
            return [g.reshape(x.shape)]
        if layer.op is Op.DROPOUT:
            return [g * self.dropped[layer.name]]
        return [g * layer.gain * activation_slope(layer.op.value, x)]

    def _convolution_gradients(self, layer: Layer, x: Array, g: Array, add) -> Array:
        flat = x.reshape(len(x), -1, 1, 1) if layer.op is Op.LINEAR else x
        name, used = f"{layer.name}.weight", self.used_weight(layer)
        of_x, of_weight = convolution_gradients(flat, used, *self._geometry(layer), g)
        if layer.name in self.caches:
            seen = kept(flat, self.caches[layer.name])
            of_weight = convolution_gradients(seen, used, *self._geometry(layer), g)[1]
        of_weight = of_weight.reshape(layer.weight_shape)
        add(f"used:{layer.name}", of_weight)
        if layer.bias:
            add(f"{layer.name}.bias", g.sum(axis=(0, 2, 3)))
        if layer.weight_norm:
            gain = self.params[f"{layer.name}.gain"]
            of_weight, of_gain = normalised_gradients(
                self.params[name], gain, self.mask[name], layer.weight_norm, of_weight
            )
            add(f"{layer.name}.gain", of_gain)
        add(name, of_weight * self.mask[name])
        return of_x.reshape(x.shape)

    # -- training ------------------------------------------------------------------------

    def gradients(self, x: Array, y: NDArray[np.int64], name: str = "cross_entropy") -> dict[str, Array]:
        """In training mode; of the mean cross-entropy, but of the sums of the other objectives."""
        _, of_logits = objective(name, self.forward(x, training=True), y)
        return self.backward(of_logits / len(y) if name == "cross_entropy" else of_logits)

    def train_step(self, x: Array, y: NDArray[np.int64], step: StepOptions) -> float:
        """The mean cross-entropy of the whole batch at once, before the step."""
        loss, of_logits = objective("cross_entropy", self.forward(x, True, BN_MOMENTUM), y)
        found = self.backward(of_logits / len(y))
        for name, velocity in self.velocity.items():
            value = self.params[name]
            g = found.get(name, np.zeros_like(value)) + step.weight_decay * value
            if name in self.marked:
                at = np.unravel_index(self.marked[name], value.shape)
                g[at] += 2 * step.penalty * value[at]
            velocity[...] = step.momentum * velocity + g
            value -= step.learning_rate * velocity
        return loss / len(y)

    def margin(self) -> float:
        """How far the closest value of the last forward pass is from a kink of the activation that reads it.

        An exact zero, of an empty filter or another activation, is one in float32 as well.
        """
        least = np.inf
        for layer in self.model.layers:
            for kink in KINKS.get(layer.op.value, ()):
                distance = np.abs(self.values[layer.inputs[0]] - kink)
                least = min(least, float(distance.min(where=distance > 0, initial=np.inf)))
        return least

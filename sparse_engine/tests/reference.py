"""Layers in float64, forwards and backwards, written to be read: what the engine is held against.

All values are (N, C, H, W): 1-D images have one row, vectors one pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_engine import Cache, Layer, Op

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Pair = tuple[int, int]
Sides = tuple[Pair, Pair]
"""Padding: (before, behind) of rows, and of columns."""

BATCH_NORM_EPSILON = 1e-5
LEAKY_SLOPE = 0.01
NORM_FLOOR = 1e-4  # least N var of a normalised filter (FedMef, section 3.3)


# -- windows: what a kernel sees -----------------------------------------------------------


def windows(
    x: Array, kernel: Pair, stride: Pair, padding: Sides, fill: float = 0.0, dilation: Pair = (1, 1)
) -> Array:
    """(N, C, kernel rows, kernel columns, output rows, output columns) of the padded image."""
    padded = np.pad(x, ((0, 0), (0, 0), *padding), constant_values=fill)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    rows, columns = ((size - k) // s + 1 for size, k, s in zip(padded.shape[2:], spans, stride, strict=True))
    seen = np.empty((*x.shape[:2], *kernel, rows, columns))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            part = padded[:, :, i * dilation[0] :: stride[0], j * dilation[1] :: stride[1]]
            seen[:, :, i, j] = part[:, :, :rows, :columns]
    return seen


def windows_gradient(
    seen: Array, shape: tuple[int, ...], stride: Pair, padding: Sides, dilation: Pair = (1, 1)
) -> Array:
    """The gradient of the image of that shape, from its windows'."""
    n, c, kh, kw, rows, columns = seen.shape
    (top, bottom), (left, right) = padding
    padded = np.zeros((n, c, shape[2] + top + bottom, shape[3] + left + right))
    for i in range(kh):
        for j in range(kw):
            part = padded[:, :, i * dilation[0] :: stride[0], j * dilation[1] :: stride[1]]
            part[:, :, :rows, :columns] += seen[:, :, i, j]
    return padded[:, :, top : top + shape[2], left : left + shape[3]]


# -- layers with weights -------------------------------------------------------------------


def convolution(x: Array, weight: Array, stride: Pair, padding: Sides, groups: int, dilation: Pair) -> Array:
    """``weight`` is (out, in / groups, kernel rows, kernel columns)."""
    seen = windows(x, weight.shape[2:], stride, padding, 0.0, dilation)
    seen = seen.reshape(len(x), groups, -1, *seen.shape[2:])
    out = np.einsum("ngcijhw,gocij->ngohw", seen, weight.reshape(groups, -1, *weight.shape[1:]))
    return out.reshape(len(x), len(weight), *out.shape[3:])


def convolution_gradients(
    x: Array, weight: Array, stride: Pair, padding: Sides, groups: int, dilation: Pair, g: Array
) -> tuple[Array, Array]:
    """(of the image, of the weight)."""
    seen = windows(x, weight.shape[2:], stride, padding, 0.0, dilation)
    grouped = seen.reshape(len(x), groups, -1, *seen.shape[2:])
    filters = weight.reshape(groups, -1, *weight.shape[1:])
    g = g.reshape(len(x), groups, -1, *g.shape[2:])
    of_weight = np.einsum("ngohw,ngcijhw->gocij", g, grouped).reshape(weight.shape)
    of_seen = np.einsum("ngohw,gocij->ngcijhw", g, filters).reshape(seen.shape)
    return windows_gradient(of_seen, x.shape, stride, padding, dilation), of_weight


def _filters(weight: Array, active: Bools, norm: str) -> tuple[Array, Array, Array, Array, Array]:
    """(mask, N, standardised weights z, their scale s, whether the floor holds it), a filter a row."""
    mask = active.reshape(len(weight), -1)
    rows = np.where(mask, weight.reshape(len(weight), -1), 0.0)
    counted = np.ones_like(mask) if norm == "all" else mask
    count = np.maximum(counted.sum(axis=1, keepdims=True), 1).astype(np.float64)
    centred = np.where(counted, rows - rows.sum(axis=1, keepdims=True) / count, 0.0)
    energy = np.square(centred).sum(axis=1, keepdims=True)
    scale = np.sqrt(np.maximum(energy, NORM_FLOOR))
    return mask, count, centred / scale, scale, energy <= NORM_FLOOR


def normalised(weight: Array, gain: Array, active: Bools, norm: str) -> Array:
    """W^_ij = m_ij g_i (W_ij - mean_i) / sqrt(max(N_i var_i, 1e-4)) (FedMef, section 3.3)."""
    mask, _, z, _, _ = _filters(weight, active, norm)
    return np.where(mask, gain[:, None] * z, 0.0).reshape(weight.shape)


def normalised_gradients(weight: Array, gain: Array, active: Bools, norm: str, g: Array) -> tuple[Array, Array]:
    """(of the weight, of the gain), from the gradient of W^."""
    mask, count, z, scale, floored = _filters(weight, active, norm)
    g = np.where(mask, g.reshape(mask.shape), 0.0)
    along = (g * z).sum(axis=1, keepdims=True)
    h = g - g.sum(axis=1, keepdims=True) / count - np.where(floored, 0.0, along) * z
    return np.where(mask, gain[:, None] / scale * h, 0.0).reshape(weight.shape), along[:, 0]


# -- batch norm ----------------------------------------------------------------------------


def _channels(values: Array) -> Array:
    return values[None, :, None, None]


def batch_norm(x: Array, gamma: Array, beta: Array, mean: Array, var: Array) -> Array:
    return (x - _channels(mean)) / np.sqrt(_channels(var) + BATCH_NORM_EPSILON) * _channels(gamma) + _channels(beta)


def batch_norm_gradients(x: Array, gamma: Array, g: Array) -> tuple[Array, Array, Array]:
    """(of x, of gamma, of beta), with the batch's own statistics."""
    axes, count = (0, 2, 3), x.size / x.shape[1]
    scale = np.sqrt(x.var(axis=axes, keepdims=True) + BATCH_NORM_EPSILON)
    z = (x - x.mean(axis=axes, keepdims=True)) / scale
    of_gamma, of_beta = (g * z).sum(axis=axes), g.sum(axis=axes)
    of_x = _channels(gamma) / scale * (g - (_channels(of_beta) + z * _channels(of_gamma)) / count)
    return of_x, of_gamma, of_beta


def pruned_batch_norm_gradients(x: Array, gamma: Array, g: Array, cache: Cache) -> tuple[Array, Array, Array]:
    """The same from what is kept of the normalised values: their energy makes up for what is not."""
    axes, count = (0, 2, 3), x.size / x.shape[1]
    scale = np.sqrt(x.var(axis=axes, keepdims=True) + BATCH_NORM_EPSILON)
    z = kept((x - x.mean(axis=axes, keepdims=True)) / scale, cache)
    along, energy = (g * z).sum(axis=axes), np.maximum(np.square(z).sum(axis=axes), 1e-6 * count)
    of_beta = g.sum(axis=axes)
    of_x = _channels(gamma) / scale * (g - _channels(of_beta) / count - z * _channels(along / energy))
    return of_x, along * count / energy, of_beta


# -- caches --------------------------------------------------------------------------------


def kept(x: Array, cache: Cache) -> Array:
    """The share of the entries that a cache keeps, the largest, the others zero."""
    sizes = np.abs(x).reshape(-1)
    count = max(1, int(cache.keep * sizes.size + 0.5))
    bound = 0.0 if cache.keep >= 1 else np.partition(sizes, sizes.size - count)[sizes.size - count]
    found = np.where(np.abs(x) >= bound, x, 0.0)
    return found if cache.precision == "fp32" else found.astype(np.float16).astype(np.float64)


# -- activations ---------------------------------------------------------------------------


def activation(op: str, x: Array) -> Array:
    return {
        "relu": lambda: np.maximum(x, 0),
        "relu6": lambda: np.clip(x, 0, 6),
        "leaky_relu": lambda: np.where(x > 0, x, LEAKY_SLOPE * x),
        "hard_swish": lambda: x * np.clip(x + 3, 0, 6) / 6,
        "hard_sigmoid": lambda: np.clip(x + 3, 0, 6) / 6,
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "tanh": lambda: np.tanh(x),
    }[op]()


def activation_slope(op: str, x: Array) -> Array:
    return {
        "relu": lambda: (x > 0).astype(float),
        "relu6": lambda: ((x > 0) & (x < 6)).astype(float),
        "leaky_relu": lambda: np.where(x > 0, 1.0, LEAKY_SLOPE),
        "hard_swish": lambda: np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, (2 * x + 3) / 6)),
        "hard_sigmoid": lambda: ((x > -3) & (x < 3)) / 6,
        "sigmoid": lambda: activation(op, x) * (1 - activation(op, x)),
        "tanh": lambda: 1 - np.square(np.tanh(x)),
    }[op]()


KINKS = {
    "relu": (0.0,), "relu6": (0.0, 6.0), "leaky_relu": (0.0,), "hard_swish": (-3.0, 3.0),
    "hard_sigmoid": (-3.0, 3.0),
}  # fmt: skip
"""Where an activation's slope jumps: float32 and float64 may fall on different sides."""


# -- channels and images in other places ---------------------------------------------------


def moved(layer: Layer, x: Array) -> Array:
    """Channels, or values, where a slice, a shuffle or an upsampling puts them."""
    if layer.op is Op.SLICE:
        return x[:, layer.start : layer.start + layer.out_channels]
    if layer.op is Op.SHUFFLE:
        return x.reshape(len(x), layer.groups, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)
    if layer.op is Op.CROP:
        dims = len(layer.padding) // 2
        padding = (0,) * (2 - dims)
        (top, left), (bottom, right) = padding + layer.padding[:dims], padding + layer.padding[dims:]
        return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]
    factors = (1,) * (2 - len(layer.kernel)) + layer.kernel
    return x.repeat(factors[0], axis=2).repeat(factors[1], axis=3)


def moved_gradient(layer: Layer, x: Array, g: Array) -> Array:
    """By where each value went."""
    places = moved(layer, np.arange(x.size).reshape(x.shape))
    return np.bincount(places.reshape(-1), g.reshape(-1), x.size).reshape(x.shape)


# -- pools ---------------------------------------------------------------------------------


def pool(x: Array, kernel: Pair, stride: Pair, padding: Sides, largest: bool) -> Array:
    """Padding is neither the largest nor counted in the mean."""
    if largest:
        return windows(x, kernel, stride, padding, -np.inf).max(axis=(2, 3))
    count = windows(np.ones_like(x), kernel, stride, padding).sum(axis=(2, 3))
    return windows(x, kernel, stride, padding).sum(axis=(2, 3)) / count


def pool_gradient(x: Array, kernel: Pair, stride: Pair, padding: Sides, largest: bool, g: Array) -> Array:
    """The first of equal values in a window has its gradient."""
    seen = windows(x, kernel, stride, padding, -np.inf if largest else 0.0)
    flat = seen.reshape(*seen.shape[:2], -1, *seen.shape[4:])
    if largest:
        share = np.zeros_like(flat)
        np.put_along_axis(share, flat.argmax(axis=2)[:, :, None], 1.0, axis=2)
    else:
        inside = windows(np.ones_like(x), kernel, stride, padding).reshape(flat.shape)
        share = inside / inside.sum(axis=2, keepdims=True)
    return windows_gradient((share * g[:, :, None]).reshape(seen.shape), x.shape, stride, padding)


# -- objectives: (sum over the samples, gradient of that sum) ------------------------------


def objective(name: str, logits: Array, labels: NDArray[np.int64]) -> tuple[float, Array]:
    """Cross-entropy, squared error to one-hot (mean over classes), or the sum of all logits ("flow")."""
    wanted = np.eye(logits.shape[1])[labels]
    if name == "flow":
        return float(logits.sum()), np.ones_like(logits)
    if name == "squared_error":
        return float(np.square(logits - wanted).mean(axis=1).sum()), 2 * (logits - wanted) / logits.shape[1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(log_p * wanted).sum()), np.exp(log_p) - wanted

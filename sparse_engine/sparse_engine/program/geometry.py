"""Layers' shapes as the compiled part takes them: always two dimensions, 1-D images having one row."""

from __future__ import annotations

from sparse_engine import _core
from sparse_engine.layers import Layer, Op
from sparse_engine.program.memory import Buffer


def pool_shape(layer: Layer, source: Buffer) -> _core.PoolShape:
    """A pool's window over images of that size; 1-D ones are images of one row."""
    if layer.op is Op.GLOBAL_AVG_POOL:
        return _core.PoolShape(source.height, source.width, source.height, source.width)
    (kh, kw), (sh, sw) = _two(layer.kernel, 1), _two(layer.stride, 1)
    (ph, pw), (eh, ew) = (_two(pads, 0) for pads in layer.pads)
    return _core.PoolShape(kh, kw, sh, sw, ph, pw, eh, ew)


def tile_shape(layer: Layer) -> _core.PoolShape:
    """The window that an upsampled value fills."""
    height, width = _two(layer.kernel, 1)
    return _core.PoolShape(height, width, height, width)


def corner(layer: Layer) -> tuple[int, int]:
    """(top, left) of the part of an image that a crop leaves."""
    return _two(layer.padding[: len(layer.padding) // 2], 0)


def taken(layer: Layer, channels: int) -> list[int]:
    """Of so many channels those that a layer hands on, in its order."""
    if layer.op is Op.SLICE:
        return list(range(layer.start, layer.start + layer.out_channels))
    each = channels // layer.groups
    return [group * each + place for place in range(each) for group in range(layer.groups)]


def conv_shape(layer: Layer, source: Buffer, out: Buffer) -> _core.ConvShape:
    """A convolution's geometry; linear and 1-D ones are special cases."""
    shape = _core.ConvShape()
    shape.in_channels, shape.out_channels, shape.groups = source.channels, out.channels, layer.groups
    shape.kernel_h, shape.kernel_w = _two(layer.kernel, 1)
    shape.stride_h, shape.stride_w = _two(layer.stride, 1)
    (shape.pad_h, shape.pad_w), (shape.end_h, shape.end_w) = (_two(pads, 0) for pads in layer.pads)
    shape.dilation_h, shape.dilation_w = _two(layer.dilation, 1)
    shape.in_h, shape.in_w, shape.out_h, shape.out_w = source.height, source.width, out.height, out.width
    return shape


def _two(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    padded = (missing,) * (2 - len(values)) + values
    return padded[0], padded[1]


def three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C,), (C, L) or (C, H, W) as channels, height, width."""
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    return shape[0], 1, shape[1] if len(shape) == 2 else 1

"""A data set as one HTML file: its description, its classes, warnings, and samples as pictures."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.datasets.agreement import brief
from tinyfleet.fedcore.datasets.check import DataWarning
from tinyfleet.fedcore.datasets.dataset import Dataset

A_CLASS = 8  # samples shown of each
MOST_CLASSES_SHOWN = 40
_SIDE = 96  # pixels of a sample on the page, at most; smaller ones are enlarged by whole numbers

_STYLE = "body{font:15px sans-serif;margin:2em;max-width:70em}img{image-rendering:pixelated}td,th{padding:2px 12px}"


def data_page(title: str, train: Dataset, test: Dataset | None, warnings: Sequence[DataWarning]) -> str:
    """Self-contained HTML. Every text of it may be foreign, and is escaped."""
    told = train.description
    tests = test.description.samples if test is not None else (0,) * len(told.classes)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{count}</td><td>{held}</td><td>{_samples(train, label)}</td></tr>"
        for label, (name, count, held) in enumerate(zip(told.classes, told.samples, tests, strict=True))
        if label < MOST_CLASSES_SHOWN
    )
    warned = "".join(f"<li><b>{one.kind}</b>: {html.escape(one.message)}</li>" for one in warnings)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><p>{html.escape(brief(told))}</p>"
        f"<ul>{warned or '<li>no warnings</li>'}</ul>"
        f"<table><tr><th>class</th><th>training</th><th>test</th><th>samples</th></tr>{rows}</table></html>\n"
    )


def _samples(data: Dataset, label: int) -> str:
    chosen = np.flatnonzero(data.y == label)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(A_CLASS, len(chosen))).astype(np.int64)]
    if not len(chosen):
        return ""
    if data.x.ndim == 3:
        return "".join(_waveform(data.x[index]) for index in chosen)
    encoded = base64.b64encode(_png(_sheet(data, chosen))).decode()
    return f'<img alt="samples of this class" src="data:image/png;base64,{encoded}">'


def _waveform(one: AnyArray) -> str:
    """Channels of a series as lines of one drawing, each over the whole height of the sample's values."""
    low, high = float(one.min()), float(one.max())
    step = max(1, one.shape[1] // 120)
    lines = []
    for index, channel in enumerate(one[:8, ::step].astype(np.float64)):
        heights = 47 - 45 * (channel - low) / ((high - low) or 1.0)
        spread = np.linspace(1, 119, len(channel))
        points = " ".join(f"{x:.0f},{y:.0f}" for x, y in zip(spread, heights, strict=True))
        lines.append(f'<polyline fill="none" stroke="hsl({index * 67 % 360},70%,40%)" points="{points}"/>')
    return f'<svg width="120" height="48">{"".join(lines)}</svg>'


def _sheet(data: Dataset, chosen: AnyArray) -> AnyArray:
    """(height, width, 3) uint8: the samples side by side."""
    tiles = [_tile(data.x[index].astype(np.float64), data.full_range) for index in chosen]
    gap = np.full((tiles[0].shape[0], 2, 3), 255, np.uint8)
    return np.concatenate([part for tile in tiles for part in (tile, gap)], axis=1)


def _tile(one: AnyArray, scale: tuple[float, float] | None) -> AnyArray:
    low, high = scale or (float(one.min()), float(one.max()))
    grey = one.shape[0] not in {3}
    pixels = one[:1].repeat(3, axis=0) if grey else one
    if max(pixels.shape[1:]) > _SIDE:
        every = -(-max(pixels.shape[1:]) // _SIDE)
        pixels = pixels[:, ::every, ::every]
    shares = np.clip((pixels - low) / ((high - low) or 1.0), 0.0, 1.0)
    times = max(1, min(4, _SIDE // max(pixels.shape[1:])))
    tile: AnyArray = np.rint(shares * 255).astype(np.uint8).transpose(1, 2, 0)
    return tile.repeat(times, axis=0).repeat(times, axis=1)


def _png(pixels: AnyArray) -> bytes:
    """RFC 2083: 8-bit RGB, no filters."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

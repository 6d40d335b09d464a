"""A model out of its file, ready to predict: no training state, two programs at most."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from sparse_engine import _core
from sparse_engine.file import stored_model
from sparse_engine.file.sections import Floats
from sparse_engine.file.stored_model import StoredModel
from sparse_engine.layers import ModelError
from sparse_engine.network import Network

ALONE = 4  # samples above which a program of ``LANES`` is faster, though padded


class Inference:
    """Predicts with a stored model. Raises ``ModelError`` where the engine cannot run it.

    Deterministic for a given ``threads``; a sample's outputs do not depend on its batch but for rounding. May be
    called from any number of threads, which take turns: for predictions at the same time give each its own.
    """

    def __init__(self, stored: StoredModel, threads: int = 1) -> None:
        if threads < 1:
            raise ModelError(f"{threads} threads; give at least 1")
        self._threads = threads
        self._network = Network(stored.model, threads)
        self._metadata = dict(stored.metadata)
        self._network.load(stored.arrays)
        self._input_shape = stored.model.input_shape

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) or (C, L), without the batch."""
        return self._input_shape

    @property
    def classes(self) -> int:
        """Outputs of a sample."""
        return self._network.classes

    @property
    def threads(self) -> int:
        """Threads that share a prediction."""
        return self._threads

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says of the model, such as how its inputs are normalised."""
        return self._metadata

    def predict(self, x: Floats) -> Floats:
        """Outputs (N, classes) of float32 samples (N, C, *spatial). Raises ``ModelError`` for another shape."""
        if x.shape[1:] != self._input_shape or x.ndim != len(self._input_shape) + 1:
            raise ModelError(f"samples of shape {x.shape}; give (N, {', '.join(map(str, self._input_shape))})")
        if not np.issubdtype(x.dtype, np.floating):
            raise ModelError(f"samples of type {x.dtype}; normalise them as in training, to float32")
        x = x.astype(np.float32, copy=False)
        logits = np.empty((len(x), self.classes), np.float32)
        start = 0
        while start < len(x):
            left = len(x) - start
            size = _core.LANES if left > ALONE else 1
            part = x[start : start + size]
            if len(part) < size:
                part = np.concatenate([part, np.zeros((size - len(part), *self._input_shape), np.float32)])
            logits[start : start + size] = self._network.predict(part)[:left]
            start += size
        return logits


def load(path: str | os.PathLike[str], threads: int = 1) -> Inference:
    """The model in a file, ready to predict. Raises ``ModelError`` for another file, ``OSError`` without one."""
    return Inference(stored_model.read(path), threads)

"""A device's steps beyond SGD with momentum: FedProx, clipping, Adam and AdamW, on whatever arrays an engine has.

State is held for the weights that an engine gives: those of the native engine are the active ones alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from tinyfleet.fedcore.training.engine import StepSettings

Array: TypeAlias = Any
"""NumPy's or torch's, float32."""


class LocalOptimiser:
    """The state of one loaded model's training; the model as it was loaded is its anchor."""

    def __init__(self) -> None:
        self._anchor: dict[str, Array] = {}
        self._first: dict[str, Array] = {}
        self._second: dict[str, Array] = {}
        self._steps = 0

    def step(self, settings: StepSettings, values: Mapping[str, Array], gradients: dict[str, Array]) -> None:
        """Move ``values`` in place by one step; ``gradients``, zero where masked, are overwritten.

        In this order: FedProx's mu (w - w_0) (Li et al., MLSys 2020, arXiv 1812.06127, equation 2) joins the
        gradient; all of it together is cut to the 2-norm ``clip`` (Pascanu et al., ICML 2013, arXiv 1211.5063);
        the optimiser takes what is left.
        """
        if settings.proximal:
            if not self._anchor:
                self._anchor = {name: value * 1.0 for name, value in values.items()}
            for name in gradients:
                gradients[name] += (values[name] - self._anchor[name]) * settings.proximal
        if settings.clip:
            norm = math.sqrt(sum(float((gradient * gradient).sum()) for gradient in gradients.values()))
            if norm > settings.clip:
                for name in gradients:
                    gradients[name] *= settings.clip / norm
        self._steps += 1
        for name, gradient in gradients.items():
            if settings.optimiser == "sgd":
                self._sgd(settings, name, values[name], gradient)
            else:
                self._adam(settings, name, values[name], gradient)

    def _sgd(self, settings: StepSettings, name: str, value: Array, gradient: Array) -> None:
        if settings.weight_decay:
            gradient += value * settings.weight_decay
        if settings.momentum:
            if name in self._first:
                gradient += self._first[name] * settings.momentum
            self._first[name] = gradient
        value -= gradient * settings.learning_rate

    def _adam(self, settings: StepSettings, name: str, value: Array, gradient: Array) -> None:
        """Adam (Kingma and Ba, ICLR 2015, arXiv 1412.6980, algorithm 1); AdamW decays weights apart (Loshchilov and
        Hutter, ICLR 2019, arXiv 1711.05101, algorithm 2).
        """
        if settings.weight_decay and settings.optimiser == "adam":
            gradient += value * settings.weight_decay
        elif settings.weight_decay:
            value *= 1.0 - settings.learning_rate * settings.weight_decay
        first, second = self._first.get(name), self._second.get(name)
        if first is None or second is None:
            first, second = gradient * 0.0, gradient * 0.0
            self._first[name], self._second[name] = first, second
        first *= settings.momentum
        first += gradient * (1.0 - settings.momentum)
        second *= settings.second
        second += gradient * gradient * (1.0 - settings.second)
        slope = (second / (1.0 - settings.second**self._steps)) ** 0.5 + settings.epsilon
        value -= first / slope * (settings.learning_rate / (1.0 - settings.momentum**self._steps))

"""Models by name."""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.models.mobilenet import mobilenet_v2
from tinyfleet.fedcore.models.resnet import resnet8, resnet18, resnet20
from tinyfleet.fedcore.models.sensor_cnn import sensor_cnn
from tinyfleet.fedcore.models.small_cnn import small_cnn
from tinyfleet.fedcore.models.vgg import vgg11
from tinyfleet.fedcore.run_spec import ModelSettings

MODELS: dict[str, Callable[..., Graph]] = {
    "small_cnn": small_cnn,
    "resnet8": resnet8,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "vgg11": vgg11,
    "mobilenet_v2": mobilenet_v2,
    "sensor_cnn": sensor_cnn,
}


def names() -> tuple[str, ...]:
    """Names of all models."""
    return tuple(MODELS)


def build(settings: ModelSettings) -> Graph:
    """The graph that ``settings`` describe.

    Raises ``ConfigError`` for an unknown model or argument, or an input that the model cannot take.
    """
    if settings.name not in MODELS:
        near = difflib.get_close_matches(settings.name, MODELS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(MODELS)}"
        raise ConfigError(f"model {settings.name!r} is unknown; {hint}")
    make = MODELS[settings.name]
    _check_arguments(settings.name, make, settings.arguments)
    return make(settings.input_shape, settings.classes, **settings.arguments)


def build_first(name: str, shapes: Sequence[tuple[int, ...]], classes: int = 10) -> Graph:
    """The model for the first of the input ``shapes`` that it takes. Raises ``ConfigError`` where that is none."""
    for shape in shapes[:-1]:
        with contextlib.suppress(ConfigError):
            return build(ModelSettings(name, shape, classes))
    return build(ModelSettings(name, shapes[-1], classes))


def _check_arguments(name: str, make: Callable[..., Graph], arguments: dict[str, Any]) -> None:
    known = {key: p for key, p in inspect.signature(make).parameters.items() if p.default is not p.empty}
    for key, value in arguments.items():
        if key not in known:
            raise ConfigError(f"model {name}: unknown argument {key!r}; it takes {', '.join(known)}")
        wanted = type(known[key].default)
        if not isinstance(value, wanted) and not (wanted is float and isinstance(value, int)):
            raise ConfigError(f"model {name}: {key} is {value!r}; give a value of type {wanted.__name__}")
        if wanted is not str and not value > 0:
            raise ConfigError(f"model {name}: {key} is {value!r}; it must be above 0")

"""Models by name: ours, and those of other distributions (entry points ``tinyfleet.models``)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from msgspec import structs

from tinyfleet.device_profiles.plugins import Door
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.lookup import lookup
from tinyfleet.fedcore.models.described.document import check_graph, document_of, graph_of
from tinyfleet.fedcore.models.described.layer_list import graph_of_layers
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.models.mobilenet import mobilenet_v2
from tinyfleet.fedcore.models.model import SERIES, Model
from tinyfleet.fedcore.models.resnet import resnet8, resnet18, resnet20
from tinyfleet.fedcore.models.sensor_cnn import sensor_cnn
from tinyfleet.fedcore.models.small_cnn import small_cnn
from tinyfleet.fedcore.models.vgg import vgg11
from tinyfleet.fedcore.run_spec import ModelSettings

OWN_NAME = "layers"  # of a model that is a list of layers, unless the run calls it otherwise

MODELS: dict[str, Model] = {
    "small_cnn": Model(small_cnn),
    "resnet8": Model(resnet8),
    "resnet20": Model(resnet20),
    "resnet18": Model(resnet18),
    "vgg11": Model(vgg11),
    "mobilenet_v2": Model(mobilenet_v2),
    "sensor_cnn": Model(sensor_cnn, SERIES),
}


def _model(name: str, given: object) -> Model:
    if not isinstance(given, Model):
        raise TypeError(f"it is {given!r}; give a Model")
    return given


DOOR = Door("tinyfleet.models", MODELS.keys, _model)


def names() -> tuple[str, ...]:
    """Names of all models, those of other distributions last."""
    return (*MODELS, *DOOR.names())


def build(settings: ModelSettings) -> Graph:
    """The graph that ``settings`` describe: the one that they hold, that of their layers, or that of their name.

    Raises ``ConfigError`` for an unknown model (``Unavailable``) or argument, or an input that it cannot take.
    """
    if settings.file:
        raise ConfigError("model.file is read when a run is submitted or simulated: tinyfleet run submit RUN.toml")
    if settings.graph:
        return _carried(settings)
    if settings.layers:
        return _listed(settings)
    model, shape = lookup("model", settings.name, MODELS, DOOR), settings.input_shape
    if len(shape) != len(model.axes) or min(shape) < 1:
        raise ConfigError(f"model {settings.name}: input_shape {shape} is not ({', '.join(model.axes)})")
    _check_arguments(settings.name, model.make, settings.arguments)
    graph = model.make(shape, settings.classes, **settings.arguments)
    if not isinstance(graph, Graph):  # of a distribution that nobody has type-checked
        raise ConfigError(f"model {settings.name} gave {graph!r}; it has to give a Graph")
    return graph


def settled(settings: ModelSettings) -> ModelSettings:
    """``settings`` as they are stored and sent: a model that is none of ours by name travels as its graph.

    A board then needs no code for it, nor the distribution that the gateway has it from. Raises ``ConfigError``.
    """
    if settings.graph or (not settings.layers and settings.name in MODELS):
        return settings
    graph = build(settings)
    check_graph(graph)
    return structs.replace(settings, name=graph.name, arguments={}, layers=[], blocks=(), graph=document_of(graph))


def _carried(settings: ModelSettings) -> Graph:
    if settings.layers or settings.arguments or settings.blocks:
        raise ConfigError("model.graph is the whole model: leave layers, blocks and arguments away beside it")
    graph = graph_of(settings.graph)
    if (graph.input_shape, graph.classes) != (settings.input_shape, settings.classes):
        raise ConfigError(
            f"model.graph takes {graph.input_shape} and gives {graph.classes} classes; model says "
            f"{settings.input_shape} and {settings.classes}: they have to be equal"
        )
    return graph


def _listed(settings: ModelSettings) -> Graph:
    if settings.arguments:
        raise ConfigError("model.arguments are of a model with a name; leave them away beside model.layers")
    name = OWN_NAME if settings.name == ModelSettings().name else settings.name
    graph = graph_of_layers(name, settings.input_shape, settings.classes, settings.layers, settings.blocks)
    check_graph(graph)
    return graph


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

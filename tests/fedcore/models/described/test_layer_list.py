"""``model.layers``: a list that reads like the model, and errors that name the entry."""

from __future__ import annotations

import copy

import pytest

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.models.described.blocks import MOST_BLOCKS
from tinyfleet.fedcore.models.registry import build, settled
from tinyfleet.fedcore.run_spec import ModelSettings

LAYERS = [
    {"kind": "conv", "out": 16, "kernel": 3, "stride": 2},
    {"kind": "batch_norm"},
    {"kind": "relu"},
    {"kind": "conv", "out": 32, "kernel": 3},
    {"kind": "batch_norm"},
    {"kind": "relu", "name": "a"},
    {"kind": "conv", "out": 32, "kernel": 3, "groups": 32},
    {"kind": "conv", "out": 32, "kernel": 1},
    {"kind": "add", "inputs": ["a", "conv4"]},
    {"kind": "max_pool", "kernel": 2},
    {"kind": "conv", "out": 64, "kernel": [3, 1], "bias": False},
    {"kind": "global_avg_pool"},
    {"kind": "linear", "out": 10},
]


def listed(layers=None, **settings):
    return ModelSettings(layers=LAYERS if layers is None else layers, **settings)


def test_what_is_not_said_is_what_one_expects():
    graph = build(listed())
    node = graph.by_name
    assert [n.name for n in graph.nodes][:5] == ["conv1", "batch_norm1", "relu1", "conv2", "batch_norm2"]
    assert node["conv1"].inputs == ("input",)
    assert node["max_pool1"].inputs == ("add1",)
    assert (node["conv2"].in_channels, node["conv2"].stride, node["conv2"].padding) == (16, (1, 1), (1, 1))
    assert (node["max_pool1"].stride, node["max_pool1"].padding) == ((2, 2), (0, 0))
    assert node["conv5"].padding == (1, 0)
    # A bias, but where a norm's shift is one.
    assert [node[f"conv{i}"].bias for i in range(1, 6)] == [False, False, True, True, False]
    assert node["batch_norm1"].out_channels == 16
    assert graph.shapes["conv5"] == (64, 7, 7)
    assert graph.name == "layers"
    assert build(listed(name="door")).name == "door"


def test_series_take_single_numbers_too():
    layers = [
        {"kind": "conv", "out": 4, "kernel": 5, "stride": 2},
        {"kind": "flatten"},
        {"kind": "linear", "out": 3},
    ]
    graph = build(listed(layers, input_shape=(2, 10), classes=3))
    assert graph.shapes["conv1"] == (4, 5)
    assert graph.by_name["linear1"].in_channels == 20


def test_it_travels_as_a_graph():
    settings = settled(listed())
    assert (settings.layers, settings.blocks, settings.name) == ([], (), "layers")
    assert settings.graph
    assert build(settings) == build(listed())


def test_blocks_are_the_stages_but_for_the_ends_and_grouped_layers():
    """conv1 is the stem, conv3 depthwise, linear1 the output; 14x14 and 7x7 are a stage each."""
    assert build(listed()).blocks == (("conv5",), ("conv2", "conv4"))
    assert build(listed(blocks=(("conv4",), ("conv2",)))).blocks == (("conv4",), ("conv2",))


def test_a_model_of_one_size_is_divided_layer_by_layer_into_few_blocks():
    def linear(count):
        layers = [{"kind": "linear", "out": 8} for _ in range(count)]
        return build(listed(layers, input_shape=(8,), classes=8)).blocks

    assert linear(5) == (("linear4",), ("linear3",), ("linear2",))
    many = linear(20)
    assert len(many) == MOST_BLOCKS
    assert [name for block in reversed(many) for name in block] == [f"linear{i}" for i in range(2, 20)]
    assert linear(2) == ()


@pytest.mark.parametrize(
    ("index", "entry", "said"),
    [
        (3, {"kind": "conf"}, r"layers\[3\] \(conf1\): kind is 'conf'; did you mean 'conv'\?"),
        (3, {}, r"layers\[3\] \(layer1\): kind is None"),
        (3, {"kind": "conv", "kernel": 3}, r"layers\[3\] \(conv2\): say how many channels it gives: out = 16"),
        (3, {"kind": "conv", "out": 3, "kernle": 3}, "unknown key 'kernle'; did you mean 'kernel'"),
        (3, {"kind": "relu", "kernel": 3}, "unknown key 'kernel'"),
        (3, {"kind": "conv", "out": 3}, "kernel, stride and padding need 2 numbers each"),
        (3, {"kind": "conv", "out": "x", "kernel": 3}, "Expected `int`, got `str`"),
        (3, {"kind": "conv", "out": 16, "kernel": 3, "groups": 5}, "5 groups do not divide"),
        (3, {"kind": "conv", "out": 10**400, "kernel": 3}, r"layers\["),
        (3, {"kind": "linear", "out": 3}, "put a global_avg_pool or a flatten before it"),
        (3, {"kind": "relu", "out": 3}, "leave out = away"),
        (3, {"kind": "relu", "inputs": "conv9"}, "input 'conv9' is no earlier layer; did you mean 'conv1'"),
        (3, {"kind": "relu", "inputs": 7}, "inputs is 7; give a name, or a list"),
        (3, {"kind": "relu", "name": "conv1"}, "a layer of this name came before"),
        (3, {"kind": "relu", "name": "\x1b[2J"}, r"\\x1b.*use up to 64 letters"),
        (12, {"kind": "linear", "out": 9}, r"gives \(9,\); it has to give \(10,\).*set model.classes"),
    ],
)
def test_an_error_names_the_entry_and_the_remedy(index, entry, said):
    layers = copy.deepcopy(LAYERS)
    layers[index] = entry
    with pytest.raises(ConfigError, match=said):
        settled(listed(layers))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"arguments": {"width": 3}}, "leave them away"),
        ({"input_shape": ()}, "give channels"),
        ({"blocks": (("nothing",),)}, "blocks must name layers with weights"),
        ({"layers": [{"kind": "relu"}] * 641}, "641 entries"),
    ],
)
def test_what_does_not_go_with_layers_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        build(ModelSettings(**({"layers": LAYERS} | settings)))

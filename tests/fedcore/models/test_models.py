from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.models.graph import Graph, Node, Op
from tinyfleet.fedcore.models.registry import build, names
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.mask import magnitude_mask


def model(name, classes=10, **arguments):
    shape = (6, 100) if name == "sensor_cnn" else (1, 28, 28) if name == "small_cnn" else (3, 32, 32)
    return build(ModelSettings(name=name, input_shape=shape, classes=classes, arguments=arguments))


def test_resnet18_anchors():
    graph = model("resnet18")
    assert graph.parameter_count() == 11_173_962
    assert graph.flops() == pytest.approx(1.111e9, rel=1e-3)
    # Five epochs over 5,000 samples, forward and twice that backward.
    assert 3 * graph.flops() * 5 * 5000 == pytest.approx(8.33e13, rel=1e-3)
    imagenet = model("resnet18", stem="imagenet")
    assert sum(spec.size for spec in imagenet.params.values()) == 11_191_242


def test_known_parameter_counts():
    # He et al.: 0.27 M with parameter-free shortcuts. The others: torchvision's with 10 classes and one
    # linear layer; its VGG has convolution biases too, which batch norm makes redundant.
    assert model("resnet20").parameter_count() == pytest.approx(0.27e6, rel=0.02)
    assert model("mobilenet_v2").parameter_count() == 2_236_682
    assert model("vgg11").parameter_count() == 9_231_114 - (64 + 128 + 2 * 256 + 4 * 512)


@pytest.mark.parametrize("name", names())
def test_blocks_hold_every_maskable_layer_once_from_output_to_input(name):
    graph = model(name)
    in_blocks = [f"{layer}.weight" for block in graph.blocks for layer in block]
    assert sorted(in_blocks) == sorted(graph.maskable)
    order = list(graph.params)
    first_of_block = [min(order.index(f"{layer}.weight") for layer in block) for block in graph.blocks]
    assert first_of_block == sorted(first_of_block, reverse=True)
    assert "stem.weight" not in graph.maskable
    assert "output.weight" not in graph.maskable
    assert tuple(graph.maskable_shapes) == graph.maskable
    weights = sum(math.prod(shape) for shape in graph.maskable_shapes.values())
    assert weights > 0.85 * graph.parameter_count()


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 5), ("vgg11", 5), ("resnet20", 3), ("small_cnn", 4)])
def test_number_of_blocks(name, blocks):
    assert len(model(name).blocks) == blocks


@pytest.mark.parametrize("name", names())
def test_masked_flops_count_active_weights(name):
    graph = model(name)
    rng = np.random.default_rng(0)
    params = {n: rng.standard_normal(graph.params[n].shape, np.float32) for n in graph.maskable}
    mask = magnitude_mask(params, {n: max(1, graph.params[n].size // 10) for n in graph.maskable})
    expected = 0
    for node in graph.nodes:
        if node.op in (Op.CONV, Op.LINEAR):
            active = np.count_nonzero(mask[node.weight]) if node.weight in mask else graph.params[node.weight].size
            expected += 2 * int(active) * math.prod(graph.shapes[node.name][1:])
    assert graph.flops(mask) == expected < 0.5 * graph.flops()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(names()), st.integers(16, 70), st.integers(1, 4), st.integers(2, 20))
def test_every_model_builds_for_many_inputs(name, size, channels, classes):
    shape = (channels, size) if name == "sensor_cnn" else (channels, size, size)
    graph = build(ModelSettings(name=name, input_shape=shape, classes=classes))
    assert graph.shapes[graph.output] == (classes,)
    assert all(min(shape) >= 1 for shape in graph.shapes.values())


@pytest.mark.parametrize("name", names())
def test_torch_computes_the_shapes_that_the_graph_says(name):
    torch = pytest.importorskip("torch")
    from tinyfleet.fedcore.training.torch.forward import Mode, forward

    graph = model(name)
    tensors = {n: torch.from_numpy(v) for n, v in graph.initial_params(0).items()}
    images = torch.zeros(2, *graph.input_shape)
    logits = forward(graph, tensors, images, Mode(training=False))
    assert tuple(logits.shape) == (2, graph.classes)
    for index, node in enumerate(graph.nodes):
        if node.op is Op.CONV:
            beginning = replace(graph, nodes=graph.nodes[: index + 1], blocks=())
            output = forward(beginning, tensors, images, Mode(training=False))
            assert tuple(output.shape[1:]) == graph.shapes[node.name]


def test_initial_params_depend_on_the_seed_alone():
    graph = model("resnet8")
    first, second, other = graph.initial_params(1), graph.initial_params(1), graph.initial_params(2)
    assert all(np.array_equal(first[n], second[n]) for n in first)
    assert not np.array_equal(first["stem.weight"], other["stem.weight"])
    conv = first["stage3.0.conv2.weight"]
    assert conv.std() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet81"}, "did you mean 'resnet8'"),
        ({"name": "resnet8", "input_shape": (3, 32)}, "height"),
        ({"name": "sensor_cnn", "input_shape": (3, 32, 32)}, "time"),
        ({"name": "resnet8", "arguments": {"witdh": 8}}, "it takes width"),
        ({"name": "resnet8", "arguments": {"width": "8"}}, "type int"),
        ({"name": "resnet8", "arguments": {"width": 0}}, "above 0"),
        ({"name": "resnet18", "input_shape": (3, 32, 32), "arguments": {"stem": "9x9"}}, "imagenet"),
    ],
)
def test_bad_models_name_the_remedy(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(ModelSettings(**settings))


def test_a_graph_must_read_what_exists_and_name_layers_once():
    with pytest.raises(ConfigError, match="node a reads b"):
        Graph("g", (1, 4, 4), 2, (Node("a", Op.RELU, ("b",)),), ())
    with pytest.raises(ConfigError, match="blocks"):
        Graph("g", (1, 4, 4), 2, (Node("a", Op.RELU, ("input",)),), (("a",),))

"""Layers that do not fit their inputs or their kind make no graph; facts that one can check by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.fedcore.training.graphs import conv, norm
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.models import layers
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op, Role, WeightNorm
from tinyfleet.fedcore.models.layers.kind import Flow
from tinyfleet.fedcore.models.layers.table import KINDS, kind_of, output_shape

IMAGE, SERIES, VECTOR = (4, 6, 5), (4, 7), (4,)
WINDOW = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1)}


def node(op, sources=1, **attributes):
    return Node("it", op, ("a", "b", "c")[:sources], **attributes)


@pytest.mark.parametrize(
    ("layer", "sources", "message"),
    [
        (node(Op.RELU, kernel=(3, 3)), [IMAGE], "has no kernel"),
        (node(Op.LINEAR, in_channels=4, out_channels=2, weight_norm=WeightNorm.ALL), [VECTOR], "no weight_norm"),
        (node(Op.ADD, 3), [IMAGE] * 3, "takes 2 inputs, not 3"),
        (node(Op.ADD, 2), [IMAGE, (4, 6, 6)], r"cannot add \(4, 6, 5\) and \(4, 6, 6\)"),
        (node(Op.LINEAR, in_channels=4, out_channels=2), [IMAGE], "takes inputs of 1 dimensions"),
        (node(Op.LINEAR, in_channels=5, out_channels=2), [VECTOR], "takes 5 values and gives 2"),
        (node(Op.CONV, in_channels=3, out_channels=2, **WINDOW), [IMAGE], "takes 3 channels and gives 2"),
        (node(Op.CONV, in_channels=4, out_channels=6, groups=4, **WINDOW), [IMAGE], "4 groups do not divide"),
        (node(Op.CONV, in_channels=4, out_channels=2, **WINDOW), [SERIES], "need 1 numbers each"),
        (node(Op.MAX_POOL, **WINDOW), [VECTOR], "takes inputs of 2 or 3 dimensions"),
        (node(Op.MAX_POOL, **WINDOW | {"stride": (0, 1)}), [IMAGE], "must be above 0"),
        (node(Op.MAX_POOL, **WINDOW | {"padding": (0, 0), "kernel": (7, 1)}), [IMAGE], "larger than the padded"),
        (node(Op.MAX_POOL, **WINDOW | {"padding": (2, 2)}), [IMAGE], "windows would be empty"),
        (node(Op.BATCH_NORM, out_channels=3), [IMAGE], "has 3 channels"),
    ],
)
def test_what_does_not_fit_is_named(layer, sources, message):
    with pytest.raises(ConfigError, match=rf"layer 'it' \({layer.op}\) after .*{message}"):
        output_shape(layer, sources)


def test_a_graph_of_layers_that_do_not_fit_is_refused_where_it_is_made():
    stem = conv("stem", INPUT, 4, 8)
    with pytest.raises(ConfigError, match="layer 'next'"):
        Graph("g", IMAGE, 2, (stem, conv("next", "stem", 4, 8)), ())
    with pytest.raises(ConfigError, match="node stem is repeated"):
        Graph("g", IMAGE, 2, (stem, stem), ())
    with pytest.raises(ConfigError, match="node alone reads nothing"):
        Graph("g", IMAGE, 2, (Node("alone", Op.ADD, ()),), ())


def test_every_kind_is_a_file_of_its_name_and_no_file_is_anything_else():
    files = {path.stem for path in Path(layers.__file__).parent.glob("*.py")}
    assert files - {"__init__", "kind", "table", "window"} == KINDS.keys() == set(Op)


def test_every_kind_of_ours_says_all_that_is_asked_for():
    for kind in KINDS.values():
        facts = {fact: getattr(kind, fact) for fact in ("memory", "channels", "scaling", "linearised", "selects")}
        if kind.name in (Op.MUL, Op.SOFTMAX):  # not homogeneous of degree one
            assert facts.pop("linearised") is None
        assert all(value is not None for value in facts.values()), (kind.name, facts)


def test_kinds_with_weights_say_how_often_each_is_used():
    image = conv("c", INPUT, 4, 6, stride=2)
    assert kind_of(image).uses(image, (4, 8, 8), output_shape(image, [(4, 8, 8)])) == 16
    line = node(Op.LINEAR, in_channels=4, out_channels=2)
    assert kind_of(line).uses(line, VECTOR, (2,)) == 1
    one = {"in_channels": 4, "out_channels": 4, "kernel": (1, 1), "stride": (1, 1), "padding": (0, 0)}
    for op, kind in KINDS.items():
        roles = {spec.role for spec in kind.params(node(op, **one)).values()}
        assert (kind.uses is not None) == (Role.WEIGHT in roles), op


@pytest.mark.parametrize(
    ("groups", "out", "flow"), [(1, 4, Flow.MIXED), (4, 4, Flow.OWN), (2, 4, Flow.WHOLE), (4, 8, Flow.WHOLE)]
)
def test_channels_of_convolutions_by_their_groups(groups, out, flow):
    layer = conv("c", INPUT, 4, out, groups=groups)
    assert kind_of(layer).channels.flow(layer) is flow


def test_a_batch_norm_in_use_is_affine():
    layer, rng = norm("n", INPUT, 4), np.random.default_rng(0)
    params = {f"n.{what}": rng.uniform(0.5, 2.0, 4).astype(np.float32) for what in kind_of(layer).params(layer)}
    y = kind_of(layer).affine(layer, params)
    x = rng.standard_normal(4)
    expected = (x - params["n.running_mean"]) / np.sqrt(params["n.running_var"] + 1e-5)
    expected = expected * params["n.weight"] + params["n.bias"]
    np.testing.assert_allclose((x - y.centre) * y.factor + y.shift, expected, rtol=1e-6)


def test_constants_pass_as_values_do_and_what_is_not_one_stays_so():
    known = np.array([-1.0, 7.0, np.nan])
    found = {op: KINDS[op].channels.constant for op in KINDS}
    np.testing.assert_array_equal(found["relu"]([known]), [0.0, 7.0, np.nan])
    np.testing.assert_array_equal(found["relu6"]([known]), [0.0, 6.0, np.nan])
    np.testing.assert_array_equal(found["add"]([known, known]), [-2.0, 14.0, np.nan])
    for op in ("max_pool", "global_avg_pool", "flatten"):
        np.testing.assert_array_equal(found[op]([known]), known)

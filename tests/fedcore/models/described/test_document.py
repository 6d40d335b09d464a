"""Graphs as data: whole, canonical, bounded."""

from __future__ import annotations

import copy
import hashlib
import json

import pytest

from tinyfleet.fedcore.errors import ConfigError, UnsupportedLayer
from tinyfleet.fedcore.models.described import document
from tinyfleet.fedcore.models.described.document import canonical, digest, document_of, graph_of
from tinyfleet.fedcore.models.registry import MODELS, build, settled
from tinyfleet.fedcore.run_spec import ModelSettings

# What a name means may never change: a board of another version trains the same model by it.
DIGESTS = {
    "small_cnn": "d8c92e28",
    "resnet8": "560d9364",
    "resnet20": "0a38d581",
    "resnet18": "ba3a6bc5",
    "vgg11": "37d2bd4d",
    "mobilenet_v2": "37187906",
    "sensor_cnn": "17c04884",
}


def model(name="small_cnn", **arguments):
    shape = (6, 100) if name == "sensor_cnn" else (3, 32, 32)
    return build(ModelSettings(name, shape, 10, arguments))


@pytest.mark.parametrize("norm", ["batch", "nsconv"])
@pytest.mark.parametrize("name", MODELS)
def test_a_graph_comes_back_whole_from_its_json(name, norm):
    graph = model(name, norm=norm)
    data = json.loads(canonical(document_of(graph)))
    assert graph_of(data) == graph
    assert canonical(document_of(graph_of(data))) == canonical(data)


def test_what_a_name_means_stays():
    assert {name: digest(model(name))[:8] for name in MODELS} == DIGESTS


def test_canonical_is_sorted_json_without_space():
    assert canonical({"b": [1, "ü"], "a": {}}) == b'{"a":{},"b":[1,"\\u00fc"]}'
    graph = model()
    assert digest(graph) == hashlib.sha256(canonical(document_of(graph))).hexdigest()


def changed(**top):
    return document_of(model()) | top


def with_node(index=0, **node):
    data = copy.deepcopy(document_of(model()))
    data["nodes"][index] |= node
    return data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (changed(version=2), "version 2; this tinyfleet reads 1: update it"),
        (changed(version=True), "version True"),
        (changed(extra=1), "unknown key 'extra'"),
        (changed(name="a\nb"), r"name: 'a..b'"),
        (changed(name="n" * 65), "a text of 65 characters"),
        (changed(nodes=[]), "0 layers"),
        (changed(nodes=[{}] * 641), "641 layers"),
        (changed(input_shape=[3, 0, 32]), "each is from 1 to"),
        (changed(input_shape=[3, 1 << 21, 32]), "beyond"),
        (changed(input_shape=[1, 1, 1, 1]), "up to two sides"),
        (changed(input_shape=[3, 1 << 15, 1 << 15]), "at most 67108864 values"),
        (changed(classes=9), r"gives \(10,\); it has to give \(9,\)"),
        (changed(blocks=[["stem"], ["stem"]]), "once each"),
        (changed(blocks="stem"), "blocks"),
        (with_node(op="warp"), "kind 'warp', which this version of tinyfleet does not know"),
        (with_node(inputs=["later"]), "reads later"),
        (with_node(name="input"), "not 'input'"),
        (with_node(name="../../x"), "use up to 64 letters"),
        (with_node(kernel=[1] * 3601), "3601 values in one list"),
        (with_node(out_channels=10**400), "beyond"),
        (with_node(out_channels=1.5), "out_channels"),
        (with_node(gain=float("nan")), "not finite"),
        (with_node(kernel=[-3, 3]), "must be above 0"),
        (with_node(sparkle=1), "unknown key 'sparkle'"),
        (with_node(kernel=[[[[3]]]]), "deep|kernel"),
    ],
)
def test_what_is_no_graph_is_refused_in_words(data, said):
    with pytest.raises(ConfigError, match=said):
        graph_of(data)


def test_parameters_are_counted_before_there_are_any():
    wide = [{"name": "o", "op": "linear", "inputs": ["input"], "in_channels": 1 << 20, "out_channels": 1 << 20}]
    with pytest.raises(ConfigError, match="1099511627776 parameters; at most 268435456"):
        graph_of(
            {"version": 1, "name": "w", "input_shape": [1 << 20], "classes": 1 << 20, "nodes": wide, "blocks": []}
        )


def test_nobody_sends_what_nobody_reads(monkeypatch):
    graph = model()
    monkeypatch.setattr(document, "MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match="1702 bytes; at most 1000 fit an offer: name layers shorter"):
        document_of(graph)


def test_a_kind_that_an_older_board_lacks_is_named():
    with pytest.raises(UnsupportedLayer, match="layer 'stem' is of kind 'warp'"):
        graph_of(with_node(op="warp"))


# -- in the settings of a run -----------------------------------------------------------


def test_a_model_by_name_stays_a_name():
    settings = ModelSettings("resnet8", (3, 32, 32), 10, {"width": 8})
    assert settled(settings) is settings


def test_settings_with_a_graph_need_no_name_that_is_known():
    graph = model("resnet8")
    settings = ModelSettings("nobody-knows", (3, 32, 32), 10, graph=document_of(graph))
    assert build(settings) == graph
    assert settled(settings) is settings


@pytest.mark.parametrize(
    "other", [{"input_shape": (1, 32, 32)}, {"classes": 9}, {"arguments": {"width": 8}}, {"blocks": (("conv1",),)}]
)
def test_settings_that_contradict_their_graph_are_refused(other):
    settings = {"input_shape": (3, 32, 32), "classes": 10, "graph": document_of(model())} | other
    with pytest.raises(ConfigError, match=r"model\.graph"):
        build(ModelSettings(**settings))

"""What others send: bounded before anything acts on it, escaped before anybody reads it."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.device_profiles.profile import shipped
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.foreign.board import board_facts
from tinyfleet.fedcore.foreign.bounds import DataBounds, check_bounds
from tinyfleet.fedcore.foreign.shown import OneLine, printable, printable_json
from tinyfleet.fedcore.protocol.messages import Heartbeat, Hello, decode_up, encode

HELLO = '{"type":"hello","name":"x","public_key":"k","session":"s","agent_version":"0","engines":[],"profile":%s}'
HEARTBEAT = '{"type":"heartbeat","session":"s","health":%s}'


def nested(depth):
    data = []
    for _ in range(depth):
        data = [data]
    return data


@pytest.mark.parametrize(
    "data",
    [
        nested(12),
        nested(5000),
        {"a": nested(900)},
        10**400,
        [-(10**4000)],
        float("nan"),
        float("inf"),
        [0] * 5000,
        {str(key): key for key in range(5000)},
        [[0] * 1000] * 5,
        "x" * 4001,
        {"x" * 4001: 0},
        {1: 0},
        {"a": object()},
    ],
    ids=lambda data: type(data).__name__,
)
def test_data_beyond_a_bound_is_one_typed_error(data):
    with pytest.raises(CodecError, match=r"^spec: ") as caught:
        check_bounds(data, "spec")
    assert len(str(caught.value)) < 200, "the value itself is not in the message"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(-1e18, 1e18) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_data_within_the_bounds_passes(data):
    check_bounds(data, "spec", DataBounds(depth=30))


@pytest.mark.parametrize(
    "profile",
    [
        '{"cores":1' + "0" * 400 + "}",
        '{"cores":1' + "0" * 5000 + "}",
        '{"cores":-1}',
        '{"clock_mhz":1e300}',
        '{"name":"' + "x" * 501 + '"}',
        '{"name":["x"]}',
        '{"measured":{"convolution_gflops":1e300}}',
        '{"measured":{"rates":[' + ",".join(["{}"] * 65) + "]}}",
        '{"measured":{"thermal":{"sustained_share":-1}}}',
        '{"title":' + "[" * 930 + "]" * 930 + "}",
        "[" * 5000,
        '{"unknown":' + "[" * 30000 + "]" * 30000 + "}",
    ],
)
def test_a_board_with_an_impossible_fact_says_no_hello(profile):
    with pytest.raises(CodecError):
        decode_up((HELLO % profile).encode())


def test_what_is_not_known_of_a_board_is_dropped_unread():
    hello = decode_up((HELLO % ('{"name":"pi","deep":%s}' % ("[" * 900 + "]" * 900))).encode())
    assert isinstance(hello, Hello)
    assert hello.profile == {"name": "pi"}


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_board_that_is_known_can_say_what_it_is(name):
    from dataclasses import asdict

    facts = board_facts(asdict(shipped()[name]))
    assert facts["name"] == name
    told = decode_up(encode(Hello("x", "k", "s", "0", [], facts)))
    assert isinstance(told, Hello)
    assert told.profile == facts


def test_a_board_does_not_tell_what_would_not_be_taken(caplog):
    assert board_facts({"name": "x", "cores": 10**9}) == {}
    assert "cores" in caplog.text


@pytest.mark.parametrize(
    "health",
    [
        '{"rss_bytes":1e300}',
        '{"rss_bytes":1e400}',
        '{"rss_bytes":1' + "0" * 5000 + "}",
        '{"rss_bytes":null}',
        '{"rss_bytes":NaN}',
        '{"rss_bytes":"1"}',
        '{"' + "x" * 65 + '":1}',
        json.dumps({str(key): key for key in range(65)}),
    ],
)
def test_a_figure_that_cannot_be_is_no_heartbeat(health):
    with pytest.raises(CodecError):
        decode_up((HEARTBEAT % health).encode())


def test_figures_that_can_be_are_a_heartbeat():
    beat = decode_up((HEARTBEAT % '{"rss_bytes":3e7,"temperature_c":-12.5}').encode())
    assert isinstance(beat, Heartbeat)
    assert beat.health == {"rss_bytes": 3e7, "temperature_c": -12.5}


# -- what is shown ------------------------------------------------------------------------


@given(st.text())
def test_what_is_shown_is_one_line_of_characters(text):
    assert printable(text).isprintable()


def test_ordinary_text_is_shown_as_it_is():
    assert printable("21 °C – 'größer' [red]") == "21 °C – 'größer' [red]"
    assert printable("a\nb\x1b[2J\u202e\x9b") == r"a\nb\x1b[2J\u202e\x9b"
    assert printable("x" * 20, limit=5) == "xxxxx... (15 more)"


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_reads_the_same_and_shows_no_control_character(data):
    plain = json.dumps(data, ensure_ascii=False, indent=1)
    shown = printable_json(plain)
    assert json.loads(shown) == data
    assert all(char.isprintable() or char == "\n" for char in shown)


def test_a_log_line_holds_no_line_of_a_stranger():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("%(levelname)s %(name)s: %(message)s"))
    try:
        raise ValueError("bad\nINFO root: all is well\x1b[2J")
    except ValueError:
        info = sys.exc_info()
    record = logging.LogRecord(
        "fleet", logging.WARNING, "", 0, "%s said %s", ("a", "x\nINFO root: forged\x1b"), info
    )
    handler.emit(record)
    lines = stream.getvalue().splitlines()
    assert lines[0] == r"WARNING fleet: a said x\nINFO root: forged\x1b"
    assert all(line.startswith("  ") for line in lines[1:])
    assert "\x1b" not in stream.getvalue()

"""What a broker makes of publishes, on a connection that stands."""

from __future__ import annotations

import time

import pytest

from tests.patience import PATIENCE_S
from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.protocol.transport import Connected


def test_a_broker_that_is_slow_to_take_more_gets_no_more(scene):
    """Receive Maximum of MQTT 5: so many publishes without an acknowledgement, whatever this side's window is."""
    announced = b"\x20\x06\x00\x00\x03\x21\x00\x02"  # Receive Maximum 2
    transport = scene.client(scene.server(announced).url, protocol="5", window=16)
    assert transport.receive(PATIENCE_S) == Connected()
    assert transport.window_free == 2
    transport.publish("t", b"1")
    transport.publish("t", b"2")
    with pytest.raises(TransportError, match=r"acknowledged none of 2 publishes within 0\.01 s"):
        transport.publish("t", b"3", timeout=0.01)
    transport.hurry()
    with pytest.raises(TransportError, match="acknowledged none of 2 publishes yet"):
        transport.publish("t", b"3", timeout=PATIENCE_S)


def test_nobody_who_listens_is_told_by_mqtt_5(scene):
    url = f"mqtt://127.0.0.1:{scene.mosquitto().port}"
    speaker = scene.client(url)
    assert speaker.receive(PATIENCE_S) == Connected()

    def heard(expected: bool) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while speaker.unheard("t") is expected:
            speaker.publish("t", b"x")
            assert time.monotonic() < deadline
            time.sleep(0.01)

    heard(False)
    listener = scene.client(url, "t", client_id="other")
    assert listener.receive(PATIENCE_S) == Connected()
    heard(True)

from __future__ import annotations

import io

import pytest

from tinyfleet.device_profiles.measuring.progress import progress_on


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (io.StringIO(), "measuring 0/3: cores\nmeasuring 1/3: thermal\n"),
        (
            Terminal(),
            "\r\x1b[Kmeasuring 0/3: cores\r\x1b[Kmeasuring 1/3: thermal\r\x1b[Kmeasuring 2/3: thermal\r\x1b[K",
        ),
    ],
)
def test_each_second_on_a_terminal_and_each_probe_in_a_log(stream, text):
    tell = progress_on(stream)
    for done, probe in enumerate(("cores", "thermal", "thermal", "")):
        tell(probe, done, 3)
    assert stream.getvalue() == text

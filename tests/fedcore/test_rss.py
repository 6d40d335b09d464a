from __future__ import annotations

import mmap
import sys

import pytest

from tinyfleet.fedcore import rss
from tinyfleet.fedcore.errors import DataError


def test_a_size_is_read_in_bytes(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tVmRSS\nVmHWM:\t    1234 kB\nVmRSS:\t      12 kB\n")
    assert rss.status_bytes("VmHWM", status) == 1234 * 1024
    assert rss.status_bytes("VmRSS", status) == 12 * 1024


def test_what_the_kernel_does_not_say(tmp_path, monkeypatch):
    status = tmp_path / "status"
    status.write_text("Name:\tx\nState:\tZ (zombie)\n")
    assert rss.status_bytes("VmHWM", status) is None
    monkeypatch.setattr(rss, "status_bytes", lambda field: None)
    with pytest.raises(DataError, match="VmRSS"):
        rss.resident_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_begins_anew():
    # Not from the heap: another test may have told it to keep what is freed.
    block = mmap.mmap(-1, 60_000_000)
    block.write(bytes(len(block)))
    resident = rss.resident_bytes()
    # The kernel counts pages on each CPU apart: two looks differ by what it has not added up yet.
    assert rss.peak_bytes() + 1_000_000 > resident > len(block)
    before = rss.peak_bytes()
    block.close()
    rss.reset_peak()
    assert rss.peak_bytes() < before - 50_000_000

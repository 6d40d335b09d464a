from __future__ import annotations

import os
import subprocess
import sys

from tinyfleet.demo.memory import PeakWatch, peak_rss_bytes, rss_bytes


def test_rss_of_this_process_and_of_none():
    own = rss_bytes(os.getpid())
    assert own is not None
    assert peak_rss_bytes(os.getpid()) >= own * 0.99
    assert rss_bytes(2**22 + 1) is None
    assert peak_rss_bytes(2**22 + 1) is None


def test_peak_comes_from_the_kernels_record(tmp_path):
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "status").write_text("Name:\tx\nVmHWM:\t   1234 kB\n")
    assert peak_rss_bytes(7, tmp_path) == 1234 * 1024


def test_the_peak_outlives_the_memory():
    code = "x = bytearray(60_000_000); del x; print('done', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        watch = PeakWatch()
        watch.sample("child", child.pid)
        watch.sample("me", os.getpid())
        child.communicate(b"\n")
    assert watch.own["child"] > 60_000_000
    assert watch.children["me"] >= watch.own["child"]

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest

from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.fedcore.protocol.chunks import manifest_of
from tinyfleet.fedcore.protocol.messages import ResultOffer

NOW = 1_800_000_000.0


class Wall:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def outbox(directory, *, max_bytes=10_000, max_age_s=1000.0, wall=None, clock=lambda: 0.0):
    return Outbox(directory, max_bytes=max_bytes, max_age_s=max_age_s, wall_clock=wall or Wall(), clock=clock)


def add(box, tmp_path, step, content=b"x" * 100, run="r"):
    blob = tmp_path / "result"
    blob.write_bytes(content)
    offer = ResultOffer(run, step, manifest_of(blob, 64), 1.0, 2.0, 3, "torch", "0" * 64)
    box.add(offer, blob)
    assert not blob.exists()
    return offer


def test_what_was_added_survives_a_restart_in_order(tmp_path):
    box = outbox(tmp_path / "o")
    offers = [add(box, tmp_path, step, bytes([step]) * 50) for step in (3, 1, 2)]
    again = outbox(tmp_path / "o")
    assert again.offers() == offers
    offer, path = again.find(offers[1].manifest.sha256)
    assert offer == offers[1]
    assert path.read_bytes() == b"\x01" * 50
    assert again.get("r", 2) == offers[2]
    assert again.get("r", 9) is None
    assert again.find("0" * 64) is None


def test_dropping_is_idempotent_and_leaves_nothing(tmp_path):
    box = outbox(tmp_path / "o")
    add(box, tmp_path, 1)
    assert box.drop("r", 1)
    assert not box.drop("r", 1)
    assert list((tmp_path / "o").iterdir()) == []


def test_adding_a_key_again_replaces_it(tmp_path):
    box = outbox(tmp_path / "o")
    add(box, tmp_path, 1, b"old")
    newer = add(box, tmp_path, 1, b"new")
    assert box.offers() == outbox(tmp_path / "o").offers() == [newer]
    assert len(list((tmp_path / "o").iterdir())) == 2


def test_equal_results_of_two_steps_do_not_share_a_file(tmp_path):
    box = outbox(tmp_path / "o")
    add(box, tmp_path, 1, b"same")
    add(box, tmp_path, 2, b"same")
    box.drop("r", 1)
    assert [offer.step for offer in outbox(tmp_path / "o").offers()] == [2]


@pytest.mark.parametrize("run", ["../../etc/x", "a/b", ".", "\x00", "ü" * 64])
def test_run_names_never_leave_the_directory(tmp_path, run):
    box = outbox(tmp_path / "o")
    offer = add(box, tmp_path, 1, run=run)
    assert outbox(tmp_path / "o").offers() == [offer]
    assert {path.name for path in tmp_path.iterdir()} == {"o"}


def test_beyond_the_limit_the_oldest_go_and_the_newest_stays(tmp_path):
    box = outbox(tmp_path / "o", max_bytes=250)
    for step in range(4):
        add(box, tmp_path, step)
    assert [offer.step for offer in box.offers()] == [2, 3]
    add(box, tmp_path, 4, b"y" * 5000)
    assert [offer.step for offer in box.offers()] == [4]


def test_old_results_go(tmp_path):
    wall = Wall()
    box = outbox(tmp_path / "o", wall=wall, clock=lambda: wall.now)
    add(box, tmp_path, 1)
    wall.now += 900
    add(box, tmp_path, 2)
    wall.now += 200
    add(box, tmp_path, 3)
    assert [offer.step for offer in box.offers()] == [2, 3]


def test_a_clock_that_is_set_forward_drops_nothing(tmp_path):
    wall = Wall()
    box = outbox(tmp_path / "o", wall=wall)
    add(box, tmp_path, 1)
    wall.now += 10**7
    add(box, tmp_path, 2)
    again = outbox(tmp_path / "o", wall=wall)
    add(again, tmp_path, 3)
    assert [offer.step for offer in again.offers()] == [1, 2, 3]


def test_an_unset_clock_drops_nothing(tmp_path):
    wall = Wall(100.0)  # 1970: a board without a clock battery, before the network told it the time
    box = outbox(tmp_path / "o", wall=wall)
    add(box, tmp_path, 1)
    wall.now = NOW
    add(box, tmp_path, 2)
    wall.now = NOW - 10**6  # the clock was set back
    add(box, tmp_path, 3)
    assert [offer.step for offer in box.offers()] == [1, 2, 3]


def test_debris_is_swept_and_damage_is_not_offered(tmp_path):
    box = outbox(tmp_path / "o")
    kept = add(box, tmp_path, 1)
    add(box, tmp_path, 2, b"whole")
    directory = tmp_path / "o"
    blob = box.find(box.get("r", 2).manifest.sha256)[1]
    blob.write_bytes(b"w\x00ole")
    (directory / "orphan-1-abc.blob").write_bytes(b"no description")
    (directory / ".x.json.123.tmp").write_bytes(b"half")
    (directory / "bad.json").write_bytes(b"{")
    again = outbox(directory)
    assert again.offers() == [kept]
    assert len(list(directory.iterdir())) == 2


WRITER = """
import pathlib, sys
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.fedcore.protocol.chunks import manifest_of
from tinyfleet.fedcore.protocol.messages import ResultOffer

root = pathlib.Path(sys.argv[1])
box = Outbox(root / "outbox", max_bytes=10**9, max_age_s=1e9, wall_clock=lambda: 1.8e9)
start = int(sys.argv[2])
for step in range(start, start + 100000):
    blob = root / "work.blob"
    blob.write_bytes(str(step).encode() * 5000)
    box.add(ResultOffer("r", step, manifest_of(blob, 4096), 1.0, 1.0, 1, "torch", "0" * 64), blob)
    sys.stdout.write(f"{step}\\n")
    sys.stdout.flush()
    if step % 3 == 0:
        box.drop("r", step - 2)
"""


def test_a_kill_at_any_moment_leaves_whole_results(tmp_path):
    rng, start = random.Random(4), 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(start)], stdout=subprocess.PIPE, text=True
        )
        with process:
            process.stdout.readline()  # it is writing now
            time.sleep(rng.uniform(0.0, 0.2))
            process.send_signal(signal.SIGKILL)
            announced = [start] + [int(line) for line in process.stdout.read().split("\n")[:-1] if line]
        box = outbox(tmp_path / "outbox", max_bytes=10**9, max_age_s=1e9)
        held = {offer.step for offer in box.offers()}
        assert process.returncode == -signal.SIGKILL
        assert announced[-1] in held, "a result that was announced is lost"
        for offer in box.offers():
            path = box.find(offer.manifest.sha256)[1]
            assert path.read_bytes() == str(offer.step).encode() * 5000
        start = max(held) + 1
        names = {path.suffix for path in (tmp_path / "outbox").iterdir()}
        assert names <= {".json", ".blob"}

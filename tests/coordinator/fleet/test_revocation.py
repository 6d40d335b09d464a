"""The authority takes back what it gave: revocation, rotation, and kills in between."""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
import time

import pytest
from cryptography import x509

from tinyfleet.coordinator.fleet.authority import Authority, AuthorityError, CertificateState
from tinyfleet.fedcore.certificates.renewal import parse_certificates
from tinyfleet.fedcore.certificates.subject import subject_of

DAY = 86400.0


def states(authority, name):
    return [row.state for row in authority.certificates(name)]


def revoked_serials(authority):
    lists = x509.load_pem_x509_crl
    blocks = authority.revoked_path.read_bytes().split(b"-----BEGIN")[1:]
    return [
        (crl.last_update_utc, {entry.serial_number for entry in crl})
        for crl in (lists(b"-----BEGIN" + block) for block in blocks)
    ]


# -- revocation ---------------------------------------------------------------------------


def test_every_list_is_later_than_the_one_before(authority):
    """OpenSSL ignores a second list of the same date, and this clock stands still."""
    dates = []
    for name in ("board-1", "board-2", "board-3"):
        authority.issue(subject_of(name))
        rows = authority.revoke(name, "stolen")
        assert [(row.state, row.reason) for row in rows] == [(CertificateState.REVOKED, "stolen")]
        ((date, serials),) = revoked_serials(authority)
        assert int(rows[0].serial, 16) in serials
        dates.append(date)
    assert dates == sorted(set(dates))
    assert len(serials) == 3
    assert dates[-1].timestamp() < time.time(), "a list of the future would shut everybody out"


def test_a_name_is_revoked_with_all_that_it_has(authority):
    authority.issue(subject_of("board-1"))
    authority.renew("board-1")
    third = authority.renew("board-1", confirmed=False)
    assert len(authority.revoke("board-1", serial=third.row.serial)) == 1
    assert len(authority.revoke("board-1")) == 2
    assert set(states(authority, "board-1")) == {CertificateState.REVOKED}
    with pytest.raises(AuthorityError, match="no valid certificate"):
        authority.revoke("board-1")
    authority.issue(subject_of("board-1"))


def test_a_crash_between_index_and_list_is_made_good(authority, monkeypatch):
    authority.issue(subject_of("board-1"))
    before = revoked_serials(authority)

    def power_cut(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tinyfleet.coordinator.fleet.authority.authority.publish", power_cut)
        with pytest.raises(KeyboardInterrupt):
            authority.revoke("board-1")
    assert revoked_serials(authority) == before
    again = Authority(authority.directory)
    serial = int(again.certificates("board-1")[0].serial, 16)
    assert [serials for _, serials in revoked_serials(again)] == [{serial}]


def test_a_list_that_was_put_back_is_written_again(authority):
    old = authority.revoked_path.read_bytes()
    authority.issue(subject_of("board-1"))
    authority.revoke("board-1")
    new = authority.revoked_path.read_bytes()
    authority.revoked_path.write_bytes(old)
    Authority(authority.directory)
    assert len(revoked_serials(authority)[0][1]) == 1
    assert authority.revoked_path.read_bytes().split(b"\n")[0] == new.split(b"\n")[0]


def _issue_some(directory, prefix):
    authority = Authority(directory)
    for number in range(5):
        authority.issue(subject_of(f"{prefix}-{number}"))
        authority.revoke(f"{prefix}-{number}")


def test_processes_do_not_lose_each_others_changes(authority):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_issue_some, args=(authority.directory, prefix)) for prefix in ("a", "b")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    serials = {int(row.serial, 16) for row in authority.certificates()}
    assert len(serials) == 10
    assert [found for _, found in revoked_serials(authority)] == [serials]


# -- rotation -----------------------------------------------------------------------------


def test_a_rotation_from_begin_to_end(authority, clock):
    for name in ("board-1", "coordinator"):
        authority.issue(subject_of(name))
    authority.issue(subject_of("broker"), hosts=["gateway.lan"])
    assert not authority.behind("board-1")
    assert authority.rotate() == 2
    assert authority.behind("board-1")
    assert len(parse_certificates(authority.trust_path.read_bytes())) == 2
    assert len(revoked_serials(authority)) == 2, "without a list of its own nobody of the new authority comes in"
    with pytest.raises(AuthorityError, match="under way"):
        authority.rotate()
    assert authority.issue(subject_of("board-2")).row.generation == 2
    with pytest.raises(AuthorityError, match="board-1, broker, coordinator"):
        authority.retire()
    assert authority.renew("broker").row.generation == 1, "devices that were not renewed trust only the old one"
    offered = authority.renew("board-1", confirmed=False)
    authority.renew("coordinator")
    with pytest.raises(AuthorityError, match="board-1"):
        authority.retire()
    assert authority.behind("board-1"), "it may never have got the new one"
    authority.confirm("board-1", offered.row.serial)
    assert not authority.behind("board-1")
    assert authority.renew("broker").row.generation == 2
    assert authority.retire() == 1
    assert authority.behind("board-1"), "it still trusts the old authority"
    clock.now += 1.0
    authority.renew("board-1")
    assert not authority.behind("board-1")
    assert len(parse_certificates(authority.trust_path.read_bytes())) == 1
    assert not (authority.directory / "authority-1.key").exists()
    assert states(authority, "board-1") == [
        CertificateState.ACTIVE,
        CertificateState.REPLACED,
        CertificateState.RETIRED,
    ]
    with pytest.raises(AuthorityError, match="no older authority"):
        authority.retire()
    assert authority.rotate() == 3


def test_a_forced_retirement_shuts_out_who_was_not_renewed(authority):
    authority.issue(subject_of("board-1"))
    authority.rotate()
    authority.retire(force=True)
    assert states(authority, "board-1") == [CertificateState.RETIRED]
    assert authority.issue(subject_of("board-1")).row.generation == 2


# -- kills ----------------------------------------------------------------------------------


def _change_for_ever(directory, number):
    authority = Authority(directory)
    while True:
        number += 1
        authority.issue(subject_of(f"board-{number}"))
        print(f"issued board-{number}", flush=True)  # noqa: T201
        if number % 2:
            authority.revoke(f"board-{number}")
            print(f"revoked board-{number}", flush=True)  # noqa: T201


@pytest.mark.slow
def test_a_kill_loses_nothing_that_was_said(authority):
    """Killed at any instant: what was announced is in index and list, and the next process goes on."""
    random_ = random.Random(7)
    told = {"issued": set(), "revoked": set()}
    for turn in range(12):
        code = (
            "import sys; from pathlib import Path; "
            "from tests.coordinator.fleet.test_revocation import _change_for_ever; "
            f"_change_for_ever(Path(sys.argv[1]), {turn * 1000})"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(authority.directory)], stdout=subprocess.PIPE, text=True
        ) as process:
            lines = [process.stdout.readline() for _ in range(random_.randint(1, 12))]
            time.sleep(random_.random() * 0.02)  # where in the next change it dies
            process.kill()
            lines += process.stdout.readlines()
        for line in lines:
            if line.endswith("\n") and line.strip():
                what, name = line.split()
                told[what].add(name)
        opened = Authority(authority.directory)
        rows = {row.name: row for row in opened.certificates()}
        assert told["issued"] <= set(rows)
        assert all(rows[name].state is CertificateState.REVOKED for name in told["revoked"])
        revoked = {int(row.serial, 16) for row in rows.values() if row.state is CertificateState.REVOKED}
        assert [serials for _, serials in revoked_serials(opened)] == [revoked]
        assert not list(authority.directory.glob(".*.tmp"))
    assert len(told["issued"]) > 12
    assert told["revoked"]

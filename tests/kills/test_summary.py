"""The sums of the long tests' records."""

from __future__ import annotations

import json

from tests.kills.records import Records
from tests.kills.summary import main
from tinyfleet.figures.kills import KillFigures
from tinyfleet.figures.results import CommittedResults


def test_kills_are_counted_by_whom_they_hit_and_a_boundary_counts_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYFLEET_KILL_RECORDS", str(tmp_path))
    for seed, fault in ((1, []), (2, ["the run is failed"])):
        kills = ["agent, away 0.0 s", "agent while preparing, away 1.0 s", "all, away 0.3 s"]
        Records(f"kills-{seed}", tmp_path).add({"run": 0, "kills": kills, "faults": fault, "seconds": 1.0})
    boundaries = Records("boundaries", tmp_path)
    for role, number, came in (("agent-0", 1, True), ("agent-0", 1, True), ("agent-0", 2, False)):
        record = {"role": role, "label": "open x", "number": number, "at_start": False, "came": came, "faults": []}
        boundaries.add(record)
    target = tmp_path / "kills.json"
    main(str(tmp_path), str(target), "abc")
    assert json.loads(target.read_text()) == {
        "commit": "abc",
        "random": {"runs": 2, "preparing": 2, "faulty": 1, "killed": {"agent": 4, "all": 2}},
        "boundaries": {"tried": 2, "missed": 1, "faulty": 0, "killed": {"agent-0": 1}},
    }
    found = KillFigures(CommittedResults(tmp_path))
    assert [line.replace(" ", "") for line in found.kills().splitlines()[2:]] == ["|agent|4|1|", "|all|2||"]
    assert (found.total("random"), found.of("boundaries", "missed")) == ("6", "1")

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from tinyfleet.cli.app import app
from tinyfleet.fedcore.datasets.check import WarningKind, warnings_of
from tinyfleet.fedcore.datasets.dataset import Dataset, Meaning
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.foreign.data_description import SkippedFiles
from tinyfleet.report.data_page import data_page


def many(counts=(30, 30), seed=0):
    y = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng(seed)
    return Dataset(rng.integers(0, 256, (len(y), 1, 4, 4), dtype=np.uint8), y, len(counts))


def kinds(train, test=None):
    return [one.kind for one in warnings_of(train, test)]


def test_nothing_is_odd():
    assert kinds(many(), many(seed=1)) == []


def test_each_odd_thing_has_its_kind():
    train = many()
    train.x[3] = train.x[2]
    assert kinds(train) == [WarningKind.DUPLICATES]
    train.x[40] = train.x[2]
    (again, both) = warnings_of(train, None)
    assert again.message == "2 of 60 training samples equal an earlier one"
    assert both.kind == WarningKind.CONTRADICTION
    assert "0 and 1" in both.message
    test = many((5, 5), seed=1)
    assert warnings_of(many(), test) == []
    test.x[7] = many().x[50]
    assert kinds(many(), test) == [WarningKind.LEAKAGE]
    assert kinds(many((400, 30))) == [WarningKind.IMBALANCE]
    assert kinds(many((30, 0, 19))) == [WarningKind.FEW]
    train = many()
    train.x[5] = 7
    assert kinds(train) == [WarningKind.CONSTANT]
    skipped = {"hidden": SkippedFiles(2, "a/.b")}
    told = Dataset(many().x, many().y, 2, Meaning(unlabelled=3, skipped=skipped))
    assert kinds(told) == [WarningKind.SKIPPED, WarningKind.UNLABELLED]


def run(*given):
    return CliRunner().invoke(app, ["data", "check", *map(str, given)])


def test_the_exit_code_says_the_kind(tmp_path):
    even = many()
    np.savez(tmp_path / "even.npz", x=even.x, y=even.y, classes=["ham", "spam"])
    done = run(f"arrays:{tmp_path / 'even.npz'}")
    assert done.exit_code == 0, done.output
    assert "60 samples of 2 classes: ham 30, spam 30; (1, 4, 4), 0 to 255 (uint8)" in done.stdout
    np.savez(tmp_path / "odd.npz", x=even.x[:35], y=even.y[:35])
    done = run(f"arrays:{tmp_path / 'odd.npz'}", "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["description"]["samples"] == [30, 5]
    assert [one["kind"] for one in told["warnings"]] == ["few"]
    done = run(f"arrays:{tmp_path / 'none.npz'}")
    assert isinstance(done.exception, DataError)
    assert done.exception.exit_code == 6


def test_the_page_shows_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    np.savez(tmp_path / "a.npz", x=many().x, y=many().y, classes=["<b>", "spam"])
    assert run(f"arrays:{tmp_path / 'a.npz'}", "--html", tmp_path / "p.html").exit_code == 0
    page = (tmp_path / "p.html").read_text()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page.partition("<ul>")[0]
    pictures = re.findall(r"base64,([^\"]+)", page)
    assert len(pictures) == 2
    shown = np.asarray(image.open(io.BytesIO(base64.b64decode(pictures[0]))))
    assert shown.shape == (16, 8 * (16 + 2), 3)
    assert np.array_equal(shown[::4, :16:4, 0], many().x[0, 0])


def test_the_page_shows_series():
    x = np.stack([np.linspace(-1, 1, 50), np.linspace(1, -1, 50)]).astype(np.float32)
    page = data_page("s", Dataset(np.stack([x, x]), np.array([0, 1]), 2), None, [])
    assert page.count("<svg") == 2
    assert page.count("<polyline") == 4
    assert 'points="1,47 ' in page
    assert "no warnings" in page

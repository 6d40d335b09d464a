from __future__ import annotations

import io
import re
from html.parser import HTMLParser

from rich.console import Console

from tests.tinyfleet.results import example_result
from tinyfleet.demo.table import print_result
from tinyfleet.report.page import render, write_report


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.svgs = 0

    def handle_starttag(self, tag, attrs):
        self.svgs += tag == "svg"
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.sources.append(value)


def test_the_page_is_whole_and_loads_nothing():
    text = render(example_result())
    page = Page()
    page.feed(text)
    assert page.svgs == 6
    assert len(page.ids) == len(set(page.ids))
    assert all(source.startswith("#") for source in page.sources)
    assert {source[1:] for source in page.sources} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    assert "<script" not in text
    assert "#010203" not in text  # all ink follows the page
    assert "prefers-color-scheme: dark" in text


def test_the_page_shows_the_numbers_and_escapes_them():
    text = render(example_result())
    for shown in ("95.0 %", "93.0 %", "5,000", "12,345", "230.5 MB", "fedtiny"):
        assert shown in text
    assert "agent-&lt;1&gt;" in text
    assert "agent-<1>" not in text


def test_a_result_without_losses_or_numbers(tmp_path):
    result = example_result()
    result["losses"] = result["interruptions"] = []
    result["round_overhead_s"] = {"median": None, "max": None}
    result["bytes"]["up_per_device_round"] = None
    write_report(tmp_path / "sub" / "report.html", result)
    assert "None: every task" in (tmp_path / "sub" / "report.html").read_text(encoding="utf-8")


def test_tables():
    out = io.StringIO()
    print_result(Console(file=out, width=160), example_result())
    text = out.getvalue()
    for shown in (
        "-2.0 points",
        "50.0x less",
        "0.20 s / 1.50 s",
        "12,345 B",
        "agent-3",
        "its engine process",
        "lost:",
    ):
        assert shown in text


def test_control_characters_of_a_device_do_not_reach_the_page():
    result = example_result()
    reason = "</li><script>x</script>\x1b\u202e\n"
    text = render({**result, "losses": [{"device": "d", "step": 0, "run": "r", "reason": reason}]})
    assert r"&lt;/li&gt;&lt;script&gt;x&lt;/script&gt;\x1b\u202e\n" in text
    assert "\x1b" not in text
    assert "\u202e" not in text

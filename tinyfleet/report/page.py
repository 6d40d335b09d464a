"""The report's page: its template filled with one demo's result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.foreign.shown import printable
from tinyfleet.report.plots import PLOTS, svg

TEMPLATE = "report.html.j2"


def render(result: Mapping[str, Any]) -> str:
    """The whole page as HTML; nothing in it is loaded from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"count": _count, "percent": _percent, "number": _number}
    plots = {name: svg(draw, result) for name, draw in PLOTS}
    return environment.get_template(TEMPLATE).render(result=result, plots=plots)


def write_report(path: Path, result: Mapping[str, Any]) -> None:
    """Render into ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render(result).encode())


def _shown(value: Any) -> Any:
    """A device's text without control characters; what is markup of ours stays as it is."""
    return printable(value) if type(value) is str else value


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)

"""What each arm of a method benchmark was given, from the benchmark's own configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tinyfleet.bench.methods.config import CellSpec, expand, read_config
from tinyfleet.fedcore.methods.method import Control, Method
from tinyfleet.fedcore.methods.parts.bn_selection import default_pool_size
from tinyfleet.fedcore.methods.parts.gradual import CUTS
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.sparsity.schedule import cosine_count, is_adjustment_round
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table

COLUMNS = (
    "method",
    "passes over public data, dense + sparse",
    "mask at the start",
    "norm",
    "mask changes after round",
    "largest share exchanged",
    "share of caches kept, precision",
)
STARTS = {
    "fedavg": "none",
    "static": "random, {allocation}",
    "fedmef": "random, {allocation}",
    "feddst": "random, {allocation}",
    "fedrts": "random, {allocation}",
    "snip": "sensitivity, one cut",
    "synflow": "synaptic flow, 100 cuts",
    "prunefl": "gradients, 5 cuts",
    "fl_pqsu": "filters by L1, one cut",
    "lotteryfl": "none; devices prune their own",
}
ALLOCATIONS = {"erk": "ERK", "lamp": "LAMP", "uniform": "uniform"}
COUNTED = 1_000_000  # active weights, large enough that a share of them is exact


def figures(results: CommittedResults) -> dict[str, Figure]:
    """Nothing here is measured: ``results`` is not read."""
    return {"arms": arms, "candidates": candidates}


def arms(bench: str) -> str:
    """A row a method; where densities differ, their range or list."""
    rows: list[tuple[str, ...]] = []
    for title, cells in _by_method(bench).items():
        methods = [create(cell.spec.method, problem_of(cell.spec)) for cell in cells]
        norm = "NSConv" if str(cells[0].spec.model.arguments.get("norm", "batch")) != "batch" else "batch"
        start = _start(methods)
        rows.append((title, _passes(methods[0]), start, norm, *_changes(methods[0]), _caches(methods[0])))
    return markdown_table(COLUMNS, rows, words=True)


def candidates(bench: str, density: str) -> str:
    """How many masks FedTiny chooses among where its settings do not say."""
    settings = [cell.spec.method for cell in expand(read_config(bench)) if cell.spec.method["name"] == "fedtiny"]
    if any("candidates" in own for own in settings):
        raise ValueError(f"{bench} sets the number of candidates itself")
    return str(default_pool_size(float(density)))


def _by_method(bench: str) -> dict[str, list[CellSpec]]:
    """The first seed's cells on the first data set."""
    found: dict[str, list[CellSpec]] = {}
    cells = expand(read_config(bench))
    for cell in cells:
        if cell.spec.seed == cells[0].spec.seed and cell.dataset == cells[0].dataset:
            found.setdefault(cell.method, []).append(cell)
    return found


def _passes(method: Method) -> str:
    settings: Any = method.settings
    dense = method.problem.training.pretrain_epochs if settings.pretrained else 0
    sparse = 0
    if method.name == "tinyfleet":
        sparse = settings.pruning_epochs or 3 * method.problem.training.pretrain_epochs
    return f"{dense} + {sparse}"


def _start(methods: list[Method]) -> str:
    settings: Any = methods[0].settings
    match methods[0].name:
        case "tinyfleet":
            return f"gradual magnitude, {ALLOCATIONS[settings.allocation]}, {CUTS} cuts"
        case "fedtiny":
            allocation = ALLOCATIONS[settings.allocation]
            pools = dict.fromkeys(_pool(method.settings) for method in reversed(methods))
            best = f"best of {', '.join(str(size) for size in pools)}" if max(pools) > 1 else "not selected"
            return f"magnitude, {allocation}, one cut, {best}"
    return STARTS[methods[0].name].format(allocation=ALLOCATIONS.get(getattr(settings, "allocation", ""), ""))


def _pool(settings: Any) -> int:
    return (settings.candidates or default_pool_size(settings.density)) if settings.selection else 1


def _changes(method: Method) -> tuple[str, str]:
    """(rounds after which the common mask changes, the most of a layer's active weights that are exchanged)."""
    settings: Any = method.settings
    rounds = method.problem.training.rounds
    if method.name == "prunefl":
        return ", ".join(str(r + 1) for r in range(1, rounds) if r % settings.interval == 0), "no limit"
    if not hasattr(settings, "interval") or not getattr(settings, "progressive", True):
        return "none", ""
    shares = dict(_shares(settings, rounds))
    layers = {"block": ", one block", "layer": ", one layer"}.get(getattr(settings, "granularity", ""), "")
    extruded = ", extruded before" if getattr(settings, "extrusion", False) else ""
    if not shares:
        return "none", ""
    return ", ".join(str(r + 1) for r in shares), f"{max(shares.values()):.0%}{layers}{extruded}".replace("%", " %")


def _shares(settings: Any, rounds: int) -> Iterator[tuple[int, float]]:
    for r in range(rounds):
        if is_adjustment_round(r, settings.interval, settings.stop):
            count = cosine_count(r, settings.stop, COUNTED, settings.scale)
            if count:
                yield r, count / COUNTED


def _caches(method: Method) -> str:
    step = method.step_settings(1.0, Control())
    levers = step.levers
    if not levers.lossy:
        return "all, fp32"
    norms = ", batch norms' too" if step.pruned_norm else ""
    return f"{100 * levers.activation_keep:g} %, {levers.cache}{norms}"

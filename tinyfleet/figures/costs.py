"""What methods cost a device in the benchmark of all methods: ratios of FLOPs, bytes and memory."""

from __future__ import annotations

from dataclasses import dataclass

from tinyfleet.bench.methods.config import expand, read_config
from tinyfleet.bench.methods.tables import Summary, cost_table, summaries
from tinyfleet.figures.methods import BENCH, DENSE, OWN
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table

TRAINED_SHARE = 0.9  # of CIFAR-10's 50,000 images: a tenth is public
IMAGES = 50_000


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: costs."""
    found = Costs(results)
    return {
        "costs": found.costs,
        "beside": found.beside,
        "more": found.more,
        "less": found.less,
        "memory": found.memory,
        "ratio": found.ratio,
        "core-hours": found.core_hours,
    }


@dataclass(frozen=True, slots=True)
class Costs:
    """Means over the seeds."""

    results: CommittedResults

    @property
    def summaries(self) -> list[Summary]:
        return summaries(self.results.cells(BENCH))

    def costs(self, bench: str) -> str:
        """The benchmark's own table."""
        return "\n".join(cost_table(summaries(self.results.cells(bench))))

    def beside(self) -> str:
        """What tinyfleet's rounds cost, as a multiple of the others'."""
        rivals = ("fedmef", "fedmef, batch norm", "fedtiny, ERK", "static")
        rows = []
        for density in sorted({entry.density for entry in self.summaries if entry.method != DENSE}, reverse=True):
            row = [f"{100 * density:g} %"]
            for metric in ("flops_round_max", "bytes_up_round", "memory_measured_mb", "memory_analytic_mb"):
                row.append(" / ".join(f"{self._ratio(OWN, rival, density, metric):.2f}" for rival in rivals))
            rows.append(row)
        columns = ("density", "FLOPs of the dearest round", "bytes up", "memory, measured", "memory, by arithmetic")
        return f"Against {'; '.join(rivals)}, in this order:\n\n{markdown_table(columns, rows)}"

    def more(self, which: str, reference: str, metric: str) -> str:
        """How much more tinyfleet takes than another in %, the least or most over the densities."""
        densities = {entry.density for entry in self.summaries if entry.method == OWN}
        found = [100.0 * (self._ratio(OWN, reference, density, metric) - 1.0) for density in densities]
        return f"{ {'least': min, 'most': max}[which](found):.0f}"

    def less(self, method: str, reference: str, density: str, metric: str) -> str:
        """How much less a method takes than another, in %."""
        return f"{100.0 * (1.0 - self._ratio(method, reference, float(density), metric)):.0f}"

    def ratio(self, method: str, reference: str, density: str, metric: str) -> str:
        """A method's share of what another takes, in %; of dense training at any density."""
        return f"{100.0 * self._ratio(method, reference, float(density), metric):.0f}"

    def memory(self, method: str, density: str) -> str:
        """MB of a training step, as measured."""
        return f"{self._value(method, float(density), 'memory_measured_mb'):.1f}"

    def core_hours(self, config: str, density: str) -> str:
        """What the native engine's steps of one run take on one core, by its benchmark's time of such a step.

        Adjustments, selection and evaluation are not counted. All devices' data is trained on in a round where
        the cohort is the fleet.
        """
        cell = next(cell for cell in expand(read_config(config)) if cell.density == float(density))
        training, fleet = cell.spec.training, cell.spec.fleet
        devices = cell.spec.data.partition.devices
        share = (fleet.cohort or devices) / devices
        step = next(
            row["ours_s"]
            for row in self.results.read("engine")
            if row["model"] == cell.spec.model.name
            and row["density"] == cell.density
            and row["batch"] == training.batch
            and (row["threads"], row["recompute"], row["micro_batch"]) == (1, 0, 0)
        )
        samples = IMAGES * TRAINED_SHARE * share
        return f"{training.rounds * training.local_epochs * samples / training.batch * step / 3600:.0f}"

    def _ratio(self, method: str, reference: str, density: float, metric: str) -> float:
        return self._value(method, density, metric) / self._value(reference, density, metric)

    def _value(self, method: str, density: float, metric: str) -> float:
        at = 1.0 if method == DENSE else density
        for entry in self.summaries:
            if (entry.method, entry.density) == (method, at) and metric in entry.metrics:
                return entry.metrics[metric].mean
        raise LookupError(f"there is no {metric} of {method} at density {at:g}")

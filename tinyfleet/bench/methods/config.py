"""What a method benchmark runs: one TOML file, expanded to cells, each a whole run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.registry import METHODS, create, problem_of
from tinyfleet.fedcore.run_spec import (
    DataSettings,
    FleetSettings,
    ModelSettings,
    Positive,
    RunSpec,
    Settings,
    TrainingSettings,
    WireSettings,
)
from tinyfleet.fedcore.settings import convert, read_toml

SHIPPED = Path(__file__).parent.parent / "configs"
# Settings of the fleet that no simulation reads: cells that were finished before there were any stay valid.
_LIVE_ONLY = ("selection", "round_target_s", "least_share", "patience")

Density = Annotated[float, Meta(gt=0.0, le=1.0)]


class Base(Settings, frozen=True):
    """What all runs share: a run file without its method."""

    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    data: DataSettings = DataSettings()
    fleet: FleetSettings = FleetSettings()
    wire: WireSettings = WireSettings()


class Entry(Settings, frozen=True):
    """One method, and what it needs apart from the base."""

    method: dict[str, Any]  # as in a run file; the density is filled in
    label: str = ""  # its name in tables; default: the method's name
    model: dict[str, Any] = field(default_factory=dict)  # over base.model; its arguments over the base's
    training: dict[str, Any] = field(default_factory=dict)  # over base.training
    densities: tuple[Density, ...] = ()  # instead of the config's

    @property
    def title(self) -> str:
        return self.label or str(self.method.get("name", ""))


class BenchConfig(Settings, frozen=True):
    """The whole file."""

    name: str
    methods: tuple[Entry, ...]
    densities: tuple[Density, ...] = (0.05,)
    seeds: tuple[int, ...] = (0, 1)
    evaluate_every: Positive = 5  # training rounds
    last: Positive = 10  # so many at the end are evaluated all, and averaged
    base: Base = Base()
    datasets: tuple[dict[str, Any], ...] = ()  # each: label, what differs from base.data, and in ``model`` from it
    partitions: tuple[dict[str, Any], ...] = ()  # each: label, and what differs from base.data.partition


@dataclass(frozen=True, slots=True)
class CellSpec:
    """One run of the benchmark, and where it stands in the tables."""

    dataset: str
    partition: str
    method: str
    density: float
    spec: RunSpec
    evaluate_every: int
    last: int

    @property
    def key(self) -> str:
        """Its name as a file."""
        words = (self.dataset, self.partition, self.method, f"{self.density:g}", str(self.spec.seed))
        return "-".join(re.sub(r"[^a-z0-9.]+", "_", word.lower()).strip("_") for word in words)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides its numbers: a finished cell counts only for an equal one."""
        spec = msgspec.to_builtins(self.spec)
        for name in _LIVE_ONLY:
            del spec["fleet"][name]
        settings = [spec, self.evaluate_every, self.last]
        return hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).hexdigest()[:16]

    def evaluated(self, finished: int) -> bool:
        """Whether the model is evaluated after so many training rounds."""
        late = finished > self.spec.training.rounds - self.last
        return finished > 0 and (late or finished % self.evaluate_every == 0)


def shipped() -> dict[str, Path]:
    """Configurations that come with tinyfleet, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def read_config(name: str) -> BenchConfig:
    """A file, or a shipped one by its bare name. Raises ``ConfigError``."""
    path = Path(name)
    if not path.is_file() and path.suffix == "" and path.parent == Path():
        known = shipped()
        if name not in known:
            raise ConfigError(f"benchmark {name!r}: give a TOML file or one of {', '.join(known)}")
        path = known[name]
    config = read_toml(path, BenchConfig)
    if not config.methods:
        raise ConfigError(f"{path}: there is no method; add a [[methods]] section")
    return config


def expand(config: BenchConfig, source: str | None = None) -> list[CellSpec]:
    """All cells in the order in which they run: seed by seed, densities falling, methods inside.

    ``source`` replaces every data source. Raises ``ConfigError`` for a setting that some run cannot have,
    and for labels that are not unique.
    """
    cells: list[CellSpec] = []
    for (dataset, partition), base in _places(config, source):
        for entry in config.methods:
            for density in _densities(entry, config):
                spec = _spec(f"benchmark {config.name}, method {entry.title}", base, entry, density)
                for seed in config.seeds:
                    own = CellSpec(
                        dataset,
                        partition,
                        entry.title,
                        density,
                        _seeded(spec, seed),
                        config.evaluate_every,
                        config.last,
                    )
                    cells.append(own)
    _check(cells)
    seeds = {seed: index for index, seed in enumerate(config.seeds)}
    return sorted(cells, key=lambda cell: (seeds[cell.spec.seed], -cell.density))


def _places(config: BenchConfig, source: str | None) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """(dataset, partition), and the base of the runs there: the model too may depend on the data."""
    base = msgspec.to_builtins(config.base)
    for override in config.datasets or ({},):
        own = {key: value for key, value in override.items() if key != "model"}
        there = _merge(base, {"data": own, "model": override.get("model", {})})
        if source:
            there["data"]["source"] = source
        for partition in config.partitions or ({},):
            here = _merge(there, {"data": {"partition": partition}})
            dataset = str(override.get("label") or here["data"]["source"].partition(":")[0])
            yield (dataset, str(partition.get("label") or _partition_label(here["data"]["partition"]))), here


def _partition_label(settings: Mapping[str, Any]) -> str:
    """What a partition without a label is called."""
    alpha = f" {settings['alpha']:g}" if settings["kind"] == "dirichlet" else ""
    return f"{settings['kind']}{alpha}, {settings['devices']} devices"


def _merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """``override`` over ``base``; tables inside are merged, and a label is not a setting."""
    merged = dict(base)
    for key, value in override.items():
        if key == "label":
            continue
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _takes_density(entry: Entry) -> bool:
    settings = {method.name: method.settings_type for method in METHODS}.get(str(entry.method.get("name")))
    return settings is not None and "density" in settings.__struct_fields__


def _densities(entry: Entry, config: BenchConfig) -> tuple[float, ...]:
    """The densities that a method runs at: 1 alone where it has none."""
    if "density" in entry.method:
        raise ConfigError(f"method {entry.title}: take method.density out; densities are the benchmark's")
    return (entry.densities or config.densities) if _takes_density(entry) else (1.0,)


def _spec(where: str, base: Mapping[str, Any], entry: Entry, density: float) -> RunSpec:
    """The run of one method at one density, checked now and not after hours."""
    own = {"method": dict(entry.method), "model": entry.model, "training": entry.training}
    if _takes_density(entry):
        own["method"]["density"] = density
    spec = convert({"name": "bench", **_merge(base, own)}, RunSpec, where)
    create(spec.method, problem_of(spec))
    return spec


def _seeded(spec: RunSpec, seed: int) -> RunSpec:
    partition = msgspec.structs.replace(spec.data.partition, seed=seed)
    return msgspec.structs.replace(spec, seed=seed, data=msgspec.structs.replace(spec.data, partition=partition))


def _check(cells: Iterable[CellSpec]) -> None:
    seen: set[str] = set()
    for cell in cells:
        if cell.key in seen:
            raise ConfigError(f"two runs are called {cell.key}; give their methods or data different labels")
        seen.add(cell.key)

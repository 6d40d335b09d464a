"""The demo: a fleet of processes trains a dense and a tiny model over MQTT, and exports the tiny one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tinyfleet.demo import result as demo_result
from tinyfleet.demo import spec as demo_spec
from tinyfleet.demo.fleet import COORDINATOR, DemoFleetSettings, Fleet
from tinyfleet.demo.memory import PeakWatch, rss_bytes
from tinyfleet.fedcore.errors import ConfigError, TinyfleetError
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.run_spec import RunSpec

if TYPE_CHECKING:
    from rich.console import Console

    from tinyfleet.coordinator.store.rows import RunRow
    from tinyfleet.coordinator.store.store import Store

START_TIMEOUT_S = 90.0  # until every agent is online; a slow board reads its data first
POLL_S = 0.25
RUN_TIMEOUT_S = 3600.0
BROKER_PATIENCE_S = 10.0
BROKER_LOOK_S = 2.0
ENDED = ("finished", "stopped", "failed")


class DemoFailed(TinyfleetError):
    """A run of the demo did not finish."""

    exit_code = 9


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What ``tinyfleet demo`` was asked for."""

    out: Path
    method: str = demo_spec.METHOD
    data: str = demo_spec.SOURCE
    density: float = demo_spec.DENSITY
    rounds: int = demo_spec.ROUNDS
    agents: int = demo_spec.AGENTS
    seed: int = demo_spec.SEED
    broker: str = "auto"
    memory_limit: str | int = 0
    limit: int = 0
    boards: tuple[str, ...] = ()  # emulated around the agents, in turn
    engine: str = "auto"

    def spec(self, method: str) -> RunSpec:
        """The demo's run of one method. Raises ``ConfigError`` for one that does not exist."""
        from tinyfleet.fedcore.methods import registry

        if method not in registry.names():
            raise ConfigError(f"method {method!r} is unknown; choose one of {', '.join(registry.names())}")
        return demo_spec.demo_spec(
            method, self.rounds, self.density, self.seed, self.data, self.agents, limit=self.limit
        )


@dataclass(slots=True)
class Trained:
    """What the fleet left in the store, and the memory that it took meanwhile."""

    dense: str  # run ids
    tiny: str
    idle: dict[str, int] = field(default_factory=dict)  # process name -> bytes, before the first run
    idle_after: dict[str, int] = field(default_factory=dict)
    peaks: PeakWatch = field(default_factory=PeakWatch)
    broker: str = ""
    interruptions: list[str] = field(default_factory=list)  # processes that ended before their time


def run_demo(options: DemoOptions, console: Console) -> dict[str, Any]:
    """Run everything; returns the result as JSON data and writes models and the report into ``options.out``.

    Raises ``FleetError`` where a process dies, ``DemoFailed`` where a run does not finish, ``ConfigError`` where
    the engine is not installed.
    """
    from tinyfleet.fedcore.training.registry import require

    started = time.perf_counter()
    require(options.engine)
    specs = {"dense": options.spec("fedavg"), "tiny": options.spec(options.method)}
    work = options.out / "fleet"
    fleet = Fleet(
        work,
        DemoFleetSettings(
            options.agents,
            specs["tiny"].data,
            broker=options.broker,
            memory_limit=options.memory_limit,
            engine=options.engine,
            boards=options.boards,
        ),
    )
    _forget(work)
    with fleet:
        console.print(
            f"{options.agents} agents and a coordinator start ({fleet.broker_kind} broker, {fleet.broker_url})"
        )
        for name, told in fleet.emulated.items():
            console.print(f"{name} under {told.limits.board}: {'; '.join(told.emulated)}")
        trained = train(fleet, specs, console)
    console.print("the fleet has stopped; exporting the tiny model and running every file")
    return conclude(options, specs, fleet.state, trained, started)


# -- training ---------------------------------------------------------------------------


def train(fleet: Fleet, specs: dict[str, RunSpec], console: Console) -> Trained:
    """Submit both runs to a fleet that starts, follow them to their ends, and measure memory meanwhile."""
    from tinyfleet.coordinator.store.store import Store

    fleet.wait((fleet.state / "coordinator.db").exists, START_TIMEOUT_S, "the coordinator")
    store = Store(fleet.state)
    try:
        fleet.wait(lambda: _online(store) >= fleet.settings.agents, START_TIMEOUT_S, "the fleet")
        idle = _resident(fleet)
        trained = Trained(store.runs.submit(specs["dense"]), store.runs.submit(specs["tiny"]), idle)
        trained.broker = fleet.broker_kind
        follow(fleet, store, trained, {trained.dense: "dense", trained.tiny: specs["tiny"].method["name"]}, console)
        trained.idle_after = _resident(fleet)
    finally:
        store.close()
    return trained


def follow(fleet: Fleet, store: Store, trained: Trained, titles: dict[str, str], console: Console) -> None:
    """Draw progress until all runs have ended. Raises ``DemoFailed`` where one did not finish."""
    from tinyfleet.demo.progress import DemoProgress

    end = time.monotonic() + RUN_TIMEOUT_S
    broker = BrokerWatch(fleet)
    with DemoProgress(console, store, titles) as progress:
        while True:
            rows = progress.update()
            for name, pid in fleet.pids.items():
                trained.peaks.sample(name, pid)
            if all(row.state in ENDED for row in rows):
                break
            for event in (*map(fleet.obituary, fleet.check()), *broker.look(time.monotonic())):
                console.print(event, highlight=False, markup=False)
                trained.interruptions.append(event.splitlines()[0])
            if time.monotonic() > end:
                raise DemoFailed(
                    f"the runs did not end within {RUN_TIMEOUT_S:.0f} s; logs are in {fleet.directory}"
                )
            time.sleep(POLL_S)
    for row in rows:
        if row.state != "finished":
            raise DemoFailed(f"{row.run} {row.state}: {row.reason}; logs are in {fleet.directory}")


class BrokerWatch:
    """Restarts the fleet's own broker once it has been away for a while, as a service manager would."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._away_since: float | None = None
        self._next_look = 0.0

    def look(self, now: float) -> list[str]:
        """What happened to the broker; nothing most of the time."""
        if now < self._next_look:
            return []
        self._next_look = now + BROKER_LOOK_S
        if self._fleet.broker_answers():
            came_back, self._away_since = self._away_since is not None, None
            return ["the broker is back"] if came_back else []
        if self._away_since is None:
            self._away_since = now
            return [f"the broker is gone; it is started again in {BROKER_PATIENCE_S:.0f} s"]
        if now - self._away_since >= BROKER_PATIENCE_S:
            self._fleet.restart_broker()
        return []


def _online(store: Store) -> int:
    return sum(1 for row in store.devices.all() if row.online and row.enrolment == "accepted")


def _resident(fleet: Fleet) -> dict[str, int]:
    found = {name: rss_bytes(pid) for name, pid in fleet.pids.items()}
    return {name: value for name, value in found.items() if value is not None}


def _forget(work: Path) -> None:
    """Drop the fleet of an earlier demo: its runs and identities must not mix with this one's."""
    import shutil

    if work.exists():
        if not any((work / name).exists() for name in ("coordinator", "coordinator.log", "agent-0.toml")) and any(
            work.iterdir()
        ):
            raise ConfigError(f"{work} holds something that is no demo's fleet; give another --out")
        shutil.rmtree(work)


# -- conclusion -------------------------------------------------------------------------


def conclude(
    options: DemoOptions, specs: dict[str, RunSpec], state: Path, trained: Trained, started: float
) -> dict[str, Any]:
    """Export, put the numbers together, write the report."""
    from tinyfleet.coordinator.store.store import Store
    from tinyfleet.exporting import evaluate_state, export_state
    from tinyfleet.fedcore.training import registry as engines

    store = Store(state)
    try:
        dense, tiny = store.runs.get(trained.dense), store.runs.get(trained.tiny)
        dense_blob, tiny_blob = _blob(store, dense), _blob(store, tiny)
        engine = engines.create(options.engine)
        exported = export_state(specs["tiny"], tiny_blob, options.out / "model", engine)
        dense_accuracy = evaluate_state(specs["dense"], dense_blob, engine)
        rows = [dataclass_dict(row) for row in exported.rows]
        dense_steps, tiny_steps = store.steps.of(dense.run), store.steps.of(tiny.run)
        dense_tasks, tiny_tasks = store.tasks.of(dense.run), store.tasks.of(tiny.run)
        measured = [row.density for row in exported.rows if getattr(row, "density", None) is not None]
        result: dict[str, Any] = {
            "duration_s": 0.0,
            "method": options.method,
            "density": measured[0] if measured else exported.density,
            "rounds": options.rounds,
            "accuracy": {"dense": dense_accuracy, "tiny": exported.accuracy},
            "bytes": demo_result.traffic(specs["tiny"], tiny_steps, dense_steps),
            "round_overhead_s": demo_result.overhead(tiny_steps),
            "agents": _agents(store, trained, [*dense_tasks, *tiny_tasks]),
            "coordinator": _coordinator(trained),
            "exports": rows,
            "export_failure": _export_failure(exported.rows),
            "broker": trained.broker,
            "data": options.data,
            "seed": options.seed,
            "interruptions": trained.interruptions,
            "warnings": [f"{row.run}: {row.warning}" for row in (dense, tiny) if row.warning],
            "losses": demo_result.losses([*dense_steps, *tiny_steps]),
            "layers": [
                {"name": layer.name, "active": layer.active, "total": layer.total, "density": layer.density}
                for layer in exported.layers
            ],
            "runs": {
                "dense": demo_result.round_rows(dense_steps, dense_tasks),
                "tiny": demo_result.round_rows(tiny_steps, tiny_tasks),
            },
            "spec": msgspec.to_builtins(specs["tiny"]),
        }
    finally:
        store.close()
    from tinyfleet.report.page import write_report

    report = options.out / "report.html"
    write_report(report, result)
    result["report"] = str(report)
    result["duration_s"] = round(time.perf_counter() - started, 3)
    return result


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write the result, indented."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def dataclass_dict(row: Any) -> dict[str, Any]:
    """A row as JSON data; paths become text."""
    import dataclasses

    return {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(row).items()}


def _export_failure(rows: list[Any]) -> str:
    """What is wrong with the files; "" where each computes what the trained model does."""
    from tinyfleet.export.errors import ExportError
    from tinyfleet.export.verify import check

    try:
        check(rows)
    except ExportError as error:
        return str(error)
    return ""


def _blob(store: Store, row: RunRow) -> Path:
    blob = store.state_blob(row.run)
    if blob is None:
        raise DemoFailed(f"{row.run} left no model")
    return blob


def _agents(store: Store, trained: Trained, tasks: list[Any]) -> list[dict[str, Any]]:
    """Idle: the supervisor before the first run. Peak: the worker, as its supervisor saw it."""
    peaks, engines = demo_result.peak_by_device(tasks), demo_result.engine_by_device(tasks)
    return [
        {
            "name": row.device,
            "idle_rss_mb": _mb(trained.idle.get(row.device)),
            "peak_rss_mb": _mb(peaks.get(row.device)),
            "engine": engines.get(row.device),
            "idle_after_rss_mb": _mb(trained.idle_after.get(row.device)),
            "supervisor_peak_rss_mb": _mb(trained.peaks.own.get(row.device)),
            "samples": row.samples,
        }
        for row in store.devices.all()
    ]


def _coordinator(trained: Trained) -> dict[str, Any]:
    return {
        "idle_rss_mb": _mb(trained.idle.get(COORDINATOR)),
        "peak_rss_mb": _mb(trained.peaks.own.get(COORDINATOR)),
        "idle_after_rss_mb": _mb(trained.idle_after.get(COORDINATOR)),
        "engine_process_peak_rss_mb": _mb(trained.peaks.children.get(COORDINATOR)),
    }


def _mb(count: int | None) -> float | None:
    return None if count is None else round(count / 1e6, 2)

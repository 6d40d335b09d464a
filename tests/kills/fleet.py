"""A fleet of real processes in which anything may be killed at any moment, and is started again as systemd would.

Nobody else looks after it: no test answers for an operator. What it leaves is read from its own state directories.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

from tests.patience import PATIENCE_S
from tinyfleet.coordinator.store.rows import RunRow
from tinyfleet.coordinator.store.store import Store
from tinyfleet.demo.spec import demo_spec
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.codec import encode
from tinyfleet.fedcore.run_spec import FleetSettings, RunSpec
from tinyfleet.fedcore.training.registry import create, preferred
from tinyfleet.simulation import simulate

ROOT = Path(__file__).parents[2]
BOUNDARIES = Path(__file__).parent / "boundaries"
ENDED = ("finished", "failed", "stopped")

STOP_S = 20.0
COORDINATOR = "coordinator"


def small_run(agents: int, *, rounds: int = 3, pretrain_epochs: int = 2, **fleet: float) -> RunSpec:
    """FedTiny on a few digits: pre-training, selection, growth; every device is needed in every step."""
    spec = demo_spec("fedtiny", rounds, 0.2, data="digits", agents=agents, limit=160)
    settings: dict[str, float] = {
        "min_devices": agents,
        "min_results": agents,
        "deadline_s": PATIENCE_S,
        "grace_s": PATIENCE_S,
        **fleet,
    }
    return msgspec.structs.replace(
        spec,
        training=msgspec.structs.replace(spec.training, pretrain_epochs=pretrain_epochs),
        method={**spec.method, "interval": 1},
        fleet=FleetSettings(**settings),  # type: ignore[arg-type]
    )


def undisturbed(spec: RunSpec) -> str:
    """SHA-256 of the state that ``spec`` ends with where nothing goes wrong: simulated, on the same engine."""
    return hashlib.sha256(encode(simulate(spec, create(preferred())), precision="fp32")).hexdigest()


class Fleet:
    """Broker, coordinator and agents. ``deaths`` are those that no test brought about."""

    def __init__(self, directory: Path, agents: int = 2, settings: str = "", orders: Path | None = None) -> None:
        self.directory, self.orders = directory, orders
        self.state = directory / COORDINATOR
        self.agents = tuple(f"agent-{number}" for number in range(agents))
        self.deaths: list[str] = []
        self.prefixes: dict[str, Sequence[str]] = {}  # name -> words before its command
        directory.mkdir(parents=True, exist_ok=True)
        self._broker = MosquittoBroker(directory / "broker")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._killed: set[str] = set()
        (directory / "coordinator.toml").write_text(
            "auto_accept = true\nheartbeat_s = 0.5\nreoffer_s = 1.0\nchunk_timeout_s = 0.5\nnice = 0\n"
            f'engine = "{preferred()}"\n{settings}',
            encoding="utf-8",
        )

    # -- processes ----------------------------------------------------------------------

    @property
    def daemons(self) -> tuple[str, ...]:
        """Everything that an init system would start again."""
        return ("coordinator", *self.agents)

    def start(self) -> None:
        """Everything, at once."""
        self._broker.start()
        for name in self.daemons:
            self.start_process(name)

    def start_process(self, name: str) -> None:
        """One of the daemons. Whatever is no agent is a coordinator, with a state directory of its name."""
        is_agent = name in self.agents
        if is_agent:
            arguments = ["--config", self._agent_file(name)]
        else:
            arguments = ["--state", self.directory / name, "--config", self.directory / "coordinator.toml"]
            arguments += ["--broker", f"mqtt://127.0.0.1:{self._broker.port}"]
        module = "tinyfleet.edge_agent.cli" if is_agent else "tinyfleet.coordinator.cli"
        code = f"from {module} import main; main()"
        with self.log_of(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*self.prefixes.get(name, ()), sys.executable, "-c", code, "run", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.directory,
                env=self._environment(name),
            )

    def kill(self, name: str) -> None:
        """SIGKILL a daemon, or the broker; it stays dead until ``tend`` or ``start_process``."""
        if name == "broker":
            self._broker.kill()
            return
        self._killed.add(name)
        self._processes[name].kill()
        self._processes[name].wait()

    def kill_child(self, name: str) -> bool:
        """SIGKILL a worker, or the coordinator's engine process; False where there is none now."""
        children = self.children(name)
        for child in children[:1]:
            child.kill()
        return bool(children)

    def children(self, name: str) -> list[psutil.Process]:
        """Of a daemon that lives."""
        try:
            return psutil.Process(self._processes[name].pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def restart_broker(self) -> None:
        """On its old port."""
        self._broker.start()

    def expect(self, name: str) -> None:
        """A daemon's next death is of the test's making."""
        self._killed.add(name)

    def release(self, name: str) -> None:
        """The operator lets a board go that does not run: it belongs to no fleet."""
        code = "from tinyfleet.edge_agent.cli import main; main()"
        command = [sys.executable, "-c", code, "release-fleet", "--config", str(self._agent_file(name))]
        subprocess.run(command, check=True, env=self._environment(name), stdout=subprocess.DEVNULL)

    def forgive(self, name: str) -> None:
        """It did not come to that."""
        self._killed.discard(name)

    def tend(self) -> list[str]:
        """Start again whatever has died; returns who had."""
        dead = [name for name in self.daemons if self._processes[name].poll() is not None]
        for name in dead:
            if name not in self._killed:
                self.deaths.append(f"{name}: {self._processes[name].returncode}\n{self.tail(name)}")
            self._killed.discard(name)
            self.start_process(name)
        return dead

    def stop(self) -> None:
        """SIGTERM, SIGKILL after a grace. May be called twice."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        end = time.monotonic() + STOP_S
        for process in self._processes.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        self._broker.stop()

    def signal(self, name: str, number: int) -> None:
        """To a daemon."""
        self._processes[name].send_signal(number)

    def exit_code(self, name: str) -> int | None:
        """None while it lives."""
        return self._processes[name].poll()

    # -- waiting ------------------------------------------------------------------------

    def until(self, what: str, found: Callable[[], object], *, tend: bool = False) -> object:
        """Poll; returns what was found. With ``tend`` whatever dies meanwhile is started again."""
        end = time.monotonic() + PATIENCE_S
        while not (value := found()):
            assert time.monotonic() < end, f"{what}: not within {PATIENCE_S:g} s\n{self.tail('coordinator')}"
            if tend:
                self.tend()
            time.sleep(0.02)
        return value

    def until_there(self) -> None:
        """All agents are part of the fleet."""
        self.until("the coordinator", (self.state / "coordinator.db").exists, tend=True)
        with self.store() as store:
            self.until(
                "the agents", lambda: sum(d.online for d in store.devices.all()) == len(self.agents), tend=True
            )

    def until_ended(self, store: Store, run: str) -> RunRow:
        """The run has ended, whatever dies meanwhile."""
        self.until("the run's end", lambda: store.runs.get(run).state in ENDED, tend=True)
        return store.runs.get(run)

    def until_said(self, name: str, words: str) -> None:
        """A process has said it, since it started last."""
        self.until(f"{name} says {words!r}", lambda: words in self.said(name), tend=True)

    # -- what they leave ----------------------------------------------------------------

    def store(self) -> _Closing:
        """The coordinator's store, to be closed again."""
        return _Closing(Store(self.state))

    def log_of(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def said(self, name: str) -> str:
        """All that a process has written to its log."""
        try:
            return self.log_of(name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def tail(self, name: str, lines: int = 30) -> str:
        return "\n".join(self.said(name).splitlines()[-lines:])

    def waiting(self) -> list[str]:
        """Results in the outboxes."""
        return [path.name for name in self.agents for path in (self.directory / name / "outbox").glob("*.json")]

    def faults(self, store: Store, run: str, sha256: str) -> list[str]:
        """What is wrong with a run that has ended: nothing lost, nothing doubled, the same bits, nothing left."""
        row, found = store.runs.get(run), list(self.deaths)
        if (row.state, row.reason) != ("finished", ""):
            found.append(f"the run is {row.state}: {row.reason}")
        counted = Counter(task.step for task in store.tasks.of(run) if task.state == "stored")
        for step in store.steps.of(run):
            if (step.results, step.expected, counted[step.step], step.lost) != (*[len(self.agents)] * 3, []):
                found.append(f"step {step.step}: {step.results} of {step.expected} results, lost {step.lost}")
            if step.stage == "train" and step.test_accuracy is None:
                found.append(f"the state after step {step.step} was not measured: {step.evaluation}")
        if store.runs.state_sha256(run) != sha256:
            found.append(f"the final state is {store.runs.state_sha256(run)}, undisturbed {sha256}")
        for name in self.agents:
            # Once it is in the outbox, work is not done again.
            ended = Counter(re.findall(rf"run {re.escape(run)} step (\d+): finished", self.said(name)))
            found += [f"{name} did step {step} {times} times" for step, times in ended.items() if times > 1]
        found += [f"{name}: {self.tail(name)}" for name in self.daemons if "Traceback" in self.said(name)]
        return found

    def leftovers(self, store: Store) -> list[str]:
        """Files that no longer belong to anything once all runs have ended."""
        runs = [row.run for row in store.runs.all()]
        needed = {*map(store.runs.state_sha256, runs), *map(store.runs.result_sha256, runs), *store.best_states()}
        found = [path for path in _below(self.state / "blobs") if path.name not in needed]
        found += [*_below(self.state / "incoming"), *self.state.glob("initial-*")]
        for name in self.agents:
            for folder in ("outbox", "masks"):
                found += _below(self.directory / name / folder)
        for name in self.daemons:
            found += [
                path
                for path in _below(self.directory / name)
                if path.name.endswith(".tmp") and path.name != ".status.json.tmp"
            ]
        return [str(path.relative_to(self.directory)) for path in found]

    # -- inside -------------------------------------------------------------------------

    def _environment(self, name: str) -> Mapping[str, str]:
        paths = [str(BOUNDARIES)] if self.orders is not None else []
        paths += [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        chosen = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        if self.orders is not None:
            chosen |= {
                "KILLS_NAME": name,
                "KILLS_ROOT": f"{self.directory}/",
                "KILLS_ORDERS": str(self.orders),
            }
        return chosen

    def _agent_file(self, name: str) -> Path:
        path = self.directory / f"{name}.toml"
        number = self.agents.index(name)
        path.write_text(
            f'name = "{name}"\nstate = "{self.directory / name}"\nengine = "{preferred()}"\n'
            f'[broker]\nurl = "mqtt://127.0.0.1:{self._broker.port}"\n'
            '[limits]\nthreads = 1\npolicy = "warm"\nmemory_limit = "600M"\nio_priority = "none"\nnice = 0\n'
            f'[data]\nsource = "digits"\nindex = {number}\nlimit = 160\n'
            f"public_fraction = 0.1\ntest_fraction = 0.2\n"
            f'[data.partition]\nkind = "dirichlet"\nalpha = 0.5\ndevices = {len(self.agents)}\n',
            encoding="utf-8",
        )
        return path


def _below(folder: Path) -> list[Path]:
    """All files, while others may be removing them."""
    return [Path(directory) / name for directory, _, names in os.walk(folder) for name in names]


class _Closing:
    """A store for the length of a ``with``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> Store:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()

"""The worker process: reads tasks as JSON lines, trains, answers with events.

Events: ``planned`` (the levers that fit), ``training`` (the engine is up, training begins), ``progress``,
``tightened``, ``ending`` (early, at the limit), then one of ``done``, ``declined``, ``failed``, ``over_budget``,
``needs_mask``, ``unavailable`` (the board lacks the run's method or model). Nothing heavy is imported before the
first command. A thread of its own listens, so that a task can be tightened while it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from tinyfleet.edge_agent.config import AgentDataSettings
from tinyfleet.edge_agent.worker.data_hold import DataHold
from tinyfleet.fedcore.errors import TinyfleetError, Unavailable, UnknownMask
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.rss import reset_peak, status_bytes
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.settings import convert
from tinyfleet.fedcore.training.levers import NO_LEVERS, Levers

if TYPE_CHECKING:
    from tinyfleet.device_profiles.profile import DeviceProfile
    from tinyfleet.edge_agent.worker.task_control import TaskControl
    from tinyfleet.fedcore.arrays import Mask
    from tinyfleet.fedcore.datasets.dataset import DeviceData
    from tinyfleet.fedcore.methods.method import Method
    from tinyfleet.fedcore.payload import Payload
    from tinyfleet.fedcore.planning.cost_model import CostModel

Emit = Callable[[dict[str, Any]], None]

_PROGRESS_INTERVAL_S = 0.25
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ALLOCATION_FAILURES = (
    "not enough memory",
    "can't allocate memory",
    "DefaultCPUAllocator",
    "bad_alloc",
    "out of memory",
)


class TaskCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="cmd", tag="task"):
    """Do one task: read ``blob``, write ``result``. ``spec`` is a RunSpec, ``data`` an AgentDataSettings."""

    device: str
    blob: str
    result: str
    masks: str
    spec: dict[str, Any]
    data: dict[str, Any]
    engine: str = "auto"
    threads: int = 1
    target_bytes: int = 0  # what the whole process may take; 0: no bound
    first_way: int = 0  # of the plan: ways before it are known to be too much
    factor: float = 1.0  # measured by predicted peak of such tasks so far
    cost_model: str = ""  # file in which this board's own may be
    steps: int = 0  # of the offer: a part of the round; 0: all of it
    levers: Levers = NO_LEVERS  # of the offer: its plan may be tighter, never looser
    memory_limit_bytes: int = 0  # what may be resident; 0: no limit


class TightenCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="cmd", tag="tighten"):
    """Go on with less memory from the next step on. Means nothing while no task trains."""


class DescribeCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="cmd", tag="describe"):
    """Say what is here: engines, number of samples of this device, the board's profile.

    ``profile`` names the file in which an earlier measurement of the board may be.
    """

    device: str
    data: dict[str, Any]
    profile: str = ""


class Trainer:
    """Does tasks; a warm worker keeps the engine's library and the data between them, but no model."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._data: tuple[tuple[AgentDataSettings, str], DeviceData] | None = None
        self._task_control: TaskControl | None = None
        self._hold = DataHold()

    def tighten(self) -> None:
        """Any thread: emit ``tightened`` where the running task can do with less, ``ending`` where it cannot."""
        task_control = self._task_control
        if task_control is not None:
            self._emit(task_control.event("tightened") if task_control.tighten() else {"event": "ending"})

    def describe(self, command: DescribeCommand) -> None:
        """Emit ``described``. Raises ``DataError``, ``ConfigError``."""
        from dataclasses import asdict

        from tinyfleet.fedcore.training.registry import available

        data = self._data_of(convert(command.data, AgentDataSettings, "data"), command.device)
        self._emit(
            {
                "event": "described",
                "engines": list(available()),
                "samples": len(data.train) + len(data.development),
                "profile": asdict(_profile(Path(command.profile))),
                "version": version(),
            }
        )

    def run(self, command: TaskCommand) -> None:
        """Do one task and emit ``done``. Raises whatever went wrong."""
        from tinyfleet.fedcore.methods.registry import create, problem_of
        from tinyfleet.fedcore.planning.cost_model_file import measured_or_shipped
        from tinyfleet.fedcore.protocol.codec import decode
        from tinyfleet.fedcore.protocol.results import encode_result
        from tinyfleet.fedcore.sparsity.mask import active_counts
        from tinyfleet.fedcore.training.engine_facts import NO_KERNEL_CHOICE
        from tinyfleet.fedcore.training.registry import create as create_engine
        from tinyfleet.fedcore.training.registry import facts_of

        _reset_peak()
        facts = facts_of(command.engine)
        if command.memory_limit_bytes:
            self._hold.lift()
            self._hold.loading(command.memory_limit_bytes, facts)
        spec = convert(command.spec, RunSpec, "spec of the task")
        held = _HeldMasks(Path(command.masks))
        task = decode(Path(command.blob).read_bytes(), held=held.get)
        held.keep(task)
        method = create(spec.method, problem_of(spec))
        # Data first: what reading it takes for a moment does not come on top of the engine.
        data = self._data_of(convert(command.data, AgentDataSettings, "data"), command.device)
        grow = task.meta.get("grow")
        growing = tuple(grow) if isinstance(grow, dict) else ()
        active = active_counts(task.mask)
        cost_model = measured_or_shipped(Path(command.cost_model), facts.name)
        samples = len(data.train) + len(data.development)
        task_control = _task_control(command, method, cost_model, samples, growing, active, self._emit)
        if task_control.refusal:
            self._emit({"event": "declined", "reason": task_control.refusal})
            return
        self._emit(task_control.event("planned"))
        kernel_choice = NO_KERNEL_CHOICE if cost_model is None else cost_model.kernel_choice
        engine = create_engine(command.engine, command.threads, kernel_choice)
        if command.memory_limit_bytes:
            self._hold.lower(command.memory_limit_bytes, facts)
        self._emit({"event": "training", "engine": engine.name})
        begin = time.monotonic()
        self._task_control = task_control
        try:
            result = method.run(task, engine, data, task_control.control)
        finally:
            self._task_control = None
        train_s, name = time.monotonic() - begin, engine.name
        # The engine's model and the task's go first: for a large model, encoding would be the task's peak.
        del engine
        if result.params is not task.params:
            task.params.clear()
        write_atomic(Path(command.result), encode_result(result, task, spec.wire, method.upload_precision))
        self._emit({"event": "done", "train_s": train_s, "peak_rss_bytes": peak_rss_bytes(), "engine": name})

    def _data_of(self, settings: AgentDataSettings, device: str) -> DeviceData:
        from tinyfleet.fedcore.datasets.partition import device_data

        key = (settings, device)
        if self._data is None or self._data[0] != key:
            self._data = None  # the old data goes before the new comes
            self._data = (key, device_data(settings, settings.index, device))
        return self._data[1]


def _profile(measured: Path) -> DeviceProfile:
    """The board as it is now, with what was measured on it."""
    from dataclasses import replace

    from tinyfleet.device_profiles.detect import detect
    from tinyfleet.device_profiles.profile import DeviceProfile, ProfileError

    with contextlib.suppress(OSError, ProfileError):
        kept = DeviceProfile.from_toml(measured.read_text(encoding="utf-8"), str(measured))
        return replace(detect(), measured=kept.measured)
    return detect()


class _HeldMasks:
    """Masks of the run on disk."""

    def __init__(self, directory: Path) -> None:
        from tinyfleet.edge_agent.worker.masks import MaskStore

        self._store = MaskStore(directory)

    def get(self, digest: str) -> Mask | None:
        return self._store.get(digest)

    def keep(self, task: Payload) -> None:
        if task.mask:
            self._store.put(task.mask)


def memory_directory(command: TaskCommand) -> Path:
    """Where the run's personal state is: under its masks, with which it goes when the run ends."""
    return Path(command.masks) / "memory"


def _task_control(
    command: TaskCommand,
    method: Method,
    cost_model: CostModel | None,
    samples: int,
    growing: tuple[str, ...],
    active: dict[str, int],
    emit: Emit,
) -> TaskControl:
    """The task's levers and its ``Control``: progress goes out at most four times a second."""
    from tinyfleet.edge_agent.worker.device_memory import FileMemory
    from tinyfleet.edge_agent.worker.task_control import TaskControl
    from tinyfleet.fedcore.methods.method import Control
    from tinyfleet.fedcore.planning.planner import plan_task
    from tinyfleet.fedcore.training import allocator
    from tinyfleet.fedcore.training.engine_facts import MemoryModel
    from tinyfleet.fedcore.training.registry import facts_of

    last = -_PROGRESS_INTERVAL_S

    def progress(step: int, steps: int, loss: float) -> None:
        nonlocal last
        task_control.step_done()
        now = time.monotonic()
        if now - last >= _PROGRESS_INTERVAL_S or step == steps:
            last = now
            emit({"event": "progress", "done": step, "total": steps, "loss": float(loss)})

    memory = FileMemory(memory_directory(command))
    control = Control(command.levers, steps=command.steps, memory=memory, progress=progress)
    plan, facts = None, facts_of(command.engine)
    if command.target_bytes and cost_model is not None:
        plan = plan_task(
            method,
            cost_model,
            command.target_bytes,
            samples,
            first_way=command.first_way,
            factor=command.factor,
            growing=growing,
            active=active,
            threads=command.threads,
        )

    def heap(roomy: bool) -> None:
        if facts.memory_model is MemoryModel.REPLAYED:  # the others' tensors do not come from the heap
            allocator.choose(roomy=roomy)

    task_control = TaskControl(control, plan, heap)
    return task_control


def version() -> str:
    """Version of the installed distribution; here, because the library that reads it is large."""
    from importlib import metadata

    try:
        return metadata.version("tinyfleet")
    except metadata.PackageNotFoundError:
        return "source"


def peak_rss_bytes() -> int:
    """The largest resident set since the task began."""
    return status_bytes("VmHWM") or 0


def _reset_peak() -> None:
    """Begin VmHWM anew, so that a warm worker's tasks are measured one by one."""
    with contextlib.suppress(OSError):  # refused in some containers: the peak is then the process's
        reset_peak()


def is_allocation_failure(error: BaseException) -> bool:
    """True where memory ran out: Python's error, or a framework's under another name."""
    if isinstance(error, MemoryError):
        return True
    from tinyfleet.fedcore.training.engine_facts import NO_ROOM

    text = str(error)
    return isinstance(error, RuntimeError | OSError | ImportError) and (
        any(phrase in text for phrase in (*_ALLOCATION_FAILURES, *NO_ROOM))
    )


def at_data_limit() -> bool:
    """True within a twentieth of RLIMIT_DATA: C extensions report a failed allocation as any error they like."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return limit != resource.RLIM_INFINITY and (status_bytes("VmData") or 0) >= 0.95 * limit


def perform(command: TaskCommand | DescribeCommand, trainer: Trainer, emit: Emit) -> bool:
    """One command; every error becomes an event. False where the process should not go on."""
    try:
        if isinstance(command, DescribeCommand):
            trainer.describe(command)
        else:
            trainer.run(command)
    except UnknownMask as error:
        emit({"event": "needs_mask", "digest": error.digest, "reason": str(error)})
    except Unavailable as error:
        emit({"event": "unavailable", "reason": _first_line(error)})
    except Exception as error:  # noqa: BLE001 - a worker reports whatever happens and leaves the deciding to others
        if is_allocation_failure(error) or (not isinstance(error, TinyfleetError) and at_data_limit()):
            emit({"event": "over_budget", "reason": f"{type(error).__name__}: {_first_line(error)}"})
            return False
        emit({"event": "failed", "kind": type(error).__name__, "reason": _first_line(error)})
        if not isinstance(error, TinyfleetError):
            sys.excepthook(*sys.exc_info())  # to the log: a defect's traceback is wanted
    return True


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:1000]


def commands(stream: IO[bytes], tighten: Callable[[], None]) -> Iterator[TaskCommand | DescribeCommand]:
    """Commands until the supervisor closes the stream. The thread that listens calls ``tighten`` at once."""
    decoder = msgspec.json.Decoder(TaskCommand | DescribeCommand | TightenCommand)
    waiting: queue.SimpleQueue[TaskCommand | DescribeCommand | None] = queue.SimpleQueue()

    def listen() -> None:
        try:
            for line in stream:
                command = decoder.decode(line)
                if isinstance(command, TightenCommand):
                    tighten()
                else:
                    waiting.put(command)
        finally:
            waiting.put(None)

    threading.Thread(target=listen, name="commands", daemon=True).start()
    while (command := waiting.get()) is not None:
        yield command


def _private_stdout() -> IO[bytes]:
    """Keep stdout for events alone: whatever a library prints goes to stderr from now on."""
    private = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return private


def _die_with(parent: int) -> None:
    """The kernel ends this process when the supervisor dies, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the supervisor is gone")


def _offer_to_oom_killer() -> None:
    """Where the whole board runs out of memory, the kernel takes this process, not the supervisor."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def main() -> None:
    """Serve commands: one under ``--policy fresh``, else until stdin closes."""
    parser = argparse.ArgumentParser(prog="python -m tinyfleet.edge_agent.worker.main", description=__doc__)
    parser.add_argument("--policy", choices=("fresh", "warm"), default="fresh")
    parser.add_argument("--parent", type=int, default=0, help="process to die with")
    options = parser.parse_args()
    if options.parent:
        _die_with(options.parent)
    _offer_to_oom_killer()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in a terminal is the supervisor's to handle
    out = _private_stdout()

    def emit(event: dict[str, Any]) -> None:
        out.write(msgspec.json.encode(event) + b"\n")

    trainer = Trainer(emit)
    for command in commands(sys.stdin.buffer, trainer.tighten):
        if not perform(command, trainer, emit) or options.policy == "fresh":
            break
    # Tearing down a framework takes time and can crash; all results are on disk.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

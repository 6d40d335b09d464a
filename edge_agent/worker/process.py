"""The worker process under its limits, and what its death means.

Two lines of defence. The hard limit (a memory cgroup, else RLIMIT_DATA) stops any burst; the
watcher looks at the resident set: near the limit the worker is asked for less, beyond it stopped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
from pathlib import Path
from typing import Protocol

import msgspec

from tinyfleet.device_profiles.cpu import CpuHold, CpuLimits
from tinyfleet.device_profiles.gpu_memory import gpu_bytes
from tinyfleet.device_profiles.limits import DataLimit, MemoryLimit, choose_limit
from tinyfleet.edge_agent.worker.budget import SOFT_SHARE, TaskLimits
from tinyfleet.edge_agent.worker.commands import (
    Command,
    Exited,
    NearLimit,
    OverBudget,
    TaskCommand,
    TaskFailed,
    WorkerEvent,
)
from tinyfleet.edge_agent.worker.memory_limit.out_of_memory import NEAR_LIMIT, is_printed
from tinyfleet.edge_agent.worker.memory_limit.procfs import children_of, data_limit_of, memory_of
from tinyfleet.edge_agent.worker.memory_limit.watch import CLOSE_INTERVAL_S, Watch
from tinyfleet.fedcore.child import Child

logger = logging.getLogger(__name__)

# What was asked of a worker near its limit shows after its step: it is not asked again before.
TIGHTEN_PAUSE_S = 2.0
_LOG_LIMIT_BYTES = 1_000_000


Event = WorkerEvent | NearLimit


class Worker(Protocol):
    """What a task needs of a worker: a real process, or a double in a test."""

    run: str
    limits: TaskLimits
    kind: str
    held_by: str
    patience_s: float

    def send(self, command: Command) -> None: ...
    def poll(self, now: float) -> Event | None: ...
    @property
    def rss_bytes(self) -> int: ...
    @property
    def peak_rss_bytes(self) -> int: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...


class WorkerProcess:
    """``python -m tinyfleet.edge_agent.worker.main`` under ``limits`` and ``cpu``.

    ``kind`` names the hard limit on its memory that is active, ``held_by`` says what all holds it; ``patience_s``
    is how long it may go without ``poll``.
    """

    def __init__(self, run: str, limits: TaskLimits, name: str, log: Path, cpu: CpuLimits | None = None) -> None:
        self.run = run
        self.limits = limits
        self._log = log
        self._limit, self._cpu, self._child = self._start(name, cpu or CpuLimits())
        self.kind = "none" if self._limit is None else self._limit.kind
        self.held_by = f"memory: {self.kind}, cpu: {self._cpu.describe(self._child.pid)}"
        self._oom_kills = 0 if self._limit is None else self._limit.oom_kills()
        self._watch = Watch(limits.memory_limit_bytes)
        self.patience_s = CLOSE_INTERVAL_S
        self._next_look = 0.0
        self._next_warning = 0.0
        self.peak_data_bytes = 0
        self._near_data_limit = False
        self.rss_bytes = 0
        self.peak_rss_bytes = 0

    def _start(self, name: str, cpu: CpuLimits) -> tuple[MemoryLimit | None, CpuHold, Child]:
        """The process under the strongest limit that lets it start. Raises ``OSError``."""
        size = self.limits.memory_limit_bytes
        limit = choose_limit(size, name) if size else None
        try:
            return self._held(limit, name, cpu)
        except OSError as error:
            if limit is None or limit.kind == DataLimit.kind:
                raise
            # A cgroup can be made where nothing may be moved into it; the other limit needs no leave.
            logger.warning("%s cannot be used (%s); %s instead", limit.kind, error, DataLimit.kind)
        return self._held(DataLimit(size), name, cpu)

    def _held(
        self, limit: MemoryLimit | None, name: str, cpu: CpuLimits
    ) -> tuple[MemoryLimit | None, CpuHold, Child]:
        """Started under ``limit``, which is given back where that fails."""
        hold = CpuHold(cpu, limit, name)
        try:
            return limit, hold, self._spawn(limit, hold)
        except BaseException:
            hold.close()
            if limit is not None:
                limit.close()
            raise

    def _spawn(self, limit: MemoryLimit | None, hold: CpuHold) -> Child:
        def before_exec() -> None:
            hold.before_exec()
            if limit is not None:
                limit.before_exec()

        # Append mode: the file is cut short under the running worker.
        with self._log.open("ab") as stderr:
            stderr.truncate(0)
            try:
                return Child(
                    "tinyfleet.edge_agent.worker.main",
                    ["--policy", self.limits.policy, "--parent", str(os.getpid())],
                    env=_environment(self.limits.threads),
                    before_exec=before_exec,
                    stderr=stderr,
                )
            except subprocess.SubprocessError as error:  # what before_exec raised, its type lost
                raise OSError(f"the memory limit could not be set: {error}") from None

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, command: Command) -> None:
        """One command. The log is kept short here, between tasks."""
        with contextlib.suppress(OSError):  # somebody removed it
            if self._log.stat().st_size > _LOG_LIMIT_BYTES:
                os.truncate(self._log, 0)
        if isinstance(command, TaskCommand):
            self.peak_rss_bytes = 0
        self._child.send(command)

    def poll(self, now: float) -> Event | None:
        """The next event, a death as ``OverBudget`` or ``TaskFailed``; watches the memory on the way."""
        event = self._received()
        if event is not None:
            return self._death(event.code) if isinstance(event, Exited) else event
        if now >= self._next_look:
            self._look()
            self.patience_s = self._watch.interval_s(now, self.rss_bytes)
            self._next_look = now + self.patience_s
            limit = self.limits.memory_limit_bytes
            if limit and self.rss_bytes > limit:
                self._child.kill()
                reason = f"resident memory of {self.rss_bytes} bytes, limit {limit}; stopped by the watcher"
                return OverBudget(reason)
            if limit and self.rss_bytes > SOFT_SHARE * limit and now >= self._next_warning:
                self._next_warning = now + TIGHTEN_PAUSE_S
                return NearLimit(self.rss_bytes)
        return None

    def _received(self) -> WorkerEvent | None:
        """The next thing that the worker said; what is no event is left out, and the log says so."""
        while (said := self._child.receive()) is not None:
            try:
                event: WorkerEvent = msgspec.convert(said, type=WorkerEvent)
            except msgspec.ValidationError as error:
                logger.warning("the worker said what is no event (%s): %.200r", error, said)
            else:
                return event
        return None

    def pause(self) -> None:
        """Stop it where it is: its memory stays, it takes no CPU. ``poll`` and ``close`` work as ever."""
        # A dead process is no error: its exit event tells.
        self._child.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on from where ``pause`` stopped it; does nothing to one that runs."""
        self._child.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it now, give the limit back."""
        self._child.kill()
        self._cpu.close()
        if self._limit is not None:
            self._limit.close()

    def _look(self) -> None:
        """Bytes of the worker and its children, resident and on the GPU; one that is just ending counts as zero."""
        children = children_of(self.pid)
        resident, data = memory_of(self.pid)
        self.peak_data_bytes = max(self.peak_data_bytes, data)
        self._near_data_limit |= data >= NEAR_LIMIT * data_limit_of(self.pid)
        resident += sum(memory_of(pid)[0] for pid in children)
        self.rss_bytes = resident + gpu_bytes((self.pid, *children))
        self.peak_rss_bytes = max(self.peak_rss_bytes, self.rss_bytes)

    def _death(self, code: int) -> OverBudget | TaskFailed:
        """Tell a death at the limit from any other."""
        tail = _tail(self._log)
        killed = code == -signal.SIGKILL
        if killed and self._limit is not None and self._limit.oom_kills() > self._oom_kills:
            return OverBudget(f"killed by the kernel at {self.limits.memory_limit_bytes} bytes")
        failed = self._near_data_limit or is_printed(tail)
        if code != 0 and not killed and failed:
            return OverBudget(f"an allocation failed: {_last_line(tail)}")
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        reason = f"worker {how}" + (f": {_last_line(tail)}" if tail.strip() and not killed else "")
        return TaskFailed("WorkerDied", reason)


def _environment(threads: int) -> dict[str, str]:
    """The supervisor's, with what keeps the worker's memory small and its thread count as decided."""
    count = str(threads)
    return {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        # glibc otherwise keeps an arena a thread, and freed memory in each of them.
        "MALLOC_ARENA_MAX": "1",
        # Large activations go back to the kernel at once (a sixth less peak memory on 96x96 images), small
        # ones are reused from a heap that is not trimmed at every step (half the time on 28x28 images).
        "MALLOC_MMAP_THRESHOLD_": "4194304",
        "MALLOC_TRIM_THRESHOLD_": "33554432",
        # 8 MB of stack a thread would count against RLIMIT_DATA.
        "OMP_STACKSIZE": "2M",
    }


def _tail(log: Path) -> str:
    """The end of the worker's own log."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4000))
        return file.read().decode("utf-8", "replace")
    return ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""

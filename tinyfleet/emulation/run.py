"""A command under a board's limits: it and all its children inside, its exit status out, nothing left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from tinyfleet.device_profiles.cgroups import CgroupLimit, CpuQuota, choose_quota
from tinyfleet.device_profiles.emulated import BOARD_VARIABLE, ROOT_VARIABLE
from tinyfleet.device_profiles.limits import DataLimit, MemoryLimit, choose_limit, format_size
from tinyfleet.emulation.board import Emulated, EmulatedLimits, plan_here
from tinyfleet.fedcore.errors import ConfigError, TinyfleetError

logger = logging.getLogger(__name__)

# Where no quota can be set, the command at least yields to everything else.
NICE = 10
_FORWARDED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
_AWAITED = _FORWARDED | {signal.SIGCHLD}
_LOOK_S = 1.0


class CommandMissing(TinyfleetError):
    """The command to run is not there."""

    exit_code = 127


class CommandRefused(TinyfleetError):
    """The command is there and may not be run, or not under any limit."""

    exit_code = 126


class Box:
    """``limits``, set: cgroups where they may be made (and are wanted), else limits on each process."""

    def __init__(self, limits: EmulatedLimits, *, cgroups: bool = True) -> None:
        self.limits = limits
        name = f"emulate-{limits.board}"
        self.memory: MemoryLimit = DataLimit(limits.memory_bytes)
        self.quota: CpuQuota | None = None
        if cgroups:
            self.memory = choose_limit(limits.memory_bytes, name, whole_tree=True)
        try:
            if cgroups and limits.cpu_quota:
                self.quota = choose_quota(limits.cpu_quota, self.memory, name)
        except BaseException:
            self.memory.close()
            raise
        # Boards emulated side by side get different cores where there are enough.
        usable = sorted(os.sched_getaffinity(0))
        start = os.getpid() * limits.cores % len(usable)
        self._cpus = (usable + usable)[start : start + limits.cores]

    def told(self, *, sensors: bool = False) -> Emulated:
        """What this box holds, and what not."""
        held = isinstance(self.memory, CgroupLimit) and self.memory.holds_swap
        return Emulated(
            self.limits,
            memory_means=self.memory.kind,
            cpu_means="" if self.quota is None else self.quota.kind,
            holds_swap=held or psutil.swap_memory().total == 0,
            sensors=sensors,
        )

    def before_exec(self) -> None:
        """Run in the child between fork and exec: what it starts is inside too."""
        os.sched_setaffinity(0, self._cpus)
        if self.quota is not None:
            self.quota.before_exec()
        elif self.limits.cpu_quota:
            os.nice(NICE)
        self.memory.before_exec()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)

    def start(self, spawn: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """The process that ``spawn`` starts with ``before_exec``; without cgroups where none lets it in.

        Raises ``subprocess.SubprocessError`` where no limit can be set.
        """
        try:
            return spawn()
        except subprocess.SubprocessError:  # what before_exec raised, its type lost
            if self.quota is None and isinstance(self.memory, DataLimit):
                raise
        # A cgroup can be made where nothing may be moved into it; the other limits need no leave.
        logger.warning("%s: its cgroups cannot be entered; %s instead", self.limits.board, DataLimit.kind)
        self.close()
        self.memory, self.quota = DataLimit(self.limits.memory_bytes), None
        return spawn()

    def close(self) -> None:
        """End what is left in the groups, and remove them."""
        if self.quota is not None:
            self.quota.close()
        self.memory.close()


def emulated_here(board: str, *, sensors: bool = False, cgroups: bool = True) -> Emulated:
    """What an emulation of ``board`` would be on this machine: its groups are made for the moment, to be sure."""
    box = Box(plan_here(board), cgroups=cgroups)
    try:
        return box.told(sensors=sensors)
    finally:
        box.close()


def run(
    board: str,
    command: Sequence[str],
    *,
    sensors_root: Path | None = None,
    cgroups: bool = True,
    tell: Callable[[Emulated], None] = lambda emulated: None,
) -> int:
    """Run ``command`` as on ``board``; its exit status, 128 + n where signal n ended it.

    ``sensors_root`` stands in for ``/`` where sensors and device tree are read; ``tell`` hears what is emulated
    before the start. Signals sent to this process go on to the command. Processes that it leaves behind in a
    cgroup end with it. Raises ``ProfileError``, ``ConfigError``, ``CommandMissing``, ``CommandRefused``.
    """
    if not command:
        raise ConfigError(
            "no command is given; write it after --, as in: tinyfleet emulate pi-4b -- edge-agent run"
        )
    if sensors_root is not None and not sensors_root.is_dir():
        raise ConfigError(f"{sensors_root} is no directory; give one that holds a faked sys/")
    environment = {**os.environ, BOARD_VARIABLE: board}
    if sensors_root is not None:
        environment[ROOT_VARIABLE] = str(sensors_root.absolute())
    limits = plan_here(board)
    with _signals_held():
        box = Box(limits, cgroups=cgroups)

        def spawn() -> subprocess.Popen[bytes]:
            tell(box.told(sensors=sensors_root is not None))
            return _start(command, box, environment)

        try:
            try:
                process = box.start(spawn)
            except subprocess.SubprocessError as error:
                raise CommandRefused(f"no limit can be set on {command[0]}: {error}") from None
            code = _wait(process)
            if kills := box.memory.oom_kills():
                logger.warning(
                    "%s: the kernel killed %d process(es) at %s", board, kills, format_size(limits.memory_bytes)
                )
        finally:
            box.close()
    return 128 - code if code < 0 else code


def _start(command: Sequence[str], box: Box, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, env=environment, preexec_fn=box.before_exec)  # noqa: PLW1509 - limits first
    except OSError as error:
        if isinstance(error, FileNotFoundError) or _is_nowhere(command[0], environment.get("PATH")):
            raise CommandMissing(f"{command[0]}: no such command; give one that is in PATH, or its path") from None
        raise CommandRefused(f"{command[0]} cannot be run: {error.strerror}") from None


def _is_nowhere(name: str, path: str | None) -> bool:
    """As shells see it: a folder of PATH that may not be searched holds no command."""
    return os.sep not in name and shutil.which(name, os.F_OK, path) is None


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Signals wait until ``_wait`` asks for them: none ends this process before the groups are removed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The command's return code; meanwhile signals that are meant for it are passed on."""
    while (code := process.poll()) is None:
        got = signal.sigtimedwait(_AWAITED, _LOOK_S)
        # A terminal's Ctrl-C (from the kernel, a positive code) has reached the whole foreground group already.
        if got is not None and got.si_signo != signal.SIGCHLD and got.si_code <= 0:
            process.send_signal(got.si_signo)
    return code

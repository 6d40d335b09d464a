"""The console script ``edge-agent``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tinyfleet.edge_agent import config as configuration
from tinyfleet.edge_agent.config import AgentConfig
from tinyfleet.edge_agent.errors import StateError
from tinyfleet.fedcore.errors import ConfigError, TinyfleetError
from tinyfleet.fedcore.foreign.daemon import end_with_any_thread, log_as_daemon
from tinyfleet.fedcore.foreign.shown import printable, printable_json

_LEVELS = ("debug", "info", "warning", "error")
DEFAULT_CONFIG = Path("/etc/tinyfleet/agent.toml")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run, and exit: 0, or the error's own code (docs/agent.md)."""
    options = _parser().parse_args(arguments)
    log_as_daemon(options.log_level)
    try:
        options.command(options)
    except TinyfleetError as error:
        if options.json:
            _write({"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code})
        sys.stderr.write(f"edge-agent: {printable(str(error))}\n")
        sys.exit(error.exit_code)


def run(options: argparse.Namespace) -> None:
    """Run the agent until SIGTERM."""
    from tinyfleet.edge_agent import daemon

    end_with_any_thread()
    daemon.run(_config(options))


def init(options: argparse.Namespace) -> None:
    """Make the identity, and a commented configuration file where there is none."""
    from tinyfleet.edge_agent import identity
    from tinyfleet.edge_agent.state_directory import state_directory

    config = _config(options, missing_ok=True)
    config.broker.exposure()  # refused before anything is made
    who = identity.obtain(state_directory(config), config.name)
    path = options.config
    written = path is not None and not path.exists()
    if path is not None and written:
        try:
            path.write_text(configuration.as_toml(config), encoding="utf-8")
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}; give another path with --config") from None
    facts = {
        "device": who.device,
        "public_key": who.public_key,
        "fingerprint": who.fingerprint,
        "state": config.state,
    }
    if options.json:
        _write({**facts, "config": str(path) if path else None, "config_written": written})
        return
    for name, value in facts.items():
        sys.stdout.write(f"{name:12} {value}\n")
    if written:
        sys.stdout.write(f"wrote        {path}\n")


def measure(options: argparse.Namespace) -> None:
    """Measure this board in two minutes, and keep the result in the state directory for the next start."""
    from dataclasses import asdict, replace

    from tinyfleet.device_profiles.detect import detect
    from tinyfleet.device_profiles.measuring.compare import disagreements
    from tinyfleet.device_profiles.measuring.measure import ENGINES
    from tinyfleet.device_profiles.measuring.measure import measure as measure_board
    from tinyfleet.device_profiles.measuring.progress import progress_on
    from tinyfleet.device_profiles.profile import ProfileError
    from tinyfleet.edge_agent.state_directory import PROFILE, state_directory

    config = _config(options)
    state = state_directory(config)
    # An engine that cannot measure, or none named: numpy is always here.
    engine = config.engine if config.engine in ENGINES else "numpy"
    try:
        board = detect()
        measurement = measure_board(state, progress_on(sys.stderr), engine, options.thermal_seconds)
    except ProfileError as error:
        raise ConfigError(str(error)) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nedge-agent: stopped; nothing was kept\n")
        sys.exit(130)
    profile = replace(board, measured=measurement)
    profile.save(state / PROFILE)
    warnings = disagreements(profile)
    if options.json:
        _write({**asdict(profile), "warnings": [asdict(warning) for warning in warnings]})
        return
    sys.stdout.write(profile.to_toml())
    for warning in warnings:
        sys.stderr.write(f"warning: {warning}\n")


def measure_training(options: argparse.Namespace) -> None:
    """Measure what training takes here, in a minute or two: tasks are then planned by this board's own figures."""
    from tinyfleet.device_profiles.detect import detect
    from tinyfleet.device_profiles.measuring.progress import progress_on
    from tinyfleet.edge_agent.state_directory import COST_MODEL, state_directory
    from tinyfleet.fedcore.planning.cost_model_file import measure_here
    from tinyfleet.fedcore.training.registry import preferred

    config = _config(options)
    path = state_directory(config) / COST_MODEL
    found = measure_here(preferred(config.engine), detect().title, path, progress_on(sys.stderr))
    if options.json:
        _write(msgspec.to_builtins(found))
    else:
        sys.stdout.write(path.read_text(encoding="utf-8"))


def show_config(options: argparse.Namespace) -> None:
    """Print the configuration in force: the file with the command line on top."""
    config = _config(options)
    if options.json:
        _write(msgspec.to_builtins(config))
    else:
        sys.stdout.write(configuration.as_toml(config))


def status(options: argparse.Namespace) -> None:
    """Say what the agent on this state directory is doing."""
    from tinyfleet.edge_agent.state_directory import STATUS
    from tinyfleet.edge_agent.status import read
    from tinyfleet.fedcore.tls.validity import lasting

    config = _config(options)
    state = Path(config.state).expanduser()
    last = read(state / STATUS)
    if last is None:
        raise StateError(f"no agent has run on {state}; start one with 'edge-agent run', or give its --state")
    running = last.link != "stopped" and _is_alive(last.pid)
    facts = {**msgspec.to_builtins(last), "running": running}
    if config.broker.tls_cert:
        facts["certificate"] = lasting(Path(config.broker.tls_cert), time.time())
    if options.json:
        _write(facts)
        return
    facts["trouble"] = "none" if last.trouble is None else last.trouble.told(time.time())
    for name, value in facts.items():
        sys.stdout.write(f"{name:12} {printable(str(value))}\n")


def release_fleet(options: argparse.Namespace) -> None:
    """Let this board go: it belongs to no fleet, and obeys the next that accepts it. Results that wait are kept."""
    from tinyfleet.edge_agent.fleet import pin
    from tinyfleet.edge_agent.state_directory import lock, state_directory

    state = state_directory(_config(options))
    with lock(state):
        released = pin.release(state / pin.FILE_NAME)
    if options.json:
        _write({"released": released})
    else:
        sys.stdout.write("this board belongs to no fleet now\n" if released else "no fleet was pinned here\n")


def sensors(options: argparse.Namespace) -> None:
    """Say what the sensors of this board read now."""
    from tinyfleet.device_profiles.sensors.read import read_all
    from tinyfleet.device_profiles.sensors.sensor import shown

    config = _config(options)
    state = Path(config.state).expanduser()
    settings = config.sensors.options(state if state.is_dir() else None)
    readings = read_all(disabled=config.sensors.disabled, options=settings)
    if options.json:
        _write({"sensors": readings})
        return
    for reading in readings:
        sys.stdout.write(f"{reading.name:14} {reading.state:9} {shown(reading):12} {reading.note}".rstrip() + "\n")


class _Help(argparse.HelpFormatter):
    """As wide as the terminal. Without a width it asks shutil, which stays in memory with its archives."""

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size().columns
        except OSError:
            columns = 80
        super().__init__(prog, width=columns - 2)


class _Parser(argparse.ArgumentParser):
    """Of the command, and of each below it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=_Help)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="edge-agent", description="Trains tiny models on this board.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for function in (run, init, measure, measure_training, show_config, status, release_fleet, sensors):
        name = function.__name__.replace("_", "-")
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.set_defaults(command=function)
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--log-level", choices=_LEVELS, default="info")
        command.add_argument(
            "--config", type=Path, help=f"configuration file (default: {DEFAULT_CONFIG}, if there)"
        )
        command.add_argument("--state", help="state directory")
        command.add_argument("--name", help="device name")
        command.add_argument("--broker", metavar="URL", help="mqtt://HOST:PORT")
        command.add_argument(
            "--plaintext", action="store_true", default=None, help="allow mqtt:// to another machine"
        )
        command.add_argument("--memory-limit", metavar="SIZE", help='memory of the worker, such as "300M"')
        command.add_argument("--threads", type=int, help="CPU threads of the worker")
        command.add_argument("--policy", choices=("auto", "fresh", "warm"), help="worker process a task, or a run")
        command.add_argument("--engine", help="training engine")
        command.add_argument(
            "--data-index", type=int, metavar="I", help="part of the partition that is this device's"
        )
        if function is measure:
            command.add_argument(
                "--thermal-seconds", type=int, default=60, metavar="S", help="load on all cores; 0: none"
            )
    return parser


def _config(options: argparse.Namespace, *, missing_ok: bool = False) -> AgentConfig:
    path: Path | None = options.config
    if path is None and DEFAULT_CONFIG.exists():
        path = DEFAULT_CONFIG
    if path is not None and missing_ok and not path.exists():
        path = None
    return configuration.load(
        path,
        {
            "state": options.state,
            "name": options.name,
            "engine": options.engine,
            "broker.url": options.broker,
            "broker.plaintext": options.plaintext,
            "limits.memory_limit": options.memory_limit,
            "limits.threads": options.threads,
            "limits.policy": options.policy,
            "data.index": options.data_index,
        },
    )


def _write(document: dict[str, Any]) -> None:
    sys.stdout.write(printable_json(msgspec.json.format(msgspec.json.encode(document), indent=2).decode()) + "\n")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main()

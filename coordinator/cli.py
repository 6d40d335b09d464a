"""The console script ``coordinator``."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.coordinator.fleet import fleet_key
from tinyfleet.coordinator.lock import StateLock
from tinyfleet.coordinator.status import read_status
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.errors import ConfigError, TinyfleetError
from tinyfleet.fedcore.files import check_private, write_atomic
from tinyfleet.fedcore.foreign.daemon import end_with_any_thread, log_as_daemon
from tinyfleet.fedcore.foreign.shown import printable, printable_json
from tinyfleet.fedcore.protocol.messages import Enrolment
from tinyfleet.fedcore.protocol.signed.signatures import SigningKey, fleet_id, shown
from tinyfleet.fedcore.settings import read_toml

log = logging.getLogger("coordinator")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exits with the code that docs/coordinator.md lists for each fatal error."""
    options = _parser().parse_args(arguments)
    try:
        options.action(options)
    except TinyfleetError as error:
        sys.stderr.write(f"coordinator: {printable(str(error))}\n")
        sys.exit(error.exit_code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coordinator", description="The gateway's side of a tinyfleet.")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    run = actions.add_parser("run", help="serve the fleet until SIGTERM")
    run.add_argument("--state", type=Path, required=True, help="state directory; made where it is missing")
    run.add_argument("--config", type=Path, help="coordinator.toml")
    broker = run.add_mutually_exclusive_group()
    broker.add_argument("--broker", metavar="URL", help="mqtt://HOST:PORT or mqtts://HOST:PORT")
    broker.add_argument(
        "--embedded-broker",
        metavar="PORT",
        type=int,
        nargs="?",
        const=0,
        help="serve MQTT on loopback in this process; port 0 or none: any free one, named in STATE/broker.url",
    )
    run.add_argument("--plaintext", action="store_true", help="allow mqtt:// to another machine")
    run.add_argument("--auto-accept", action="store_true", help="accept every new device: demos, closed networks")
    run.add_argument("--empty", action="store_true", help="start although blobs are there that no run knows")
    run.add_argument("--new-fleet", action="store_true", help="make a fleet key although devices obey another")
    run.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    run.set_defaults(action=_run)
    status = actions.add_parser("status", help="show runs and devices")
    status.add_argument("--state", type=Path, required=True)
    status.add_argument("--json", action="store_true")
    status.set_defaults(action=_status)
    return parser


# -- run --------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> None:
    log_as_daemon(options.log_level)
    end_with_any_thread()
    for chatty in ("amqtt", "transitions"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    config = CoordinatorConfig() if options.config is None else read_toml(options.config, CoordinatorConfig)
    if options.auto_accept:
        config = msgspec.structs.replace(config, auto_accept=True)
    broker = config.broker
    if options.embedded_broker is None:
        broker = msgspec.structs.replace(
            broker, url=options.broker or broker.url, plaintext=broker.plaintext or options.plaintext
        )
        broker.exposure()  # refused before anything is made
        config = msgspec.structs.replace(config, broker=broker)
    stopping = _Stop()
    with StateLock(options.state):
        check_private(options.state)
        if options.embedded_broker is None:
            store = _store(options)
            _serve(store, _key(options, store), config, stopping)
            return
        store = _store(options)
        key = _key(options, store)
        from tinyfleet.fedcore.protocol.brokers.embedded import EmbeddedBroker

        embedded = EmbeddedBroker(port=options.embedded_broker)
        url = f"mqtt://127.0.0.1:{embedded.start()}"
        write_atomic(options.state / "broker.url", f"{url}\n".encode())
        log.info("the embedded broker listens on %s", url)
        try:
            _serve(store, key, msgspec.structs.replace(config, broker=BrokerSettings(url)), stopping)
        finally:
            embedded.stop()


def _store(options: argparse.Namespace) -> Store:
    store = Store(options.state, mend=True)
    if not options.empty:
        store.check_whole()
    return store


def _key(options: argparse.Namespace, store: Store) -> SigningKey:
    enrolled = any(pin.enrolment is Enrolment.ACCEPTED for pin in store.devices.pins())
    return fleet_key.obtain(options.state, enrolled=enrolled and not options.new_fleet)


def _serve(store: Store, key: SigningKey, config: CoordinatorConfig, stopping: _Stop) -> None:
    from tinyfleet.coordinator.service import Service

    fleet = fleet_id(key.public)
    transport = config.broker.transport(f"tinyfleet-coordinator-{fleet[:8]}")
    service = Service(store, transport, config, key)
    stopping.at_once = transport.hurry  # a publish that waits for a broker that hangs
    service.start()
    log.info("serving fleet %s; state in %s", shown(fleet), store.directory)
    try:
        service.run(lambda: stopping.requested)
    finally:
        service.close()
    log.info("stopped")


class _Stop:
    """Set by SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.requested = False
        self.at_once: Callable[[], None] | None = None  # in the handler, which may take no lock
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: object) -> None:
        self.requested = True
        if self.at_once is not None:
            self.at_once()


# -- status -----------------------------------------------------------------------------


def _status(options: argparse.Namespace) -> None:
    if not (options.state / "coordinator.db").exists():
        raise ConfigError(f"{options.state}: no coordinator has run here; check --state")
    store = Store(options.state)
    runs, devices, put_aside = store.runs.all(), store.devices.all(), store.put_aside
    spent = {row.run: ledger for row in runs if (ledger := store.ledgers.legible(row.run)) is not None}
    store.close()
    fleet, service = _fleet(options.state), read_status(options.state)
    if options.json:
        document: dict[str, Any] = {
            "fleet": fleet,
            "fingerprint": shown(fleet),
            "service": None if service is None else {**msgspec.to_builtins(service), "running": service.running},
            "runs": [dataclasses.asdict(row) for row in runs],
            "privacy": {run: msgspec.to_builtins(ledger) for run, ledger in spent.items()},
            "devices": [dataclasses.asdict(row) for row in devices],
            "damaged": None if put_aside is None else str(put_aside),
        }
        sys.stdout.write(printable_json(msgspec.json.encode(document).decode()) + "\n")
        return
    lines = [f"fleet   {shown(fleet) or 'has no key yet'}{f' (id {fleet})' if fleet else ''}"]
    lines += [f"{len(runs)} runs, {len(devices)} devices"]
    if service is not None:
        at = f"connected to {service.broker}" if service.connected else f"not connected to {service.broker}"
        lines.append(f"service {f'running, {at}' if service.running else 'not running'}")
        if service.running and service.trouble is not None:
            lines.append(f"trouble {service.trouble.told(time.time())}")
    if put_aside is not None:
        lines.append(
            f"damage  {put_aside} was damaged and its copy took its place; remove it once it was looked at"
        )
    lines += [
        f"run     {r.run:<32} {r.state:<10} round {r.round}/{r.rounds} {r.reason or r.warning}".rstrip()
        for r in runs
    ]
    lines += [f"privacy {run:<32} {ledger}" for run, ledger in spent.items()]
    for d in devices:
        presence = "online" if d.online else "offline"
        lines.append(
            f"device  {d.device:<32} {d.fingerprint:<19} {d.enrolment:<10} {presence}, {d.samples} samples"
        )
        if d.quarantine:
            lines.append(f"        {d.device:<32} quarantined: {d.quarantine}")
        if d.trouble:
            lines.append(f"        {d.device:<32} {d.trouble}")
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def _fleet(state: Path) -> str:
    """The fleet's id; empty where no coordinator has run yet that made its key."""
    path = state / fleet_key.FILE_NAME
    return fleet_id(fleet_key.read(path).public) if path.exists() else ""

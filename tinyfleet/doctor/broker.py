"""The broker that this machine's programs are to use: tried now, or what a program that runs says of it."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyfleet.coordinator.status import read_status
from tinyfleet.doctor import probe
from tinyfleet.doctor.answer import Answer, Outcome, Surroundings
from tinyfleet.edge_agent.cli import DEFAULT_CONFIG
from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.settings import convert


def broker(surroundings: Surroundings) -> Answer:
    """Name, port, TLS, log-in and subscription of ``--broker``, or of ``[broker]`` in ``--config``.

    Without either: of the agent's usual file, else what the coordinator that runs here says.
    """
    usual = surroundings.root / DEFAULT_CONFIG.relative_to("/")
    asked = surroundings.broker is not None or surroundings.config is not None
    if not asked and not usual.exists():
        return _as_told(surroundings.state)
    try:
        settings, topic = _settings(surroundings if asked else replace(surroundings, config=usual))
        steps = list(probe.probe(settings, topic, probe.STEP_TIMEOUT_S))
    except ConfigError as error:
        if asked:
            return Answer(Outcome.MISSING, str(error), "correct it", code=error.exit_code)
        return Answer(Outcome.WARNING, str(error), "run this as the agent's user, or give --config FILE")
    found = "\n".join(map(str, steps))
    cause = steps[-1].cause
    if cause is None and (exposure := settings.exposure()):
        return Answer(Outcome.WARNING, f"{found}\n{exposure}", "docs/security-ca.md")
    if cause is None:
        return Answer(Outcome.OK, found)
    return Answer(
        Outcome.MISSING, found, "docs/troubleshooting.md has more", probe.EXIT_CODES[cause.kind], cause.kind.value
    )


def _settings(surroundings: Surroundings) -> tuple[BrokerSettings, str]:
    """The broker's, and the topic of whose they are."""
    data: dict[str, Any] = {}
    if (path := surroundings.config) is not None:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; give an agent.toml or a coordinator.toml") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
    part = data.get("broker", {})
    if surroundings.broker is not None and isinstance(part, dict):
        part = {**part, "url": surroundings.broker}
    settings = convert(part, BrokerSettings, f"{path or 'command line'}, [broker]")
    names = (data.get("name"), settings.username, "doctor")
    return settings, topics.down(
        next(name for name in names if isinstance(name, str) and topics.valid_device(name))
    )


def _as_told(state: Path) -> Answer:
    service = read_status(state)
    if service is None or not service.running:
        return Answer(Outcome.OK, "not asked for; give --broker mqtt://HOST:PORT, or --config FILE, to try one")
    if service.trouble is None:
        return Answer(Outcome.OK, f"the coordinator that runs here reaches {service.broker}")
    trouble = service.trouble
    return Answer(
        Outcome.WARNING,
        f"the coordinator that runs here has trouble: {trouble.reason}",
        "try it with --config FILE",
        kind=trouble.kind.value,
    )

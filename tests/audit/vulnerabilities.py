"""Known vulnerabilities of what a board and a gateway install, by pip-audit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.audit.findings import Outcome, Part


def of_requirements(file: Path) -> Part:
    """Of the versions in a file with hashes, without installing any."""
    return _audit(f"vulnerabilities of {file.name}", ["--require-hashes", "--disable-pip", "-r", str(file)])


def of_environment(site_packages: Path) -> Part:
    """Of what is installed."""
    return _audit("vulnerabilities of the environment", ["--path", str(site_packages)])


def read(name: str, output: str) -> Part:
    """What pip-audit's JSON says. A package that its database did not answer for is not taken for clean."""
    asked: list[dict[str, Any]] = json.loads(output)["dependencies"]
    unknown = [f"{one['name']}: {one['skip_reason']}" for one in asked if "skip_reason" in one]
    found = [
        f"{one['name']} {one['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
        for one in asked
        for fault in one.get("vulns", ())
    ]
    answered = len(asked) - len(unknown)
    if found:
        return Part(name, Outcome.FOUND, f"{len(found)} in {answered} packages", found + unknown)
    if unknown:
        return Part(name, Outcome.NOT_ASKED, f"no answer for {len(unknown)} of {len(asked)} packages", unknown)
    return Part(name, Outcome.CLEAN, f"none known in {answered} packages")


def _audit(name: str, arguments: Sequence[str]) -> Part:
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return read(name, done.stdout)
    except (ValueError, KeyError):
        return Part(name, Outcome.NOT_ASKED, "pip-audit gave no answer", done.stderr.strip().splitlines()[-3:])

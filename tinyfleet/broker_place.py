"""Where the fleet's broker is, so that one command carries what the authority changed all the way to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from tinyfleet import mosquitto_files
from tinyfleet.coordinator.fleet.authority import Authority
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import write_atomic

FILE_NAME = "broker.json"  # in the authority's directory
SYSTEMD_RESTART = "systemctl try-restart mosquitto"
_WATCH = "tinyfleet-broker.path"


class BrokerPlace(msgspec.Struct, frozen=True):
    """What `tinyfleet broker config` wrote: its directory, and what restarts the broker (empty: nothing known)."""

    directory: str
    restart: str


def remember(authority: Authority, directory: Path, restart: str | None) -> None:
    """Keep the place; without a command systemd's is taken where there is one."""
    if restart is None:
        restart = SYSTEMD_RESTART if shutil.which("systemctl") else ""
    path = authority.directory / FILE_NAME
    write_atomic(path, msgspec.json.encode(BrokerPlace(str(directory.absolute()), restart)))
    if os.geteuid() == 0:  # by sudo: the directory stays its owner's
        owner = authority.directory.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def remembered(authority: Authority) -> BrokerPlace | None:
    """The place that was kept; None where there is none. Raises ``ConfigError`` where it is damaged."""
    path = authority.directory / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=BrokerPlace)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        raise ConfigError(f"{path} is damaged; write it again: tinyfleet broker config") from None


def carry_out(authority: Authority, directory: Path | None, command: str | None) -> tuple[bool, str]:
    """Bring the broker up to date with its authority: (is it done or under way, what was done or is to do).

    ``directory`` and ``command`` go before what was remembered. Raises ``TransportError`` where the restart fails.
    """
    place = remembered(authority)
    if directory is None and command is None and place is not None and _watched():
        return True, f"{_WATCH} restarts the broker now"
    if directory is None and place is not None:
        directory = Path(place.directory)
    if command is None and place is not None:
        command = place.restart or None
    if directory is not None:
        if not os.access(directory, os.W_OK | os.X_OK):
            again = f' --restart "{command}"' if command else ""
            return False, (
                f"the broker does not know yet, its files are another user's; now: sudo tinyfleet broker refresh "
                f"--ca {authority.directory.absolute()} --out {directory}{again}"
            )
        mosquitto_files.refresh(authority, directory)
    if command is not None:
        mosquitto_files.restart(command)
        return True, "the broker was restarted with it"
    if directory is not None:
        return False, f"{directory} is up to date; the broker obeys once it is restarted: do that now"
    return False, (
        f"no broker is known here (`tinyfleet broker config`): bring it {authority.revoked_path} and "
        f"{authority.trust_path}, and restart it"
    )


def behind(authority: Authority) -> bool:
    """Whether the broker's files are known, may be read by this user, and are not as the authority's."""
    place = remembered(authority)
    if place is None:
        return False
    pairs = ((authority.revoked_path, mosquitto_files.REVOKED), (authority.trust_path, mosquitto_files.TRUST))
    try:
        return any(own.read_bytes() != (Path(place.directory) / name).read_bytes() for own, name in pairs)
    except OSError:
        return False


def _watched() -> bool:
    """Whether systemd waits for changes of the authority."""
    if shutil.which("systemctl") is None:
        return False
    ran = subprocess.run(
        ["systemctl", "is-active", "--quiet", _WATCH], capture_output=True, check=False, timeout=10
    )
    return ran.returncode == 0

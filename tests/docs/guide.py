"""Runs the guide's commands on two machines that are overlays of this one: guide.py REPOSITORY IMAGES OUT.json.

Started by ``test_guide.py`` as root in mount and process namespaces of its own, so that whatever the commands
install, start and write is gone with it. ``sudo``, ``scp`` and ``systemctl`` are stand-ins: nobody to become, no
second host, no systemd; everything else is the real program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.docs import fenced

GUIDE = fenced.ROOT / "docs" / "getting-started.md"
PATIENCE_S = 900
MACHINES = ("gateway", "board")
TOOLS = Path(__file__).parent / "guide_tools"


class Machine:
    """One overlay of this machine's disk: what is written stays in memory."""

    def __init__(self, name: str, base: Path, repository: Path, images: Path) -> None:
        self.name, self.root = name, base / name / "disk"
        for folder in ("upper", "work", "disk"):
            (base / name / folder).mkdir(parents=True)
        options = f"lowerdir=/,upperdir={base / name / 'upper'},workdir={base / name / 'work'}"
        _call("mount", "-t", "overlay", "overlay", "-o", options, self.root)
        for folder, kind in (("proc", "proc"), ("sys", "sysfs")):
            _call("mount", "-t", kind, kind, self.root / folder)
        _call("mount", "--rbind", "/dev", self.root / "dev")
        homes = base / "homes"  # of the readers of the guide; scp reaches the other machine's
        (homes / name).mkdir(parents=True)
        for source, target in ((repository, "srv/repository"), (images, "srv/pictures"), (homes, "srv/homes")):
            (self.root / target).mkdir(parents=True, exist_ok=True)
            _call("mount", "--bind", source, self.root / target)
        for tool in TOOLS.iterdir():
            target = self.root / "usr/local/bin" / tool.name
            target.write_bytes(tool.read_bytes())
            target.chmod(0o755)
        hosts = self.root / "etc/hosts"
        text = hosts.read_text() if hosts.exists() else ""
        hosts.unlink(missing_ok=True)
        hosts.write_text(f"{text}\n127.0.0.1 gateway.lan localhost\n")

    def command(self, script: str) -> list[str]:
        variables = (
            f"HOME=/srv/homes/{self.name}",
            "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
        )
        kept = [
            f"{name}={os.environ[name]}"
            for name in ("PIP_CACHE_DIR", "PIP_INDEX_URL", "PIP_CONFIG_FILE")
            if name in os.environ
        ]
        shell = f"cd ~ && {script}"
        return [
            "chroot",
            str(self.root),
            "env",
            "-i",
            *variables,
            *kept,
            "bash",
            "-e",
            "-o",
            "pipefail",
            "-c",
            shell,
        ]

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )


def _call(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True)


def adapted(script: str, architecture: str) -> str:
    """What a reader replaces as well: the address of the repository, and the board's architecture by this one's."""
    return script.replace("git clone REPOSITORY", "git clone -q /srv/repository").replace(
        "-*_aarch64.whl", f"-*_{architecture}.whl"
    )


def main(repository: Path, images: Path, out: Path) -> int:
    architecture = os.uname().machine
    base = Path("/mnt/machines")
    base.mkdir(exist_ok=True)
    _call("mount", "-t", "tmpfs", "machines", base)
    machines = {name: Machine(name, base, repository, images) for name in MACHINES}
    (machines["board"].root / "srv/images").symlink_to("/srv/pictures/board")
    (machines["gateway"].root / "srv/tinyfleet").mkdir(parents=True)
    (machines["gateway"].root / "srv/tinyfleet/public").symlink_to("/srv/pictures/public")
    done = []
    for block in fenced.blocks(GUIDE):
        if block.how != "root":
            continue
        name, *how = block.where.split()
        machine, script = machines[name], adapted(block.text, architecture)
        started = time.monotonic()
        if "background" in how:
            log = (machine.root / "var/log/guide.log").open("w")
            subprocess.Popen(machine.command(script), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            continue
        if "accept" in script:
            _await(machine, "tinyfleet devices list --json", lambda rows: any(row["online"] for row in rows))
        if "finished" in how:
            _await(
                machine,
                "tinyfleet run list --json",
                lambda rows: rows[0]["state"] in {"finished", "failed", "stopped"},
            )
        ran = machine.run(script)
        done.append({"block": str(block), "seconds": round(time.monotonic() - started, 1)})
        print(f"{block} ({block.where}): {ran.returncode} after {done[-1]['seconds']} s", flush=True)  # noqa: T201
        if ran.returncode:
            print(script, ran.stdout[-4000:], ran.stderr[-4000:], sep="\n", flush=True)  # noqa: T201
            return 1
    rows = _ask(machines["gateway"], "tinyfleet run list --json")
    devices = _ask(machines["gateway"], "tinyfleet devices list --json")
    steps = _ask(machines["gateway"], "tinyfleet run show board-images --json")
    files = sorted(p.name for p in (machines["gateway"].root / "srv/homes/gateway/tinyfleet/export-out").iterdir())
    log = (machines["board"].root / "var/log/edge-agent.log").read_text()
    out.write_text(
        json.dumps({"runs": rows, "devices": devices, "run": steps, "files": files, "log": log, "blocks": done})
    )
    return 0


def _ask(machine: Machine, command: str) -> object:
    ran = machine.run(f"cd ~/tinyfleet && .venv/bin/{command}")
    return json.loads(ran.stdout) if ran.returncode == 0 else []


def _await(machine: Machine, command: str, seen) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        rows = _ask(machine, command)
        if rows and seen(rows):
            return
        time.sleep(1.0)
    logs = [
        path.read_text()[-3000:]
        for m in MACHINES
        for path in (machine.root.parents[1] / m / "disk/var/log").glob("*.log")
    ]
    raise TimeoutError(f"{command}: not within {PATIENCE_S} s\n" + "\n".join(logs))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))

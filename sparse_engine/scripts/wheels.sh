#!/usr/bin/env bash
# Build the engine's wheels: wheels.sh OUT [x86_64|aarch64]... . PYTHONS names the interpreters (python3): 3.11 gives a
# wheel of its own, any later one the wheel for 3.12 and all after it. What cannot be built here is said and left out.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
out=$(mkdir -p "${1:?OUT is missing}" && cd "$1" && pwd)
shift
machines=("$@")
[ "$#" -gt 0 ] || machines=(x86_64 aarch64)
work=$here/build/wheels
mkdir -p "$work"

# Debian's pyconfig.h includes one by architecture; but for assembler macros that extensions do not use, they are alike.
foreign_headers() {
  "$1" - "$work/include" <<'PY'
import pathlib, shutil, sys, sysconfig
version = sysconfig.get_python_version()
own = pathlib.Path("/usr/include", sysconfig.get_config_var("MULTIARCH") or "-", f"python{version}", "pyconfig.h")
config = own if own.is_file() else pathlib.Path(sysconfig.get_config_h_filename())
place = pathlib.Path(sys.argv[1], "aarch64-linux-gnu", f"python{version}")
place.mkdir(parents=True, exist_ok=True)
shutil.copyfile(config, place / "pyconfig.h")
PY
}

built=0
for python in ${PYTHONS:-python3}; do
  # Build tools of this machine: pip's own isolation would fetch the foreign machine's CMake for a cross build.
  tools=$work/tools-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if [ ! -e "$tools/.stamp" ]; then
    "$python" -m venv "$tools"
    "$tools/bin/python" -m pip install -qq --disable-pip-version-check "scikit-build-core>=0.10" "nanobind>=2.2" \
      "cmake>=3.26" ninja
    touch "$tools/.stamp"
  fi
  python=$tools/bin/python
  for machine in "${machines[@]}"; do
    made=$work/$machine
    rm -rf "$made" && mkdir -p "$made"
    if [ "$machine" = "$(uname -m)" ]; then
      variables=()
    elif [ "$machine" = aarch64 ]; then
      if ! command -v aarch64-linux-gnu-g++ >/dev/null; then
        echo "wheels: no wheel for aarch64: its compiler is missing (apt install g++-aarch64-linux-gnu)"
        continue
      fi
      foreign_headers "$python"
      version=$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')
      variables=(_PYTHON_HOST_PLATFORM=linux-aarch64
                 SETUPTOOLS_EXT_SUFFIX=".cpython-$version-aarch64-linux-gnu.so"
                 CMAKE_TOOLCHAIN_FILE="$here/cmake/aarch64.cmake" CPLUS_INCLUDE_PATH="$work/include")
    else
      echo "wheels: no wheel for $machine: it is built on such a machine"
      continue
    fi
    echo "wheels: building for $machine with $("$python" -V)"
    env "${variables[@]}" PATH="$tools/bin:$PATH" "$python" -m pip wheel -qq --disable-pip-version-check --no-deps \
      --no-build-isolation -w "$made" --config-settings=cmake.define.SPARSE_STATIC_RUNTIME=ON "$here"
    "$python" "$here/scripts/tag_wheel.py" "$made"/*.whl "$out"
    built=$((built + 1))
  done
done
[ "$built" -gt 0 ]

#!/usr/bin/env bash
# Install the engine into an environment: install.sh PYTHON WHEELS [pip's arguments]. numpy is there already. With a
# compiler from the sources, unless the directory WHEELS has a wheel that is newer than them; without, any wheel there
# that fits. Says what it does. Exit code 3: there is neither (the remedies are printed); 4: the build failed.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
python=${1:?PYTHON is missing}
wheels=${2:?WHEELS is missing}
shift 2
pip=("$python" -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore --no-deps "$@")
works() { "$python" -c 'import sparse_engine._core' 2>/dev/null; }

compiler=
for name in c++ g++ clang++; do
  compiler=$(command -v "$name") && break
done

shopt -s nullglob
found=("$wheels"/tinyfleet_sparse_engine-*.whl)
if [ "${#found[@]}" -gt 0 ] && [ -n "$compiler" ]; then
  for source in "$here"/pyproject.toml "$here"/CMakeLists.txt "$here"/src/*/* "$here"/sparse_engine/{,*/}*.py; do
    for wheel in "${!found[@]}"; do
      if [ "$source" -nt "${found[$wheel]}" ]; then unset "found[$wheel]"; fi
    done
    [ "${#found[@]}" -gt 0 ] || break
  done
fi
if [ "${#found[@]}" -gt 0 ]; then
  if "${pip[@]}" --force-reinstall --no-index --find-links "$wheels" tinyfleet-sparse-engine 2>/dev/null && works; then
    echo "setup:   from a wheel in $wheels"
    exit 0
  fi
  echo "setup:   no wheel in $wheels fits this Python and machine"
fi
if [ -z "$compiler" ]; then
  echo "setup:   no C++ compiler and no wheel of the engine (to have it: apt install g++ python3-dev, or a wheel that"
  echo "setup:   \`make wheels\` built on another machine, in $wheels)"
  exit 3
fi
echo "setup:   compiled by $compiler, half a minute of two cores"
if ! "${pip[@]}" "$here"; then
  echo "setup:   the native engine could not be built (see above; it needs apt install g++ python3-dev)"
  exit 4
fi
works

#!/usr/bin/env bash
# Run the engine's tests under sanitizers: test_sanitizers.sh PYTHON [pytest's arguments]. PYTHON has numpy and pytest;
# SANITIZERS names the builds. A finding is printed and fails the run. Leaks are not looked for: Python has its own.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
python=$(realpath -s "${1:?PYTHON is missing}")
shift
export CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-2} CXX=${CXX:-g++}
cd "$here/.."
runtime() { "$CXX" -print-file-name="$1"; }

for sanitizer in ${SANITIZERS:-address,undefined thread}; do
  name=${sanitizer%%,*}
  build=$here/build/sanitizers/$name
  echo "test-sanitizers: building for $sanitizer"
  rm -rf "$build/site"
  "$python" -m pip install -qq --disable-pip-version-check --no-deps --target "$build/site" \
    --config-settings="build-dir=$build/build" --config-settings=cmake.build-type=Sanitized \
    --config-settings=install.strip=false \
    --config-settings="cmake.define.SPARSE_SANITIZE=$sanitizer" "$here"
  if [ "$name" = thread ]; then
    # Its shadow memory does not fit beside today's randomised layout.
    start=(setarch -R)
    preload=$(runtime libtsan.so)
  else
    start=()
    preload="$(runtime libasan.so) $(runtime libubsan.so) $(runtime libstdc++.so.6)"  # exceptions need the last
  fi
  echo "test-sanitizers: $sanitizer"
  "${start[@]}" env LD_PRELOAD="$preload" PYTHONPATH="$build/site" PYTHONMALLOC=malloc OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 \
    "$python" -m pytest -q -p no:cacheprovider -p no:faulthandler -o timeout=1800 --rootdir "$here/.." \
    -c "$here/../pyproject.toml" "$here/tests" "$@"
done

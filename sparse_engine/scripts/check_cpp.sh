#!/usr/bin/env bash
# Check the engine's C++ without building it: check_cpp.sh PYTHON. PYTHON has nanobind and clang-format. The format
# first, then all warnings as errors, for every instruction set of this kind of processor; others' headers count as
# the system's. A build of the wheel takes no warning for an error: later compilers know more of them.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
python=$(realpath -s "${1:?PYTHON is missing}")
cd "$here/src"
"$(dirname "$python")/clang-format" --dry-run --Werror ./*/*.hpp ./*/*.cpp ./*/*.inc

compiler=${CXX:-c++}
if ! command -v "$compiler" >/dev/null; then
  echo "check: no C++ compiler, so the engine's warnings are not looked for (to have them: apt install g++)"
  exit 0
fi
nanobind=$("$python" -m nanobind --include_dir)
python_headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
compile() {
  "$compiler" -std=gnu++17 -fsyntax-only -Wall -Wextra -Wconversion -Wshadow -Werror -I. \
    -isystem "$nanobind" -isystem "$python_headers" "$@"
}
export -f compile
export compiler nanobind python_headers

{
  ls ./*/*.cpp | grep -v /kernels.cpp
  echo "-DSPARSE_TABLE=kBaselineKernels kernels/kernels.cpp"
  if [ "$(uname -m)" = x86_64 ]; then
    echo "-DSPARSE_TABLE=kAvx2Kernels -mavx2 -mfma kernels/kernels.cpp"
    echo "-DSPARSE_TABLE=kAvx512Kernels -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma kernels/kernels.cpp"
  fi
} | xargs -P "${JOBS:-2}" -I '{}' bash -c 'compile {}'

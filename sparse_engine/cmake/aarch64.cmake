# Cross compiling for 64-bit ARM with Debian's and Ubuntu's g++-aarch64-linux-gnu. The baseline is ARMv8.0: no -mcpu
# here, or the result dies with an illegal instruction on a Cortex-A53.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
# Python and nanobind are the building machine's own: headers are the same on both, the interpreter runs here.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE NEVER)

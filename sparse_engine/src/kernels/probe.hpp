// What the processor can do at most, measured with the instruction set that the kernels use.
#pragma once

#include <cstddef>

namespace sparse {

// GFLOP/s of multiply-adds in one thread, one operand of each read from a buffer of so many bytes over and over, or
// with 0 all in registers. The operands' bandwidth in GB/s is twice that.
double peak_gflops(ptrdiff_t bytes);

}  // namespace sparse

// Compiled once per instruction set, with SPARSE_TABLE naming the table.
#include "kernels/kernels.hpp"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels/simd.hpp"

using namespace sparse;  // NOLINT: what follows is this file's own

#include "kernels/kernels_conv.inc"
#include "kernels/kernels_elementwise.inc"
#include "kernels/kernels_probe.inc"

// After the elementwise ones, of which it is made.
#include "kernels/kernels_caches.inc"

namespace {

#if defined(__AVX512F__)
constexpr const char* kName = "avx512";
#elif defined(__AVX2__)
constexpr const char* kName = "avx2";
#elif defined(__aarch64__)
constexpr const char* kName = "neon";
#else
constexpr const char* kName = "baseline";
#endif

// By name: in C++17 that is GCC's and Clang's own, as the vectors are.
constexpr Kernels kTable = {
    .name = kName,
    .width = kWidth,
    .tile = SPARSE_TILE,
    .convolve = convolve,
    .convolve_dense = convolve_dense,
    .correlate = correlate,
    .correlate_dense = correlate_dense,
    .gather = gather,
    .scatter = scatter,
    .read = read,
    .combine = combine,
    .slope = slope,
    .slope_by_output = slope_by_output,
    .add = add,
    .moments = moments,
    .reduce = reduce,
    .update = update,
    .mark_large = mark_large,
    .mark_above = mark_above,
    .pack = pack,
    .unpack = unpack,
    .choose = choose,
    .cut = cut,
    .multiply_add = multiply_add,
};

}  // namespace

namespace sparse {
extern const Kernels* const SPARSE_TABLE;
const Kernels* const SPARSE_TABLE = &kTable;
}  // namespace sparse

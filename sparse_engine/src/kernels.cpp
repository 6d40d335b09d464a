// Compiled once per instruction set, with SPARSE_TABLE naming the table.
#include "kernels.hpp"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "simd.hpp"

using namespace sparse;  // NOLINT: what follows is this file's own

#include "kernels_conv.inc"
#include "kernels_elementwise.inc"
#include "kernels_caches.inc"
#include "kernels_probe.inc"

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

constexpr Kernels kTable = {kName,  kWidth,  SPARSE_TILE, convolve, convolve_dense, correlate,
                            correlate_dense, gather,      scatter,  read,           combine,
                            slope,  slope_by_output, add, moments,  reduce,         update,
                            mark_large, mark_above, pack, unpack, choose, cut, multiply_add};

}  // namespace

namespace sparse {
extern const Kernels* const SPARSE_TABLE;
const Kernels* const SPARSE_TABLE = &kTable;
}  // namespace sparse

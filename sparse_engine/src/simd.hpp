// Vectors of the widest kind that the compiler's flags allow, by GCC's and Clang's vector extensions:
// one source serves SSE2, AVX2, AVX-512 and NEON.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX512F__)
#define SPARSE_WIDTH 16
#define SPARSE_TILE 16  // accumulators of a tile: half of the registers, the rest hold operands
#elif defined(__AVX2__)
#define SPARSE_WIDTH 8
#define SPARSE_TILE 8
#elif defined(__aarch64__)
#define SPARSE_WIDTH 4
#define SPARSE_TILE 16
#else
#define SPARSE_WIDTH 4
#define SPARSE_TILE 8
#endif

namespace {

typedef float Vec __attribute__((vector_size(SPARSE_WIDTH * 4)));
typedef float LooseVec __attribute__((vector_size(SPARSE_WIDTH * 4), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(SPARSE_WIDTH * 4)));

constexpr int kWidth = SPARSE_WIDTH;

inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
inline Vec broadcast(float s) { return s - Vec{}; }
inline Vec select(IntVec where, Vec yes, Vec no) { return where ? yes : no; }
inline Vec vmax(Vec a, Vec b) { return a > b ? a : b; }
inline Vec vmin(Vec a, Vec b) { return a < b ? a : b; }

inline float sum(Vec v) {
  float s[kWidth];
  __builtin_memcpy(s, &v, sizeof s);
  for (int step = kWidth / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) s[i] += s[i + step];
  return s[0];
}

inline double sum_double(Vec v) {
  float s[kWidth];
  __builtin_memcpy(s, &v, sizeof s);
  double total = 0;
  for (float x : s) total += x;
  return total;
}

}  // namespace

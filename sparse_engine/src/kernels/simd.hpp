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

// e^x to 1e-7 of its value, as Cephes' expf: x = n log 2 + r, and a polynomial of r. What is no number stays none.
inline Vec vexp(Vec x) {
  x = vmin(broadcast(88.0f), vmax(broadcast(-87.0f), x));
  const Vec magic = broadcast(12582912.0f);  // 1.5 2^23: what is added to it is rounded to a whole number
  const Vec rounded = x * 1.44269504f + magic, n = rounded - magic;
  const Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Vec y = p * r * r + r + 1.0f;
  // Casts of vectors keep their bits.
  const IntVec exponent = ((IntVec)rounded - (IntVec)magic + 127) << 23;
  return y * (Vec)exponent;
}

inline float sum(Vec v) {
  float s[kWidth];
  __builtin_memcpy(s, &v, sizeof s);
  for (int step = kWidth / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) s[i] += s[i + step];
  return s[0];
}

// out[i] += the sum of vector i, for four of them: halves are folded together until four sums are left.
inline void add_sums4(float* out, Vec a, Vec b, Vec c, Vec d) {
#if SPARSE_WIDTH == 16
  const Vec ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                 __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  const Vec cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                 __builtin_shufflevector(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  Vec all = __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
            __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  all += __builtin_shufflevector(all, all, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  all += __builtin_shufflevector(all, all, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  out[0] += all[0], out[1] += all[4], out[2] += all[8], out[3] += all[12];
#elif SPARSE_WIDTH == 8
  const Vec ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
                 __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  const Vec cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 8, 9, 10, 11) +
                 __builtin_shufflevector(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
  Vec all = __builtin_shufflevector(ab, cd, 0, 1, 4, 5, 8, 9, 12, 13) +
            __builtin_shufflevector(ab, cd, 2, 3, 6, 7, 10, 11, 14, 15);
  all += __builtin_shufflevector(all, all, 1, 0, 3, 2, 5, 4, 7, 6);
  out[0] += all[0], out[1] += all[2], out[2] += all[4], out[3] += all[6];
#else
  const Vec ab = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
  const Vec cd = __builtin_shufflevector(c, d, 0, 1, 4, 5) + __builtin_shufflevector(c, d, 2, 3, 6, 7);
  store(out, load(out) + __builtin_shufflevector(ab, cd, 0, 2, 4, 6) + __builtin_shufflevector(ab, cd, 1, 3, 5, 7));
#endif
}

}  // namespace

// The inner loops, one table of them per instruction set; all else is compiled once, for the baseline.
//
// Kernels see plain pointers only: a template of the standard library that was instantiated here could be
// linked into code that runs on older processors.
//
// They check nothing. What callers owe them:
// - Alignment: that of a float (of a uint16_t for bitmaps and half precision), no more.
// - Slack: convolutions and correlations read and write whole vectors. Behind each run that they are told of there
//   are `width` - 1 more floats of the same buffer, of which kSlack is enough for any table. What they write there
//   is no result: it is overwritten, or never read. All other kernels touch just what they are told of.
// - Overlap: `out` may be an input where that is said; else nothing that is written overlaps what is read, or the
//   numbers are any (but no memory beyond is touched).
// - Counts are 0 or more where no other bound is named; pitches, strides and steps are in floats.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparse {

enum class Act : int32_t { none, relu, relu6, leaky, hardswish, hardsigmoid, sigmoid, tanh };

constexpr float kLeakySlope = 0.01f;

// How a stored value x is read: gain * act(scale * x + shift).
struct Reading {
  float scale = 1.0f;
  float shift = 0.0f;
  Act act = Act::none;
  float gain = 1.0f;

  bool plain() const { return act == Act::none && scale == 1.0f && shift == 0.0f && gain == 1.0f; }
};

// The gradient of a stored value x from that of its reading: a * (g * act') + b * x + c.
struct Slope {
  Reading reading;
  float a = 1.0f, b = 0.0f, c = 0.0f;

  bool plain() const { return reading.plain() && a == 1.0f && b == 0.0f && c == 0.0f; }
};

// Nonzero weights by output and by group of input channels: output o's of group g are those from
// bounds[g * stride + o] to bounds[(g + 1) * stride + o]. Each reads its input at an offset from the tile. A
// group is so small that what a tile of outputs reads of it stays in the first-level cache. There is at least one
// group.
struct Taps {
  const int32_t* bounds;
  const int32_t* offset;
  const float* value;
  int outputs;
  int stride;
  int groups;
};

// All weights, in the same order for every output: value[output / kDenseOutputs][tap][output % kDenseOutputs].
// `outputs` is a multiple of kDenseOutputs, `group` at least 1.
struct DenseTaps {
  const int32_t* offset;
  const float* value;
  int outputs;
  int count;  // taps of an output
  int group;  // taps whose input stays in the first-level cache
};

// A region of rows in memory: `rows` runs of `run` floats, both at least 1.
struct Rows {
  int rows;
  int run;
};

constexpr int kSlack = 64;        // floats that buffers hold beyond their end, for the last vector's sake
constexpr int kProbeStep = 192;   // floats that a round of `multiply_add` takes at a time
constexpr int kDenseOutputs = 4;  // output channels that the dense kernels compute together

struct Kernels {
  const char* name;
  int width;  // floats in a vector
  int tile;   // vectors in a tile

  // out[o][r][i] = sum over taps of value * in[offset + r * in_pitch + i]; added to `out` if `add`. `out_pitch` and
  // `out_stride` leave room for whole vectors.
  void (*convolve)(const Taps&, const float* in, ptrdiff_t in_pitch, float* out, ptrdiff_t out_pitch,
                   ptrdiff_t out_stride, Rows, bool add);
  void (*convolve_dense)(const DenseTaps&, const float* in, ptrdiff_t in_pitch, float* out, ptrdiff_t out_pitch,
                         ptrdiff_t out_stride, Rows, bool add);
  // sums[t] += inner product of dy[o] and `in` at offset t, for every tap t; values are not read. Behind each run,
  // up to whole vectors, `dy` is zero and `in` is finite.
  void (*correlate)(const Taps&, const float* dy, ptrdiff_t dy_pitch, ptrdiff_t dy_stride, const float* in,
                    ptrdiff_t in_pitch, Rows, float* sums);
  // The same for all taps of all outputs: sums[o * count + t].
  void (*correlate_dense)(const DenseTaps&, const float* dy, ptrdiff_t dy_pitch, ptrdiff_t dy_stride,
                          const float* in, ptrdiff_t in_pitch, Rows, float* sums);

  // Columns `step` floats apart to columns side by side, each of `lanes` floats: a power of two up to 16.
  void (*gather)(const float* in, ptrdiff_t step, float* out, int columns, int lanes);
  // And back; with `added` (at the places of `out`, which it may be) added to them.
  void (*scatter)(const float* in, float* out, const float* added, ptrdiff_t step, int columns, int lanes);

  // `x` may be `out`, here and in `cut`.
  void (*read)(const float* x, float* out, ptrdiff_t n, Reading);
  // out = gain * act(reading of x + reading of y); either may be `out`
  void (*combine)(const float* x, Reading, const float* y, Reading, float* out, ptrdiff_t n, Act, float gain);
  // The gradient of x; `g` may be `out`.
  void (*slope)(const float* g, const float* x, float* out, ptrdiff_t n, Slope);
  // g *= the derivative of an activation, told by its output z: relu or relu6, others leave g.
  void (*slope_by_output)(float* g, const float* z, ptrdiff_t n, Act, float gain);
  void (*add)(const float* x, float* out, ptrdiff_t n);  // out += x
  // sums[0] += sum(x - center), sums[1] += sum((x - center)^2)
  void (*moments)(const float* x, ptrdiff_t n, float center, double* sums);
  // sums[0] += sum(gm), sums[1] += sum(gm * (x - mean)) where gm = g * act'
  void (*reduce)(const float* g, const float* x, ptrdiff_t n, Reading, float mean, double* sums);
  // SGD: v = momentum * v + g + decay * w; w -= rate * v
  void (*update)(float* w, float* v, const float* g, ptrdiff_t n, float rate, float momentum, float decay);

  // -- pruned copies; a bitmap has one word for each 16 values, the last one's surplus bits are zero --
  // Set the bits of |x| >= bound, zeros never, or of x > bound; returns how many.
  ptrdiff_t (*mark_large)(const float* x, ptrdiff_t n, float bound, uint16_t* bitmap);
  ptrdiff_t (*mark_above)(const float* x, ptrdiff_t n, float bound, uint16_t* bitmap);
  // The marked values side by side, as float or half precision, and back with zeros between; returns how many.
  // There is room for all that are marked.
  ptrdiff_t (*pack)(const float* x, ptrdiff_t n, const uint16_t* bitmap, void* out, bool half);
  ptrdiff_t (*unpack)(const void* in, ptrdiff_t n, const uint16_t* bitmap, float* out, bool half);
  // high where the second bitmap's bit is set (null: nowhere), else middle where the first's is, else low.
  void (*choose)(const uint16_t* first, const uint16_t* second, ptrdiff_t n, float low, float middle, float high,
                 float* out);
  void (*cut)(float* x, ptrdiff_t n, float bound);  // |x| < bound becomes zero

  // `rounds` times `n` multiply-adds, with operands from memory or, where that is null, from registers alone. `n`
  // is a multiple of kProbeStep.
  float (*multiply_add)(const float* operands, ptrdiff_t n, ptrdiff_t rounds);
};

// The best table that this processor can run; SPARSE_ENGINE_ISA names another (a lesser one).
const Kernels& kernels();

extern const Kernels* const kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels* const kAvx2Kernels;
extern const Kernels* const kAvx512Kernels;
#endif

}  // namespace sparse

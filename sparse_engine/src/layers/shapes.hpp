// Plain descriptions of tensors, layers and where things lie.
//
// A tensor of N images is [N / lanes][channels][height][width][lanes]: `lanes` images lie innermost, so that
// one weight meets as many contiguous values. `lanes` is the largest power of two up to kMostLanes that divides N.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "kernels/kernels.hpp"

namespace sparse {

constexpr int kMostLanes = 16;  // images that lie innermost
constexpr int kAlignment = 16;  // floats: offsets in the arena are multiples, so that nothing shares a cache line

[[noreturn]] inline void refuse(const std::string& why) { throw std::invalid_argument(why); }
inline void require(bool holds, const char* why) {
  if (!holds) refuse(why);
}

constexpr int kNone = -1;      // for the number of a tensor or a norm
constexpr int kAsBefore = -1;  // for the padding behind an image: as much as before it

struct Tensor {
  ptrdiff_t offset = 0;  // in the arena, in floats
  int channels = 0, height = 0, width = 0;
  ptrdiff_t stride = 0;  // floats from a channel to the next

  ptrdiff_t values() const { return static_cast<ptrdiff_t>(channels) * height * width; }  // of one image
};

// Floats from a channel to the next. Channels a multiple of a page apart would fall into the same few sets of the
// caches: they are moved apart by a line, unless the tensor is `packed` (it has another shape as well).
inline ptrdiff_t channel_stride(int height, int width, int lanes, bool packed) {
  const ptrdiff_t plane = static_cast<ptrdiff_t>(height) * width * lanes;
  return packed || plane % 1024 != 0 ? plane : plane + kAlignment;
}

// How a stored tensor is read: normalised where there is a norm, then activated.
struct View {
  int tensor = kNone;
  int norm = kNone;
  Act act = Act::none;
  float gain = 1.0f;
  bool standard = false;  // normalised to mean 0 and variance 1 only
};

struct ConvShape {
  int in_channels = 0, out_channels = 0, groups = 1;
  int kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0;
  int in_h = 1, in_w = 1, out_h = 1, out_w = 1;
  int end_h = kAsBefore, end_w = kAsBefore;  // padding behind the image
  int dilation_h = 1, dilation_w = 1;

  int group_in() const { return in_channels / groups; }
  int group_out() const { return out_channels / groups; }
  int taps() const { return kernel_h * kernel_w; }
  int row_size() const { return group_in() * taps(); }
  int span_h() const { return (kernel_h - 1) * dilation_h + 1; }  // from the first tap to the last
  int span_w() const { return (kernel_w - 1) * dilation_w + 1; }
};

// Some channels that are worked on together: of a grouped convolution whole groups, else all.
struct Slice {
  int in_first, in_count, out_first, out_count;
};

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
inline ptrdiff_t round_up(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b * b; }

struct PoolShape {
  int kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0;
  int end_h = kAsBefore, end_w = kAsBefore;
};

}  // namespace sparse

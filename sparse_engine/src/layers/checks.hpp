// What is refused before anything is computed with it: sizes and shapes that do not fit, or for which arithmetic on
// sizes could overflow. All throw std::invalid_argument.
#pragma once

#include "layers/shapes.hpp"

namespace sparse {

constexpr int64_t kMostValues = INT32_MAX;         // of one image of a tensor, and of a layer's weights
constexpr int kMostSamples = 1 << 24;              // of a program
constexpr int kMostChannels = 1 << 24;             // that a layer has weights or a norm for
constexpr int64_t kMostFloats = int64_t{1} << 48;  // of the arena, where something lies in it
constexpr int64_t kMostImage = int64_t{1} << 40;   // values of a convolution's padded images
constexpr int64_t kMostClasses = 1 << 16;          // stride_h * stride_w: each has weights' lists of its own

void check_samples(int samples);
void check_tensor(int channels, int height, int width, int samples);
void check_place(ptrdiff_t offset, ptrdiff_t floats);
void check_convolution(const ConvShape& shape);
void check_pool(const Tensor& in, const Tensor& out, const PoolShape& shape);
// A share of what is kept: above 0, of 1 at most.
void check_keep(float keep);

}  // namespace sparse

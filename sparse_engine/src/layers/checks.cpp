// Sizes and shapes that are refused: see checks.hpp.
#include "layers/checks.hpp"

#include <algorithm>

namespace sparse {

namespace {

std::string times(std::initializer_list<int64_t> sizes) {
  std::string found;
  for (const int64_t size : sizes) found += (found.empty() ? "" : "x") + std::to_string(size);
  return found;
}

// A product of positive numbers that do not exceed 2^31 each, or more than `most`.
int64_t product(std::initializer_list<int64_t> factors, int64_t most) {
  int64_t found = 1;
  for (const int64_t factor : factors) {
    if (found > most / factor) return most + 1;
    found *= factor;
  }
  return found;
}

// A size with the padding before and behind it.
int64_t padded(int size, int pad, int end) {
  return size + static_cast<int64_t>(pad) + (end == kAsBefore ? pad : end);
}

int64_t span(int kernel, int dilation) { return (kernel - 1) * static_cast<int64_t>(dilation) + 1; }

}  // namespace

void check_samples(int samples) {
  if (samples < 1 || samples > kMostSamples)
    refuse("samples must be 1 to " + std::to_string(kMostSamples) + ", not " + std::to_string(samples));
}

void check_tensor(int channels, int height, int width, int samples) {
  check_samples(samples);
  if (channels < 1 || height < 1 || width < 1 || product({channels, height, width}, kMostValues) > kMostValues ||
      product({channels, samples}, kMostValues) > kMostValues)
    refuse("a tensor of " + times({samples, channels, height, width}) +
           " is of no size, or larger than 2^31 - 1 values an image, or channels in all");
}

void check_place(ptrdiff_t offset, ptrdiff_t floats) {
  if (offset < 0 || offset % kAlignment != 0 || offset > kMostFloats || floats > kMostFloats)
    refuse("offsets are multiples of " + std::to_string(kAlignment) + " from 0 to 2^48, not " +
           std::to_string(offset) + " for " + std::to_string(floats) + " floats");
}

void check_convolution(const ConvShape& s) {
  const auto sizes = {s.in_channels, s.out_channels, s.groups, s.kernel_h, s.kernel_w,   s.stride_h,  s.stride_w,
                      s.in_h,        s.in_w,         s.out_h,  s.out_w,    s.dilation_h, s.dilation_w};
  require(std::min(sizes) > 0 && s.pad_h >= 0 && s.pad_w >= 0 && s.end_h >= kAsBefore && s.end_w >= kAsBefore,
          "a convolution's sizes must be positive");
  require(s.in_channels % s.groups == 0 && s.out_channels % s.groups == 0,
          "channels must be multiples of the groups");
  const int64_t tall = padded(s.in_h, s.pad_h, s.end_h), wide = padded(s.in_w, s.pad_w, s.end_w);
  const int64_t span_h = span(s.kernel_h, s.dilation_h), span_w = span(s.kernel_w, s.dilation_w);
  require(span_h <= tall && span_w <= wide, "the kernel is larger than its padded input");
  require(s.out_h == (tall - span_h) / s.stride_h + 1 && s.out_w == (wide - span_w) / s.stride_w + 1,
          "the output has another size");
  const int64_t most = std::max(s.in_channels, s.out_channels);
  if (tall > kMostValues || wide > kMostValues || product({tall, wide}, kMostValues) > kMostValues ||
      product({tall, wide, most}, kMostImage) > kMostImage)
    refuse("a padded image of " + times({most, tall, wide}) + " is too large");
  if (product({s.stride_h, s.stride_w}, kMostClasses) > kMostClasses)
    refuse("a stride of " + times({s.stride_h, s.stride_w}) + " is too large: " + std::to_string(kMostClasses) +
           " is the most");
  if (product({s.out_channels, s.group_in(), s.kernel_h, s.kernel_w}, kMostValues) > kMostValues)
    refuse("a weight of " + times({s.out_channels, s.group_in(), s.kernel_h, s.kernel_w}) +
           " is too large: a layer has 2^31 - 1 weights at most");
}

void check_pool(const Tensor& in, const Tensor& out, const PoolShape& p) {
  require(p.kernel_h > 0 && p.kernel_w > 0 && p.stride_h > 0 && p.stride_w > 0,
          "kernel and stride must be positive");
  require(p.pad_h >= 0 && p.pad_w >= 0 && p.pad_h <= p.kernel_h / 2 && p.pad_w <= p.kernel_w / 2,
          "pooling pads by half of its kernel at most");
  require(p.end_h >= kAsBefore && p.end_w >= kAsBefore && p.end_h < p.kernel_h && p.end_w < p.kernel_w,
          "pooling pads by less than its kernel behind the image");
  const int64_t tall = padded(in.height, p.pad_h, p.end_h), wide = padded(in.width, p.pad_w, p.end_w);
  require(tall <= kMostValues && wide <= kMostValues && tall >= p.kernel_h && wide >= p.kernel_w,
          "the window is larger than its padded input");
  require(in.channels == out.channels && out.height == (tall - p.kernel_h) / p.stride_h + 1 &&
              out.width == (wide - p.kernel_w) / p.stride_w + 1,
          "the output has another size");
}

void check_keep(float keep) {
  if (!(keep > 0.0f && keep <= 1.0f))
    refuse("a share above 0, of 1 at most, can be kept, not " + std::to_string(keep));
}

}  // namespace sparse

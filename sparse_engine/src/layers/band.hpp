// Bands: a few rows of every channel, read (normalised, activated), padded and split by stride into scratch
// memory that the second-level cache holds, so that the inner loops know neither borders nor strides.
#pragma once

#include <vector>

#include "layers/norm.hpp"

namespace sparse {

// Where padded, phase-split rows lie: [channel][phase_h][phase_w][row][column][lane]. The padded input row p
// is row p / stride of phase p % stride.
struct Band {
  int phases_h = 1, phases_w = 1;
  int rows = 0;           // of each phase
  ptrdiff_t pitch = 0;    // floats a row
  ptrdiff_t phase = 0;    // floats a phase
  ptrdiff_t channel = 0;  // floats a channel

  ptrdiff_t size(int channels) const { return channel * channels + kSlack; }
};

// The input band of `out_rows` output rows: a tap that lies (h, w) from the first, dilation included, of output
// (r, c) is at row r + h / stride, column c + w / stride of phase (h % stride, w % stride).
Band input_band(const ConvShape& s, int out_rows, int lanes);
// The offset of a tap from its output's place in that band.
ptrdiff_t tap_offset(const ConvShape& s, const Band& band, int lanes, int channel, int kh, int kw);

// One image block's values, channels `stride` floats apart.
struct Plane {
  const float* base;
  ptrdiff_t stride;
  int width, lanes;

  const float* row(int channel, int h) const {
    return base + channel * stride + static_cast<ptrdiff_t>(h) * width * lanes;
  }
};

// Before it is filled for an inner product, which runs on to whole vectors: zeros behind each channel, where
// nothing is filled. What was left in memory there need not be finite.
void clear_behind(const ConvShape& s, const Band& band, int lanes, const Slice& slice, int first_row, int advance,
                  float* out);
// Fill the band of a slice's channels for output rows from `first_row` on; `readings` holds one a channel. With
// `advance` > 0 the band still holds the rows from `first_row - advance` on: those that both have are moved, not
// read again. What is smaller than `bound` becomes zero.
void fill_input_band(const ConvShape& s, const Band& band, const Plane& x, const std::vector<Reading>& readings,
                     const Slice& slice, float bound, int first_row, int advance, float* out);

// The gradient's band: rows [first - reach_h, first + rows), zeros outside of the gradient, with `reach_w`
// columns of zeros on the left and at least as many as any class needs on the right.
struct GradientBand {
  int reach_h = 0, reach_w = 0;
  int rows = 0;  // reach_h included
  ptrdiff_t pitch = 0, channel = 0;

  ptrdiff_t size(int channels) const { return channel * channels + kSlack; }
};

GradientBand gradient_band(const ConvShape& s, int rows, int lanes);
void fill_gradient_band(const ConvShape& s, const GradientBand& band, const Plane& g, const Plane& x,
                        const std::vector<Slope>& slopes, const Slice& slice, int first_row, int advance,
                        float* out);

// Rows (or columns) of the input gradient that a stride class computes: input index = stride * i + cls - pad.
struct ClassRange {
  int begin, end;
};
ClassRange class_range(int cls, int stride, int pad, int size);
int class_reach(int span, int stride);             // greatest distance of a tap from the first / stride
int class_indices(int stride, int pad, int size);  // indices i that any class uses: [0, that)

}  // namespace sparse

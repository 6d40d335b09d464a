// How bands are laid out and filled: see band.hpp.
#include "layers/band.hpp"

#include <algorithm>
#include <cstring>

namespace sparse {

namespace {

// Channels that far apart do not crowd into the same sets of the caches.
ptrdiff_t apart(ptrdiff_t floats) { return floats % 512 == 0 ? floats + 16 : floats; }

}  // namespace

Band input_band(const ConvShape& s, int out_rows, int lanes) {
  Band band;
  band.phases_h = std::min(s.stride_h, s.span_h());
  band.phases_w = std::min(s.stride_w, s.span_w());
  band.rows = out_rows + (s.span_h() - 1) / s.stride_h;
  band.pitch = static_cast<ptrdiff_t>(s.out_w + (s.span_w() - 1) / s.stride_w) * lanes;
  band.phase = band.rows * band.pitch;
  band.channel = apart(band.phase * band.phases_h * band.phases_w);
  return band;
}

ptrdiff_t tap_offset(const ConvShape& s, const Band& band, int lanes, int channel, int kh, int kw) {
  const int row = kh * s.dilation_h, column = kw * s.dilation_w;
  const int phase = (row % s.stride_h) * band.phases_w + column % s.stride_w;
  return channel * band.channel + phase * band.phase + (row / s.stride_h) * band.pitch +
         static_cast<ptrdiff_t>(column / s.stride_w) * lanes;
}

namespace {

void zero(float* p, ptrdiff_t n) {
  if (n > 0) std::memset(p, 0, static_cast<size_t>(n) * sizeof(float));
}

// The band's rows are the input's: filled anew each time.
bool plain(const ConvShape& s) {
  return s.kernel_w == 1 && s.kernel_h == 1 && s.stride_w == 1 && s.stride_h == 1 && s.pad_w == 0 && s.pad_h == 0 &&
         s.out_w == s.in_w && s.out_h == s.in_h;
}

// Rows at the top of a band that it held before it moved on.
int kept_rows(int rows, int advance) { return advance > 0 ? std::max(0, rows - advance) : 0; }

void keep(float* channel, ptrdiff_t pitch, int advance, int rows) {
  if (rows > 0) std::memmove(channel, channel + advance * pitch, static_cast<size_t>(rows * pitch) * sizeof(float));
}

// One row of a phase: columns first, first + stride, ... of the padded row.
void fill_row(const ConvShape& s, const float* from, int lanes, int phase_w, int columns, const Reading& reading,
              float* out) {
  // Column q of the phase is input column q * stride + phase - pad: valid for q in [low, high).
  const int shift = s.pad_w - phase_w;
  const int low = std::clamp(shift > 0 ? ceil_div(shift, s.stride_w) : 0, 0, columns);
  const int last = s.in_w - 1 + shift;  // q * stride <= last
  const int high = std::clamp(last < 0 ? 0 : last / s.stride_w + 1, low, columns);
  zero(out, static_cast<ptrdiff_t>(low) * lanes);
  zero(out + static_cast<ptrdiff_t>(high) * lanes, static_cast<ptrdiff_t>(columns - high) * lanes);
  float* to = out + static_cast<ptrdiff_t>(low) * lanes;
  const float* source = from + static_cast<ptrdiff_t>(low * s.stride_w - shift) * lanes;
  if (s.stride_w == 1) {
    kernels().read(source, to, static_cast<ptrdiff_t>(high - low) * lanes, reading);
    return;
  }
  kernels().gather(source, static_cast<ptrdiff_t>(s.stride_w) * lanes, to, high - low, lanes);
  kernels().read(to, to, static_cast<ptrdiff_t>(high - low) * lanes, reading);
}

}  // namespace

void clear_behind(const ConvShape& s, const Band& band, int lanes, const Slice& slice, int first_row, int advance,
                  float* out) {
  if (static_cast<ptrdiff_t>(s.out_w) * lanes % kernels().width == 0) return;
  if (advance > 0 && !plain(s)) return;  // a band that moves on keeps it
  const ptrdiff_t filled =
      plain(s) ? std::min(band.rows, s.in_h - first_row) * band.pitch : band.phase * band.phases_h * band.phases_w;
  for (int c = 0; c < slice.in_count; ++c) zero(out + c * band.channel + filled, kernels().width);
}

void fill_input_band(const ConvShape& s, const Band& band, const Plane& x, const std::vector<Reading>& readings,
                     const Slice& slice, float bound, int first_row, int advance, float* out) {
  const int kept = kept_rows(band.rows, advance);
  const int columns = static_cast<int>(band.pitch / x.lanes);
  if (plain(s)) {
    // Rows follow one another in both.
    const int rows = std::min(band.rows, s.in_h - first_row);
    for (int c = 0; c < slice.in_count; ++c) {
      kernels().read(x.row(slice.in_first + c, first_row), out + c * band.channel, rows * band.pitch,
                     readings[slice.in_first + c]);
      if (bound > 0.0f) kernels().cut(out + c * band.channel, rows * band.pitch, bound);
    }
    return;
  }
  for (int c = 0; c < slice.in_count; ++c) {
    for (int ph = 0; ph < band.phases_h; ++ph)
      for (int pw = 0; pw < band.phases_w; ++pw) {
        float* to = out + c * band.channel + (ph * band.phases_w + pw) * band.phase;
        keep(to, band.pitch, advance, kept);
        to += kept * band.pitch;
        for (int r = kept; r < band.rows; ++r, to += band.pitch) {
          const int h = (first_row + r) * s.stride_h + ph - s.pad_h;
          if (h < 0 || h >= s.in_h)
            zero(to, band.pitch);
          else
            fill_row(s, x.row(slice.in_first + c, h), x.lanes, pw, columns, readings[slice.in_first + c], to);
          if (bound > 0.0f) kernels().cut(to, band.pitch, bound);
        }
      }
  }
}

int class_reach(int span, int stride) { return (span - 1) / stride; }

ClassRange class_range(int cls, int stride, int pad, int size) {
  const int begin = pad > cls ? ceil_div(pad - cls, stride) : 0;
  const int last = size - 1 + pad - cls;
  return {begin, last < 0 ? begin : std::max(begin, last / stride + 1)};
}

int class_indices(int stride, int pad, int size) { return (size - 1 + pad) / stride + 1; }

GradientBand gradient_band(const ConvShape& s, int rows, int lanes) {
  GradientBand band;
  band.reach_h = class_reach(s.span_h(), s.stride_h);
  band.reach_w = class_reach(s.span_w(), s.stride_w);
  band.rows = rows + band.reach_h;
  const int right = std::max(0, class_indices(s.stride_w, s.pad_w, s.in_w) - s.out_w);
  const ptrdiff_t run = static_cast<ptrdiff_t>(s.out_w) * lanes;
  // The inner product runs on to a whole vector: zeros must follow each row.
  const ptrdiff_t tail = std::max(static_cast<ptrdiff_t>(right) * lanes, round_up(run, kernels().width) - run);
  band.pitch = static_cast<ptrdiff_t>(band.reach_w) * lanes + run + tail;
  band.channel = apart(band.rows * band.pitch);
  return band;
}

void fill_gradient_band(const ConvShape& s, const GradientBand& band, const Plane& g, const Plane& x,
                        const std::vector<Slope>& slopes, const Slice& slice, int first_row, int advance,
                        float* out) {
  const int kept = kept_rows(band.rows, advance);
  const ptrdiff_t left = static_cast<ptrdiff_t>(band.reach_w) * g.lanes;
  const ptrdiff_t run = static_cast<ptrdiff_t>(s.out_w) * g.lanes;
  if (band.reach_h == 0 && band.pitch == run) {
    // Rows follow one another in both; there may be none left, where only rows of the input are.
    const int rows = std::clamp(s.out_h - first_row, 0, band.rows);
    for (int o = slice.out_first; o < slice.out_first + slice.out_count; ++o) {
      float* to = out + (o - slice.out_first) * band.channel;
      if (rows > 0) kernels().slope(g.row(o, first_row), x.row(o, first_row), to, rows * run, slopes[o]);
      zero(to + rows * run, (band.rows - rows) * run);
    }
    return;
  }
  for (int o = slice.out_first; o < slice.out_first + slice.out_count; ++o) {
    float* channel = out + (o - slice.out_first) * band.channel;
    keep(channel, band.pitch, advance, kept);
    for (int r = kept; r < band.rows; ++r) {
      float* to = channel + r * band.pitch;
      const int h = first_row - band.reach_h + r;
      if (h < 0 || h >= s.out_h) {
        zero(to, band.pitch);
        continue;
      }
      zero(to, left);
      kernels().slope(g.row(o, h), x.row(o, h), to + left, run, slopes[o]);
      zero(to + left + run, band.pitch - left - run);
    }
  }
}

}  // namespace sparse

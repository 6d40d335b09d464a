#include "convolution.hpp"

#include <algorithm>

namespace sparse {

namespace {

constexpr ptrdiff_t kBandFloats = 480 * 1024;  // that a band may take: what the second-level cache holds of it

// Output rows of a chunk, so that its band is small enough; even shares of `rows`.
template <typename Size>
int choose_chunk(int rows, Size&& size) {
  int chunk = rows;
  while (chunk > 1 && size(chunk) > kBandFloats) chunk = (chunk + 1) / 2;
  return ceil_div(rows, ceil_div(rows, chunk));
}

}  // namespace

Convolution::Convolution(const ConvShape& s, std::shared_ptr<Weights> weights, int lanes)
    : shape_(s), weights_(std::move(weights)), lanes_(lanes) {
  require(weights_->out() == s.out_channels && weights_->row_size() == s.row_size(), "weights of another shape");
  chunk_ = choose_chunk(s.out_h, [&](int n) { return input_band(s, n, lanes).size(s.in_channels); });
  chunks_ = ceil_div(s.out_h, chunk_);
  band_ = input_band(s, chunk_, lanes);
  const int indices = std::max(s.out_h, class_indices(s.stride_h, s.pad_h, s.in_h));
  back_chunk_ = choose_chunk(indices, [&](int n) {
    return std::max(gradient_band(s, n, lanes).size(s.out_channels), input_band(s, n, lanes).size(s.in_channels));
  });
  back_chunks_ = ceil_div(indices, back_chunk_);
  back_band_ = input_band(s, back_chunk_, lanes);
  gradient_band_ = gradient_band(s, back_chunk_, lanes);
}

ptrdiff_t Convolution::scratch(bool backward) const {
  const ConvShape& s = shape_;
  const ptrdiff_t out_row = round_up(static_cast<ptrdiff_t>(s.out_w) * lanes_, 16);
  ptrdiff_t floats = round_up(band_.size(s.in_channels), 16) + kDenseOutputs * chunk_ * out_row + kSlack;
  if (backward) {
    const ptrdiff_t in_row = round_up(static_cast<ptrdiff_t>(s.in_w + 1) * lanes_, 16);
    const ptrdiff_t bands =
        round_up(gradient_band_.size(s.out_channels), 16) + round_up(back_band_.size(s.in_channels), 16);
    const ptrdiff_t sums = round_up(static_cast<ptrdiff_t>(weights_->count()) + s.out_channels, 16);
    floats = std::max(floats, bands + kDenseOutputs * back_chunk_ * in_row + sums + kSlack);
  }
  return round_up(floats, 16);
}

void Convolution::refresh() {
  if (version_ == weights_->version) return;
  version_ = weights_->version;
  dense_ = weights_->dense() && shape_.groups == 1 && shape_.out_channels % kDenseOutputs == 0;
  const ConvShape& s = shape_;
  offset_.resize(weights_->count());
  back_offset_.resize(weights_->count());
  for (int o = 0; o < s.out_channels; ++o) {
    const int first_channel = o / s.group_out() * s.group_in();
    for (int k = weights_->rows()[o]; k < weights_->rows()[o + 1]; ++k) {
      const int place = weights_->places()[k];
      const int c = first_channel + place / s.taps(), tap = place % s.taps();
      const int kh = tap / s.kernel_w, kw = tap % s.kernel_w;
      offset_[k] = static_cast<int32_t>(tap_offset(s, band_, lanes_, c, kh, kw));
      back_offset_[k] = static_cast<int32_t>(tap_offset(s, back_band_, lanes_, c, kh, kw));
    }
  }
}

void Convolution::forward(const Context& context, const View& input, int output, const float* center,
                          double* sums) {
  refresh();
  weights_->normalise();
  const ConvShape& s = shape_;
  const auto readings = context.readings(input);
  const Kernels& kernel = kernels();
  const float* used = weights_->used();
  const auto& rows = weights_->rows();
  const ptrdiff_t run = static_cast<ptrdiff_t>(s.out_w) * lanes_;
  // Rows that are whole vectors are computed where they belong.
  const bool direct = run % kernel.width == 0;
  const ptrdiff_t pitch = direct ? run : round_up(run, kernel.width);
  context.pool->run(context.blocks * chunks_, [&](int begin, int end, int thread) {
    float* band = context.scratch(thread);
    float* temporary = band + round_up(band_.size(s.in_channels), 16);
    for (int item = begin; item < end; ++item) {
      const int block = item / chunks_, first = item % chunks_ * chunk_;
      const int count = std::min(chunk_, s.out_h - first);
      const int advance = item > begin && first > 0 ? chunk_ : 0;
      fill_input_band(s, band_, context.plane_of(input.tensor, block), readings, first, advance, band);
      float* out = context.at(output, block) + first * run;
      const ptrdiff_t plane = context.plane(output);
      for (int o = 0; o < s.out_channels; ++o) {
        float* to = out + o * plane;
        const Taps taps{offset_.data() + rows[o], used + rows[o], rows[o + 1] - rows[o]};
        float* computed = direct ? to : temporary;
        kernel.convolve(taps, band, band_.pitch, computed, pitch, {count, static_cast<int>(run)});
        if (!direct)
          for (int r = 0; r < count; ++r) kernel.read(temporary + r * pitch, to + r * run, run, Reading{});
        if (!weights_->bias.value.empty())
          kernel.read(to, to, count * run, {1.0f, weights_->bias.value[o], Act::none, 1.0f});
        if (sums != nullptr) {
          double* mine = sums + 2 * (static_cast<ptrdiff_t>(item) * s.out_channels + o);
          mine[0] = mine[1] = 0;
          kernel.moments(to, count * run, center[o], mine);
        }
      }
    }
  });
}

}  // namespace sparse

// A convolution's forward pass, and how work and scratch memory are divided for both passes.
#include "operations/convolution.hpp"

#include <algorithm>

namespace sparse {

namespace {

constexpr ptrdiff_t kBandFloats = 480 * 1024;  // that a band may take: what the second-level cache holds of it
constexpr ptrdiff_t kSliceFloats = 48 * 1024;  // of a slice's band, for whole images
constexpr int kTileRows = 4;

// Output rows of a chunk, so that its bands are small enough; even shares of `rows`, whole tiles where it can be.
template <typename Size>
int choose_chunk(int rows, Size&& size) {
  int chunk = rows;
  while (chunk > 1 && size(chunk) > kBandFloats) chunk = (chunk + 1) / 2;
  chunk = ceil_div(rows, ceil_div(rows, chunk));
  return chunk <= kTileRows ? chunk : static_cast<int>(round_up(chunk, kTileRows));
}

}  // namespace

Convolution::Convolution(const ConvShape& s, std::shared_ptr<Weights> weights, int lanes, float dense_from)
    : shape_(s), weights_(std::move(weights)), lanes_(lanes), dense_from_(dense_from) {
  require(weights_->out() == s.out_channels && weights_->row_size() == s.row_size(), "weights of another shape");
  const int indices = std::max(s.out_h, class_indices(s.stride_h, s.pad_h, s.in_h));
  const auto floats = [&](int groups, int rows) {
    return std::max(gradient_band(s, rows, lanes).size(groups * s.group_out()),
                    input_band(s, rows, lanes).size(groups * s.group_in()));
  };
  // Few whole images rather than few rows of many.
  slice_groups_ = s.groups;
  while (slice_groups_ > 1 && floats(slice_groups_, indices) > kSliceFloats)
    slice_groups_ = ceil_div(slice_groups_, 2);
  slices_ = ceil_div(s.groups, slice_groups_);
  chunk_ = choose_chunk(s.out_h, [&](int rows) { return floats(slice_groups_, rows); });
  chunks_ = ceil_div(s.out_h, chunk_);
  back_chunks_ = ceil_div(indices, chunk_);
  band_ = input_band(s, chunk_, lanes);
  gradient_band_ = gradient_band(s, chunk_, lanes);
  require(floats(slice_groups_, chunk_) <= INT32_MAX, "a row of all channels has 2^31 values at most");
}

Slice Convolution::slice(int index) const {
  const int first = index * slice_groups_, count = std::min(slice_groups_, shape_.groups - first);
  return {first * shape_.group_in(), count * shape_.group_in(), first * shape_.group_out(),
          count * shape_.group_out()};
}

// Items go through the chunks of one slice after the other: `advance` where the bands' rows can be moved on.
Convolution::Item Convolution::item(int index, int begin, int chunks) const {
  const int chunk = index % chunks, block = index / chunks / slices_;
  const int advance = index > begin && chunk > 0 ? chunk_ : 0;
  return {block, chunk * chunk_, advance, block * chunks + chunk, slice(index / chunks % slices_)};
}

Convolution::Padded Convolution::padded(ptrdiff_t run, int rows, ptrdiff_t band_pitch) {
  const ptrdiff_t width = kernels().width, whole = (rows - 1) * band_pitch + run;
  if (rows > 1 && round_up(whole, width) < rows * round_up(run, width))
    return {band_pitch, {1, static_cast<int>(whole)}};
  return {round_up(run, width), {rows, static_cast<int>(run)}};
}

size_t Convolution::gradient_sums() const {
  return dense_forward() ? static_cast<size_t>(shape_.out_channels) * shape_.row_size() : weights_->count();
}

Convolution::Scratch Convolution::scratch_layout(bool backward) const {
  const ConvShape& s = shape_;
  const ptrdiff_t width = kernels().width;
  const ptrdiff_t out_run = static_cast<ptrdiff_t>(s.out_w) * lanes_;
  const ptrdiff_t in_run = static_cast<ptrdiff_t>(ceil_div(s.in_w, s.stride_w)) * lanes_;
  const Slice most = slice(0);
  const auto room = [&](ptrdiff_t run, ptrdiff_t band_pitch) {
    return chunk_ * std::max(round_up(run, width), band_pitch) + width;
  };
  ptrdiff_t temporary = out_run % width == 0 ? 0 : most.out_count * room(out_run, band_.pitch);
  if (backward && (s.stride_w > 1 || in_run % width != 0))
    temporary = std::max(temporary, most.in_count * room(in_run, gradient_band_.pitch));
  Scratch layout{};
  layout.gradient = round_up(band_.size(most.in_count), 16);
  layout.temporary = layout.gradient + (backward ? round_up(gradient_band_.size(most.out_count), 16) : 0);
  layout.sums = layout.temporary + round_up(temporary, 16) + kSlack;
  const auto sums = static_cast<ptrdiff_t>(gradient_sums()) + s.out_channels;
  layout.total = layout.sums + (backward ? round_up(sums, 16) : 0);
  return layout;
}

ptrdiff_t Convolution::scratch(bool backward) {
  refresh();
  return scratch_layout(backward).total;
}

void Convolution::forward(const Context& context, const View& input, int output, Moments* moments) {
  weights_->normalise();
  refresh();
  if (dense_forward()) pack_dense();
  const ConvShape& s = shape_;
  const auto readings = context.readings(input);
  const Kernels& kernel = kernels();
  const ptrdiff_t run = static_cast<ptrdiff_t>(s.out_w) * lanes_, plane = context.stride(output);
  // Rows that are whole vectors are computed where they belong.
  const bool direct = run % kernel.width == 0;
  const DenseTaps dense_taps{taps_.offset.data(), taps_.value.data(), s.out_channels, s.row_size(),
                             taps_.group_taps};
  const Scratch layout = scratch_layout(false);
  context.pool->run(context.blocks * slices_ * chunks_, [&](int begin, int end, int share) {
    float* band = context.scratch(share);
    float* temporary = band + layout.temporary;
    for (int i = begin; i < end; ++i) {
      const Item now = item(i, begin, chunks_);
      const Slice& slice = now.slice;
      const int rows = std::min(chunk_, s.out_h - now.first);
      const auto [pitch, region] =
          direct ? Padded{run, {rows, static_cast<int>(run)}} : padded(run, rows, band_.pitch);
      fill_input_band(s, band_, context.plane_of(input.tensor, now.block), readings, slice, 0.0f, now.first,
                      now.advance, band);
      float* out = context.channel(output, now.block, slice.out_first) + now.first * run;
      float* computed = direct ? out : temporary;
      const ptrdiff_t stride = direct ? plane : round_up(rows * pitch, kernel.width);
      if (dense_forward())
        kernel.convolve_dense(dense_taps, band, band_.pitch, computed, pitch, stride, region, false);
      else
        kernel.convolve({taps_.bounds.data() + slice.out_first, taps_.offset.data(), weights_->used(),
                         slice.out_count, s.out_channels, taps_.groups},
                        band, band_.pitch, computed, pitch, stride, region, false);
      for (int o = slice.out_first; o < slice.out_first + slice.out_count; ++o) {
        float* to = out + (o - slice.out_first) * plane;
        const bool biased = !weights_->bias.value.empty();
        const Reading bias{1.0f, biased ? weights_->bias.value[o] : 0.0f, Act::none, 1.0f};
        if (direct && biased) kernel.read(to, to, rows * run, bias);
        if (!direct)
          for (int r = 0; r < rows; ++r)
            kernel.read(computed + (o - slice.out_first) * stride + r * pitch, to + r * run, run, bias);
        if (moments != nullptr)
          moments[static_cast<ptrdiff_t>(now.part) * s.out_channels + o] = Moments::of(to, rows * run);
      }
    }
  });
}

}  // namespace sparse

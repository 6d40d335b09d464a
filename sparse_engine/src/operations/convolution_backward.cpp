// A convolution's gradients: of its input, of its weights, and of all weights that it could have.
#include <algorithm>
#include <cstring>

#include "operations/convolution.hpp"

namespace sparse {

namespace {

constexpr int kRowsBytes = 1 << 14;  // of inputs and gradients that a dense kernel goes over again and again

}  // namespace

std::vector<Slope> Convolution::slopes(const Context& context, const BackwardWants& wants) const {
  const View& view = wants.output;
  const auto readings = context.readings(view);
  std::vector<Slope> found(readings.size());
  for (size_t o = 0; o < readings.size(); ++o) found[o].reading = readings[o];
  if (view.norm >= 0) {
    const Norm& norm = *context.norms[static_cast<size_t>(view.norm)];
    for (size_t o = 0; o < found.size(); ++o)
      found[o].a = norm.slope_a[o], found[o].b = norm.slope_b[o], found[o].c = norm.slope_c[o];
  }
  return found;
}

void Convolution::backward(const Context& context, const BackwardWants& wants, float bound, double* sums_of_norm) {
  const ConvShape& s = shape_;
  const bool inward = wants.input_gradient >= 0;
  refresh();
  if (inward) refresh_transposed();
  const auto readings = context.readings(wants.input);
  const auto gradient_slopes = slopes(context, wants);
  const Scratch layout = scratch_layout(true);
  const bool biased = !weights_->bias.value.empty();
  const size_t count = gradient_sums();
  const int shares = context.pool->shares();
  std::vector<char> used(static_cast<size_t>(shares), 0);
  context.pool->run(context.blocks * slices_ * back_chunks_, [&](int begin, int end, int share) {
    float* input = context.scratch(share);
    float *gradient = input + layout.gradient, *sums = input + layout.sums;
    std::memset(sums, 0, (count + s.out_channels) * sizeof(float));
    used[static_cast<size_t>(share)] = 1;
    for (int i = begin; i < end; ++i) {
      const Item now = item(i, begin, back_chunks_);
      fill_gradient_band(s, gradient_band_, context.plane_of(wants.output_gradient, now.block),
                         context.plane_of(wants.output.tensor, now.block), gradient_slopes, now.slice, now.first,
                         now.advance, gradient);
      if (wants.weight_gradient && now.first < s.out_h) {
        clear_behind(s, band_, lanes_, now.slice, now.first, now.advance, input);
        fill_input_band(s, band_, context.plane_of(wants.input.tensor, now.block), readings, now.slice, bound,
                        now.first, now.advance, input);
        weight_gradient(gradient, input, now, sums);
      }
      if (inward) input_gradient(context, wants, gradient, input + layout.temporary, now);
      if (sums_of_norm != nullptr)
        reduce_input(context, wants, now, sums_of_norm + 2 * static_cast<ptrdiff_t>(now.part) * s.in_channels);
    }
  });
  if (!wants.weight_gradient) return;
  for (int share = 0; share < shares; ++share) {
    if (!used[static_cast<size_t>(share)]) continue;
    const float* sums = context.scratch(share) + layout.sums;
    add_gradient(sums);
    if (biased) kernels().add(sums + count, weights_->bias.gradient.data(), s.out_channels);
  }
}

void Convolution::add_gradient(const float* sums) {
  float* gradient = weights_->param.gradient.data();
  if (!dense_forward() || weights_->dense()) {
    kernels().add(sums, gradient, static_cast<ptrdiff_t>(weights_->count()));
    return;
  }
  for (int o = 0; o < shape_.out_channels; ++o, sums += shape_.row_size())
    for (int k = weights_->rows()[o]; k < weights_->rows()[o + 1]; ++k) gradient[k] += sums[weights_->places()[k]];
}

void Convolution::weight_gradient(const float* gradient, const float* input, const Item& item, float* sums) {
  const ConvShape& s = shape_;
  const Kernels& kernel = kernels();
  const GradientBand& g = gradient_band_;
  const Slice& slice = item.slice;
  const Rows region{std::min(chunk_, s.out_h - item.first), s.out_w * lanes_};
  const float* dy = gradient + g.reach_h * g.pitch + static_cast<ptrdiff_t>(g.reach_w) * lanes_;
  if (dense_forward()) {
    const DenseTaps taps{taps_.offset.data(), nullptr, s.out_channels, s.row_size(), taps_.group_taps};
    // So few rows at a time that four gradients and four inputs stay in the first-level cache; but no fewer, for
    // each time ends in sums across all vectors.
    const ptrdiff_t row_bytes = static_cast<ptrdiff_t>(sizeof(float)) * 2 * kDenseOutputs * region.run;
    const int rows = static_cast<int>(std::max<ptrdiff_t>(2, kRowsBytes / row_bytes));
    for (int row = 0; row < region.rows; row += rows)
      kernel.correlate_dense(taps, dy + row * g.pitch, g.pitch, g.channel, input + row * band_.pitch, band_.pitch,
                             {std::min(rows, region.rows - row), region.run}, sums);
  } else {
    const Taps taps{taps_.bounds.data() + slice.out_first,
                    taps_.offset.data(),
                    nullptr,
                    slice.out_count,
                    s.out_channels,
                    taps_.groups};
    kernel.correlate(taps, dy, g.pitch, g.channel, input, band_.pitch, region, sums);
  }
  if (weights_->bias.value.empty()) return;
  float* bias_sums = sums + gradient_sums();
  for (int o = 0; o < slice.out_count; ++o) {
    double total[2] = {0, 0};
    for (int r = 0; r < region.rows; ++r) kernel.moments(dy + o * g.channel + r * g.pitch, region.run, 0.0f, total);
    bias_sums[slice.out_first + o] += static_cast<float>(total[0]);
  }
}

void Convolution::input_gradient(const Context& context, const BackwardWants& wants, const float* gradient,
                                 float* temporary, const Item& item) {
  const ConvShape& s = shape_;
  const Kernels& kernel = kernels();
  const GradientBand& g = gradient_band_;
  const ptrdiff_t line = static_cast<ptrdiff_t>(s.in_w) * lanes_, plane = context.stride(wants.input_gradient);
  const Slice& slice = item.slice;
  float* out = context.channel(wants.input_gradient, item.block, slice.in_first);
  const float* added = wants.added >= 0 ? context.channel(wants.added, item.block, slice.in_first) : nullptr;
  const ptrdiff_t added_plane = wants.added >= 0 ? context.stride(wants.added) : 0;
  for (int ph = 0; ph < s.stride_h; ++ph)
    for (int pw = 0; pw < s.stride_w; ++pw) {
      const ClassRange hs = class_range(ph, s.stride_h, s.pad_h, s.in_h);
      const ClassRange ws = class_range(pw, s.stride_w, s.pad_w, s.in_w);
      const int begin = std::max(item.first, hs.begin), end = std::min(item.first + chunk_, hs.end);
      if (begin >= end || ws.begin >= ws.end) continue;
      const TapSet& set = transposed_[static_cast<size_t>(ph * s.stride_w + pw)];
      const float* from = gradient + (begin - item.first + g.reach_h) * g.pitch +
                          static_cast<ptrdiff_t>(ws.begin + g.reach_w) * lanes_;
      const ptrdiff_t run = static_cast<ptrdiff_t>(ws.end - ws.begin) * lanes_;
      const int rows = end - begin;
      // Row r of the region, of input channel c.
      const ptrdiff_t start = (begin * s.stride_h + ph - s.pad_h) * line, step = line * s.stride_h;
      const bool direct = s.stride_w == 1 && run % kernel.width == 0;
      float* to = direct ? out + start : temporary;
      const auto [pitch, region] =
          direct ? Padded{step, {rows, static_cast<int>(run)}} : padded(run, rows, g.pitch);
      const ptrdiff_t stride = direct ? plane : round_up(rows * pitch, kernel.width);
      const bool add = direct && added != nullptr;
      if (add && added != out)
        for (int c = 0; c < slice.in_count; ++c)
          for (int r = 0; r < region.rows; ++r)
            kernel.read(added + c * added_plane + start + r * step, to + c * stride + r * pitch, run, Reading{});
      if (dense_backward()) {
        const int count = static_cast<int>(set.offset.size());
        kernel.convolve_dense({set.offset.data(), set.value.data(), s.in_channels, count, set.group_taps}, from,
                              g.pitch, to, pitch, stride, region, add);
      } else {
        kernel.convolve({set.bounds.data() + slice.in_first, set.offset.data(), set.value.data(), slice.in_count,
                         s.in_channels, set.groups},
                        from, g.pitch, to, pitch, stride, region, add);
      }
      if (direct) continue;
      const ptrdiff_t left = static_cast<ptrdiff_t>(ws.begin * s.stride_w + pw - s.pad_w) * lanes_;
      for (int c = 0; c < slice.in_count; ++c)
        for (int r = 0; r < rows; ++r) {
          const ptrdiff_t at = start + r * step + left;
          kernel.scatter(temporary + c * stride + r * pitch, out + c * plane + at,
                         added == nullptr ? nullptr : added + c * added_plane + at,
                         static_cast<ptrdiff_t>(s.stride_w) * lanes_, ws.end - ws.begin, lanes_);
        }
    }
}

// The rows that this chunk completed are still in the caches.
void Convolution::reduce_input(const Context& context, const BackwardWants& wants, const Item& item, double* sums) {
  const ConvShape& s = shape_;
  const int begin = std::max(0, item.first * s.stride_h - s.pad_h);
  const int end = std::min(s.in_h, (item.first + chunk_) * s.stride_h - s.pad_h);
  const ptrdiff_t line = static_cast<ptrdiff_t>(s.in_w) * lanes_;
  const Norm& norm = *context.norms[static_cast<size_t>(wants.input.norm)];
  for (int c = item.slice.in_first; c < item.slice.in_first + item.slice.in_count; ++c) {
    double* mine = sums + 2 * c;
    mine[0] = mine[1] = 0;
    if (begin >= end) continue;
    kernels().reduce(context.channel(wants.input_gradient, item.block, c) + begin * line,
                     context.channel(wants.input.tensor, item.block, c) + begin * line, (end - begin) * line,
                     norm.reading(c, wants.input.act, wants.input.gain), norm.mean[c], mine);
  }
}

void Convolution::dense_gradient(const Context& context, const BackwardWants& wants, float bound, int first,
                                 int last, float* out) {
  const ConvShape& s = shape_;
  require(0 <= first && first <= last && last <= s.out_channels, "output channels out of range");
  const auto readings = context.readings(wants.input);
  const auto gradient_slopes = slopes(context, wants);
  const Scratch layout = scratch_layout(true);
  const int size = s.row_size(), outputs = last - first;
  // Every position of every output as a list of taps, one group.
  std::vector<int32_t> offsets(static_cast<size_t>(outputs) * size), bounds(2 * static_cast<size_t>(outputs));
  for (int o = 0; o < outputs; ++o) {
    bounds[o] = o * size, bounds[o + outputs] = (o + 1) * size;
    const int group = (first + o) / s.group_out() * s.group_in() - slice(slice_of_output(first + o)).in_first;
    for (int place = 0; place < size; ++place) {
      const int tap = place % s.taps();
      offsets[static_cast<size_t>(o) * size + place] = static_cast<int32_t>(
          tap_offset(s, band_, lanes_, group + place / s.taps(), tap / s.kernel_w, tap % s.kernel_w));
    }
  }
  std::vector<std::vector<float>> sums(static_cast<size_t>(context.pool->shares()));
  context.pool->run(context.blocks * slices_ * chunks_, [&](int begin, int end, int share) {
    auto& mine = sums[static_cast<size_t>(share)];
    mine.assign(offsets.size(), 0.0f);
    float* input = context.scratch(share);
    float* gradient = input + layout.gradient;
    for (int i = begin; i < end; ++i) {
      const Item now = item(i, begin, chunks_);
      const int from = std::max(first, now.slice.out_first);
      const int to = std::min(last, now.slice.out_first + now.slice.out_count);
      if (from >= to) continue;
      fill_gradient_band(s, gradient_band_, context.plane_of(wants.output_gradient, now.block),
                         context.plane_of(wants.output.tensor, now.block), gradient_slopes, now.slice, now.first,
                         now.advance, gradient);
      clear_behind(s, band_, lanes_, now.slice, now.first, now.advance, input);
      fill_input_band(s, band_, context.plane_of(wants.input.tensor, now.block), readings, now.slice, bound,
                      now.first, now.advance, input);
      const float* dy = gradient + (from - now.slice.out_first) * gradient_band_.channel +
                        gradient_band_.reach_h * gradient_band_.pitch +
                        static_cast<ptrdiff_t>(gradient_band_.reach_w) * lanes_;
      const Taps taps{bounds.data() + (from - first), offsets.data(), nullptr, to - from, outputs, 1};
      kernels().correlate(taps, dy, gradient_band_.pitch, gradient_band_.channel, input, band_.pitch,
                          {std::min(chunk_, s.out_h - now.first), s.out_w * lanes_}, mine.data());
    }
  });
  for (const auto& part : sums)
    if (!part.empty()) kernels().add(part.data(), out, static_cast<ptrdiff_t>(part.size()));
}

}  // namespace sparse

#include <algorithm>
#include <cstring>

#include "convolution.hpp"

namespace sparse {

// What one thread works on: a chunk of one image block, and its bands.
struct Convolution::BackwardItem {
  int block, first;         // first index of the chunk
  float *gradient, *input;  // bands; input null where no weight gradient is wanted
  float* temporary;
};

void Convolution::refresh_transposed() {
  refresh();
  if (transposed_version_ != weights_->version) {
    transposed_version_ = weights_->version;
    const ConvShape& s = shape_;
    const int classes = s.stride_h * s.stride_w;
    const auto& rows = weights_->rows();
    const auto bucket = [&](int o, int k) {
      const int place = weights_->places()[k];
      const int c = o / s.group_out() * s.group_in() + place / s.taps(), tap = place % s.taps();
      return c * classes + tap / s.kernel_w % s.stride_h * s.stride_w + tap % s.kernel_w % s.stride_w;
    };
    transposed_row_.assign(static_cast<size_t>(s.in_channels) * classes + 1, 0);
    for (int o = 0; o < s.out_channels; ++o)
      for (int k = rows[o]; k < rows[o + 1]; ++k) ++transposed_row_[bucket(o, k) + 1];
    for (size_t i = 1; i < transposed_row_.size(); ++i) transposed_row_[i] += transposed_row_[i - 1];
    std::vector<int32_t> next(transposed_row_.begin(), transposed_row_.end() - 1);
    transposed_offset_.resize(weights_->count());
    transposed_source_.resize(weights_->count());
    for (int o = 0; o < s.out_channels; ++o)
      for (int k = rows[o]; k < rows[o + 1]; ++k) {
        const int tap = weights_->places()[k] % s.taps();
        const int32_t at = next[bucket(o, k)]++;
        transposed_source_[at] = k;
        transposed_offset_[at] = static_cast<int32_t>(
            o * gradient_band_.channel - (tap / s.kernel_w / s.stride_h) * gradient_band_.pitch -
            static_cast<ptrdiff_t>(tap % s.kernel_w / s.stride_w) * lanes_);
      }
  }
  const float* used = weights_->used();
  transposed_value_.resize(weights_->count());
  for (size_t i = 0; i < transposed_value_.size(); ++i) transposed_value_[i] = used[transposed_source_[i]];
}

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

void Convolution::backward(const Context& context, const BackwardWants& wants) {
  const ConvShape& s = shape_;
  const bool inward = wants.input_gradient >= 0;
  if (inward) refresh_transposed();
  refresh();
  const auto readings = context.readings(wants.input);
  const auto gradient_slopes = slopes(context, wants);
  const bool biased = wants.weight_gradient && !weights_->bias.value.empty();
  const size_t count = weights_->count(), sums_size = count + s.out_channels;
  const ptrdiff_t sums_floats = round_up(static_cast<ptrdiff_t>(sums_size), 16);
  const int threads = context.pool->threads();
  const int source = wants.output.tensor >= 0 ? wants.output.tensor : wants.output_gradient;
  std::vector<char> used(static_cast<size_t>(threads), 0);
  context.pool->run(context.blocks * back_chunks_, [&](int begin, int end, int thread) {
    float* sums = context.scratch(thread);
    float* gradient = sums + sums_floats;
    float* input = gradient + round_up(gradient_band_.size(s.out_channels), 16);
    float* temporary = input + round_up(back_band_.size(s.in_channels), 16);
    std::memset(sums, 0, sums_size * sizeof(float));
    used[thread] = 1;
    for (int i = begin; i < end; ++i) {
      const BackwardItem item{i / back_chunks_, i % back_chunks_ * back_chunk_, gradient, input, temporary};
      const int advance = i > begin && item.first > 0 ? back_chunk_ : 0;
      fill_gradient_band(s, gradient_band_, context.plane_of(wants.output_gradient, item.block),
                         context.plane_of(source, item.block), gradient_slopes, item.first, advance, gradient);
      if (wants.weight_gradient && item.first < s.out_h) {
        fill_input_band(s, back_band_, context.plane_of(wants.input.tensor, item.block), readings, item.first,
                        advance, input);
        weight_gradient(context, item, sums, biased ? sums + count : nullptr);
      }
      if (inward) input_gradient(context, wants, item);
    }
  });
  if (!wants.weight_gradient) return;
  for (int thread = 0; thread < threads; ++thread) {
    if (!used[thread]) continue;
    const float* sums = context.scratch(thread);
    kernels().add(sums, weights_->param.gradient.data(), static_cast<ptrdiff_t>(count));
    if (biased) kernels().add(sums + count, weights_->bias.gradient.data(), s.out_channels);
  }
}

void Convolution::weight_gradient(const Context&, const BackwardItem& item, float* sums, float* bias_sums) {
  const ConvShape& s = shape_;
  const Kernels& kernel = kernels();
  const auto& rows = weights_->rows();
  const Rows region{std::min(back_chunk_, s.out_h - item.first), s.out_w * lanes_};
  const float* gradient =
      item.gradient + gradient_band_.reach_h * gradient_band_.pitch + gradient_band_.reach_w * lanes_;
  for (int o = 0; o < s.out_channels; ++o, gradient += gradient_band_.channel) {
    const Taps taps{back_offset_.data() + rows[o], nullptr, rows[o + 1] - rows[o]};
    kernel.correlate(taps, gradient, gradient_band_.pitch, item.input, back_band_.pitch, region, sums + rows[o]);
    if (bias_sums != nullptr) {
      double total[2] = {0, 0};
      for (int r = 0; r < region.rows; ++r)
        kernel.moments(gradient + r * gradient_band_.pitch, region.run, 0.0f, total);
      bias_sums[o] += static_cast<float>(total[0]);
    }
  }
}

void Convolution::input_gradient(const Context& context, const BackwardWants& wants, const BackwardItem& item) {
  const ConvShape& s = shape_;
  const Kernels& kernel = kernels();
  const GradientBand& g = gradient_band_;
  const ptrdiff_t row_floats = static_cast<ptrdiff_t>(s.in_w) * lanes_;
  float* out = context.at(wants.input_gradient, item.block);
  const float* added = wants.added >= 0 ? context.at(wants.added, item.block) : nullptr;
  const ptrdiff_t plane = context.plane(wants.input_gradient);
  for (int ph = 0; ph < s.stride_h; ++ph)
    for (int pw = 0; pw < s.stride_w; ++pw) {
      const ClassRange hs = class_range(ph, s.stride_h, s.pad_h, s.in_h);
      const ClassRange ws = class_range(pw, s.stride_w, s.pad_w, s.in_w);
      const int begin = std::max(item.first, hs.begin), end = std::min(item.first + back_chunk_, hs.end);
      if (begin >= end || ws.begin >= ws.end) continue;
      const int cls = ph * s.stride_w + pw, columns = ws.end - ws.begin;
      const float* from = item.gradient + (begin - item.first + g.reach_h) * g.pitch +
                          static_cast<ptrdiff_t>(ws.begin + g.reach_w) * lanes_;
      const ptrdiff_t run = static_cast<ptrdiff_t>(columns) * lanes_, pitch = round_up(run, kernel.width);
      const bool direct = s.stride_w == 1 && added == nullptr && run % kernel.width == 0;
      for (int c = 0; c < s.in_channels; ++c) {
        const int first = transposed_row_[c * s.stride_h * s.stride_w + cls];
        const int last = transposed_row_[c * s.stride_h * s.stride_w + cls + 1];
        const Taps taps{transposed_offset_.data() + first, transposed_value_.data() + first, last - first};
        float* to = out + c * plane + (begin * s.stride_h + ph - s.pad_h) * row_floats;
        const Rows region{end - begin, static_cast<int>(run)};
        if (direct) {
          kernel.convolve(taps, from, g.pitch, to, row_floats * s.stride_h, region);
          continue;
        }
        kernel.convolve(taps, from, g.pitch, item.temporary, pitch, region);
        for (int r = 0; r < region.rows; ++r) {
          const float* computed = item.temporary + r * pitch;
          float* line = to + r * row_floats * s.stride_h;
          const float* more = added == nullptr ? nullptr : added + (line - out);
          if (s.stride_w == 1) {
            if (more != nullptr && more != line) kernel.read(more, line, run, Reading{});
            if (more != nullptr)
              kernel.add(computed, line, run);
            else
              kernel.read(computed, line, run, Reading{});
            continue;
          }
          for (int i = ws.begin; i < ws.end; ++i, computed += lanes_) {
            const ptrdiff_t at = static_cast<ptrdiff_t>(i * s.stride_w + pw - s.pad_w) * lanes_;
            for (int lane = 0; lane < lanes_; ++lane)
              line[at + lane] = computed[lane] + (more == nullptr ? 0.0f : more[at + lane]);
          }
        }
      }
    }
}

void Convolution::dense_gradient(const Context& context, const BackwardWants& wants, int first, int last,
                                 float* out) {
  const ConvShape& s = shape_;
  require(0 <= first && first <= last && last <= s.out_channels, "output channels out of range");
  const auto readings = context.readings(wants.input);
  const auto gradient_slopes = slopes(context, wants);
  const int row_size = s.row_size(), threads = context.pool->threads();
  const int source = wants.output.tensor >= 0 ? wants.output.tensor : wants.output_gradient;
  const size_t size = static_cast<size_t>(last - first) * row_size;
  std::vector<std::vector<float>> sums(static_cast<size_t>(threads));
  context.pool->run(context.blocks * back_chunks_, [&](int begin, int end, int thread) {
    sums[thread].assign(size, 0.0f);
    std::vector<int32_t> offsets(static_cast<size_t>(row_size));
    float* gradient = context.scratch(thread);
    float* input = gradient + round_up(gradient_band_.size(s.out_channels), 16);
    for (int i = begin; i < end; ++i) {
      const int block = i / back_chunks_, row = i % back_chunks_ * back_chunk_;
      if (row >= s.out_h) continue;
      const int advance = i > begin && row > 0 ? back_chunk_ : 0;
      fill_gradient_band(s, gradient_band_, context.plane_of(wants.output_gradient, block),
                         context.plane_of(source, block), gradient_slopes, row, advance, gradient);
      fill_input_band(s, back_band_, context.plane_of(wants.input.tensor, block), readings, row, advance, input);
      const Rows region{std::min(back_chunk_, s.out_h - row), s.out_w * lanes_};
      for (int o = first; o < last; ++o) {
        for (int place = 0; place < row_size; ++place) {
          const int c = o / s.group_out() * s.group_in() + place / s.taps(), tap = place % s.taps();
          offsets[place] = static_cast<int32_t>(
              tap_offset(s, back_band_, lanes_, c, tap / s.kernel_w, tap % s.kernel_w));
        }
        const float* from = gradient + o * gradient_band_.channel +
                            gradient_band_.reach_h * gradient_band_.pitch + gradient_band_.reach_w * lanes_;
        kernels().correlate({offsets.data(), nullptr, row_size}, from, gradient_band_.pitch, input,
                            back_band_.pitch, region, sums[thread].data() + static_cast<size_t>(o - first) * row_size);
      }
    }
  });
  for (const auto& part : sums)
    if (!part.empty()) kernels().add(part.data(), out, static_cast<ptrdiff_t>(size));
}

}  // namespace sparse

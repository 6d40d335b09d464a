// The weights as the kernels take them, for either direction.
#include <algorithm>

#include "operations/convolution.hpp"

namespace sparse {

namespace {

constexpr double kFirstLevelFloats = 14 * 1024;  // of the first-level cache, for what a tile reads
constexpr double kTapsPerVisit = 20;             // of an output and group, to pay for its sums' way to and fro

// Of one dimension of the kernel the taps of a stride class: how many strides each lies from the first, and which
// of them each tap of the kernel is (kNone: of another class).
struct ClassTaps {
  std::vector<int> steps, place;

  ClassTaps(int cls, int kernel, int dilation, int stride) : place(static_cast<size_t>(kernel), kNone) {
    for (int k = 0; k < kernel; ++k) {
      if (k * dilation % stride != cls) continue;
      place[k] = static_cast<int>(steps.size());
      steps.push_back(k * dilation / stride);
    }
  }
};

}  // namespace

// Channels of a group: as many as the first-level cache holds of what a tile reads, but enough for some taps.
int Convolution::group_channels(int channels, double taps_per_channel, int kernel_h, int kernel_w) const {
  const Kernels& kernel = kernels();
  // A tile of four rows of lanes and its surroundings.
  const double pixels = std::max(1.0, static_cast<double>(kernel.tile) * kernel.width / lanes_);
  const double rows = std::min(4.0, pixels);
  const double footprint = (rows + kernel_h - 1) * (pixels / rows + kernel_w - 1) * lanes_;
  const double fits = kFirstLevelFloats / footprint;
  const double pays = kTapsPerVisit / std::max(taps_per_channel, 1e-6);
  return static_cast<int>(std::clamp(std::max(fits, pays), 1.0, static_cast<double>(channels)));
}

void Convolution::release() {
  taps_ = {};
  transposed_.clear();
  transposed_.shrink_to_fit();
  version_ = transposed_version_ = -1;
}

void Convolution::refresh() {
  if (version_ != weights_->version) {
    version_ = -1;  // until all is done: there may be too little memory
    const double size = static_cast<double>(shape_.out_channels) * shape_.row_size();
    dense_ = shape_.groups == 1 && static_cast<double>(weights_->count()) >= dense_from_ * size;
    taps_ = {};
    transposed_.clear();
    transposed_version_ = -1;
    if (dense_forward())
      refresh_dense();
    else
      refresh_sparse();
    version_ = weights_->version;
  }
}

// [output / kDenseOutputs][tap][output % kDenseOutputs]; pruned ones are zero since `refresh_dense`.
void Convolution::pack_dense() {
  const float* used = weights_->used();
  const int size = shape_.row_size();
  for (int o = 0; o < shape_.out_channels; ++o) {
    float* to =
        taps_.value.data() + static_cast<ptrdiff_t>(o / kDenseOutputs) * size * kDenseOutputs + o % kDenseOutputs;
    for (int k = weights_->rows()[o]; k < weights_->rows()[o + 1]; ++k)
      to[weights_->places()[k] * kDenseOutputs] = used[k];
  }
}

void Convolution::refresh_sparse() {
  const ConvShape& s = shape_;
  const auto &rows = weights_->rows(), &places = weights_->places();
  const double per_channel = static_cast<double>(weights_->count()) / s.out_channels / s.group_in();
  // Outputs of a grouped convolution read few channels each: they come in the right order by themselves.
  const int group =
      s.groups > 1 ? s.in_channels : group_channels(s.in_channels, per_channel, s.span_h(), s.span_w());
  taps_.groups = ceil_div(s.in_channels, group);
  taps_.offset.resize(weights_->count());
  taps_.bounds.resize(static_cast<size_t>(taps_.groups + 1) * s.out_channels);
  for (int o = 0; o < s.out_channels; ++o) {
    const int first_channel = o / s.group_out() * s.group_in();
    const int in_slice = first_channel - slice(slice_of_output(o)).in_first;
    int k = rows[o];
    for (int g = 0; g <= taps_.groups; ++g) {
      const int end = g == taps_.groups ? s.in_channels : g * group;
      while (k < rows[o + 1] && first_channel + places[k] / s.taps() < end) ++k;
      taps_.bounds[static_cast<size_t>(g) * s.out_channels + o] = k;
    }
    for (k = rows[o]; k < rows[o + 1]; ++k) {
      const int tap = places[k] % s.taps();
      taps_.offset[k] = static_cast<int32_t>(
          tap_offset(s, band_, lanes_, in_slice + places[k] / s.taps(), tap / s.kernel_w, tap % s.kernel_w));
    }
  }
}

void Convolution::refresh_dense() {
  const ConvShape& s = shape_;
  taps_.group_taps = group_channels(s.in_channels, s.taps(), s.span_h(), s.span_w()) * s.taps();
  taps_.offset.resize(static_cast<size_t>(s.row_size()));
  taps_.value.resize(static_cast<size_t>(s.row_size()) * s.out_channels);
  for (int place = 0; place < s.row_size(); ++place) {
    const int tap = place % s.taps();
    taps_.offset[place] =
        static_cast<int32_t>(tap_offset(s, band_, lanes_, place / s.taps(), tap / s.kernel_w, tap % s.kernel_w));
  }
}

void Convolution::refresh_transposed() {
  refresh();
  if (transposed_version_ != weights_->version) {
    transposed_version_ = -1;
    transposed_.assign(static_cast<size_t>(shape_.stride_h) * shape_.stride_w, {});
    if (dense_backward())
      build_transposed_dense();
    else
      build_transposed_sparse();
    transposed_version_ = weights_->version;
  }
  const float* used = weights_->used();
  for (TapSet& set : transposed_)
    for (size_t i = 0; i < set.source.size(); ++i) set.value[i] = set.source[i] < 0 ? 0.0f : used[set.source[i]];
}

void Convolution::build_transposed_sparse() {
  const ConvShape& s = shape_;
  const auto &rows = weights_->rows(), &places = weights_->places();
  const int classes = static_cast<int>(transposed_.size());
  const auto input_of = [&](int o, int k) { return o / s.group_out() * s.group_in() + places[k] / s.taps(); };
  const auto class_of = [&](int k) {
    const int tap = places[k] % s.taps();
    return tap / s.kernel_w * s.dilation_h % s.stride_h * s.stride_w + tap % s.kernel_w * s.dilation_w % s.stride_w;
  };
  const double per_channel = static_cast<double>(weights_->count()) / classes / s.in_channels / s.group_out();
  const int reach_h = gradient_band_.reach_h, reach_w = gradient_band_.reach_w;
  const int group =
      s.groups > 1 ? s.out_channels : group_channels(s.out_channels, per_channel, reach_h + 1, reach_w + 1);
  const int groups = ceil_div(s.out_channels, group);
  // Count, then sum, then place: output channels come in order, so each input's taps do.
  std::vector<std::vector<int32_t>> next(static_cast<size_t>(classes));
  for (int c = 0; c < classes; ++c) {
    transposed_[c].groups = groups;
    transposed_[c].bounds.assign(static_cast<size_t>(groups + 1) * s.in_channels, 0);
  }
  const auto cell = [&](int o, int k) { return static_cast<size_t>(o / group) * s.in_channels + input_of(o, k); };
  for (int o = 0; o < s.out_channels; ++o)
    for (int k = rows[o]; k < rows[o + 1]; ++k) ++transposed_[class_of(k)].bounds[cell(o, k)];
  for (int c = 0; c < classes; ++c) {
    TapSet& set = transposed_[c];
    int32_t total = 0;
    for (int input = 0; input < s.in_channels; ++input)
      for (int g = 0; g <= groups; ++g) {
        int32_t& bound = set.bounds[static_cast<size_t>(g) * s.in_channels + input];
        const int32_t count = bound;
        bound = total;
        if (g < groups) total += count;
      }
    set.offset.resize(static_cast<size_t>(total));
    set.source.resize(static_cast<size_t>(total));
    set.value.resize(static_cast<size_t>(total));
    next[c] = set.bounds;
  }
  for (int o = 0; o < s.out_channels; ++o)
    for (int k = rows[o]; k < rows[o + 1]; ++k) {
      const int c = class_of(k), tap = places[k] % s.taps();
      const int32_t at = next[c][cell(o, k)]++;
      transposed_[c].source[at] = k;
      transposed_[c].offset[at] =
          static_cast<int32_t>((o - slice(slice_of_output(o)).out_first) * gradient_band_.channel -
                               (tap / s.kernel_w * s.dilation_h / s.stride_h) * gradient_band_.pitch -
                               static_cast<ptrdiff_t>(tap % s.kernel_w * s.dilation_w / s.stride_w) * lanes_);
    }
}

void Convolution::build_transposed_dense() {
  const ConvShape& s = shape_;
  const auto &rows = weights_->rows(), &places = weights_->places();
  for (int ph = 0; ph < s.stride_h; ++ph)
    for (int pw = 0; pw < s.stride_w; ++pw) {
      TapSet& set = transposed_[static_cast<size_t>(ph * s.stride_w + pw)];
      const ClassTaps tall(ph, s.kernel_h, s.dilation_h, s.stride_h),
          wide(pw, s.kernel_w, s.dilation_w, s.stride_w);
      const auto taps_h = static_cast<int>(tall.steps.size()), taps_w = static_cast<int>(wide.steps.size());
      const int each = taps_h * taps_w, count = each * s.out_channels;
      set.group_taps = std::max(1, each) * group_channels(s.out_channels, std::max(1, each), taps_h, taps_w);
      for (int o = 0; o < s.out_channels; ++o)
        for (const int i : tall.steps)
          for (const int j : wide.steps)
            set.offset.push_back(static_cast<int32_t>(o * gradient_band_.channel - i * gradient_band_.pitch -
                                                      static_cast<ptrdiff_t>(j) * lanes_));
      set.source.assign(static_cast<size_t>(count) * s.in_channels, -1);
      set.value.resize(set.source.size());
      for (int o = 0; o < s.out_channels; ++o)
        for (int k = rows[o]; k < rows[o + 1]; ++k) {
          const int c = places[k] / s.taps(), kh = places[k] % s.taps() / s.kernel_w, kw = places[k] % s.kernel_w;
          if (tall.place[kh] < 0 || wide.place[kw] < 0) continue;
          const ptrdiff_t tap = static_cast<ptrdiff_t>(o) * each + tall.place[kh] * taps_w + wide.place[kw];
          set.source[static_cast<size_t>((static_cast<ptrdiff_t>(c / kDenseOutputs) * count + tap) * kDenseOutputs +
                                         c % kDenseOutputs)] = k;
        }
    }
}

}  // namespace sparse

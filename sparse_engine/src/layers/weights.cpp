// What a layer's weights are set to, normalised by, and moved by: see weights.hpp.
#include "layers/weights.hpp"

#include <algorithm>
#include <cmath>

#include "layers/checks.hpp"

namespace sparse {

namespace {

constexpr double kNormFloor = 1e-4;  // least N var of a filter (FedMef, section 3.3)

// Mean of what a filter's norm counts, the reciprocal of its scale, and whether the floor holds that.
struct Filter {
  double mean, inverse, count;
  bool floored;
};

Filter measure(const float* w, int begin, int end, double count, bool all) {
  double total = 0, energy = 0;
  for (int k = begin; k < end; ++k) total += w[k];
  const double mean = total / std::max(count, 1.0);
  for (int k = begin; k < end; ++k) energy += (w[k] - mean) * (w[k] - mean);
  if (all) energy += (count - (end - begin)) * mean * mean;  // the pruned ones are zeros that count
  return {mean, 1.0 / std::sqrt(std::max(energy, kNormFloor)), std::max(count, 1.0), energy <= kNormFloor};
}

}  // namespace

void Param::resize(size_t n, float fill) {
  value.assign(n, fill);
  velocity.assign(n, 0.0f);
  gradient.assign(n, 0.0f);
}

void Param::reserve(size_t n) {
  value.reserve(n);
  velocity.reserve(n);
  gradient.reserve(n);
}

void Param::zero_gradient() { std::fill(gradient.begin(), gradient.end(), 0.0f); }

void Param::update(const Sgd& s) {
  kernels().update(value.data(), velocity.data(), gradient.data(), static_cast<ptrdiff_t>(value.size()), s.rate,
                   s.momentum, s.decay);
}

Weights::Weights(int out, int row_size, bool biased, WeightNorm norm)
    : out_(out), row_size_(row_size), norm_(norm) {
  if (out < 1 || out > kMostChannels || row_size < 1 || static_cast<int64_t>(out) * row_size > kMostValues)
    refuse("a layer has 1 to 2^31 - 1 weights and " + std::to_string(kMostChannels) + " outputs at most, not " +
           std::to_string(out) + " of " + std::to_string(row_size));
  param.use = bias.use = gain.use = &use;
  row_.assign(static_cast<size_t>(out) + 1, 0);
  bias.resize(biased ? out : 0, 0.0f);
  gain.resize(norm == WeightNorm::none ? 0 : out, 1.0f);
}

void Weights::set(const int64_t* positions, const float* values, size_t count) {
  const int64_t size = static_cast<int64_t>(out_) * row_size_;
  for (size_t k = 0; k < count; ++k)
    if (positions[k] < 0 || positions[k] >= size || (k > 0 && positions[k] <= positions[k - 1]))
      refuse("weight position " + std::to_string(positions[k]) + " is not ascending within 0 to " +
             std::to_string(size - 1));
  // All memory is taken before anything changes.
  param.reserve(count);
  place_.reserve(count);
  if (norm_ != WeightNorm::none) normalised_.reserve(count);
  param.resize(count, 0.0f);
  std::copy(values, values + count, param.value.begin());
  place_.resize(count);
  std::fill(row_.begin(), row_.end(), 0);
  for (size_t k = 0; k < count; ++k) {
    ++row_[static_cast<size_t>(positions[k] / row_size_) + 1];
    place_[k] = static_cast<int32_t>(positions[k] % row_size_);
  }
  for (int o = 0; o < out_; ++o) row_[o + 1] += row_[o];
  marked_.clear();
  ++version;
  if (norm_ != WeightNorm::none) normalised_.assign(count, 0.0f);
}

void Weights::normalise() {
  if (norm_ == WeightNorm::none) return;
  const bool all = norm_ == WeightNorm::all;
  for (int o = 0; o < out_; ++o) {
    const int begin = row_[o], end = row_[o + 1];
    const Filter f = measure(param.value.data(), begin, end, all ? row_size_ : end - begin, all);
    for (int k = begin; k < end; ++k)
      normalised_[k] = static_cast<float>(gain.value[o] * (param.value[k] - f.mean) * f.inverse);
  }
}

// With H = g G / s of the gradient G: dL/dW_j = H_j - sum(H) / N - z_j sum(H z), z = (W - mean) / s; the last
// term is absent where the floor holds s.
void Weights::normalise_gradient() {
  if (norm_ == WeightNorm::none) return;
  const bool all = norm_ == WeightNorm::all;
  for (int o = 0; o < out_; ++o) {
    const int begin = row_[o], end = row_[o + 1];
    const Filter f = measure(param.value.data(), begin, end, all ? row_size_ : end - begin, all);
    double total = 0, along = 0;
    for (int k = begin; k < end; ++k) {
      const double z = (param.value[k] - f.mean) * f.inverse;
      total += param.gradient[k];
      along += param.gradient[k] * z;
    }
    gain.gradient[o] += static_cast<float>(along);
    const double scale = gain.value[o] * f.inverse;
    const double drag = f.floored ? 0.0 : along;
    for (int k = begin; k < end; ++k) {
      const double z = (param.value[k] - f.mean) * f.inverse;
      param.gradient[k] = static_cast<float>(scale * (param.gradient[k] - total / f.count - z * drag));
    }
  }
}

void Weights::mark(const int64_t* positions, size_t count) {
  marked_.clear();
  for (size_t i = 0; i < count; ++i) {
    if (positions[i] < 0 || positions[i] >= static_cast<int64_t>(out_) * row_size_)
      refuse("marked position " + std::to_string(positions[i]) + " lies outside the weight");
    const auto o = static_cast<size_t>(positions[i] / row_size_);
    const auto place = static_cast<int32_t>(positions[i] % row_size_);
    const auto first = place_.begin() + row_[o], last = place_.begin() + row_[o + 1];
    const auto found = std::lower_bound(first, last, place);
    // A pruned weight is zero already.
    if (found != last && *found == place) marked_.push_back(static_cast<int32_t>(found - place_.begin()));
  }
  std::sort(marked_.begin(), marked_.end());
  marked_.erase(std::unique(marked_.begin(), marked_.end()), marked_.end());
}

double Weights::marked_square() const {
  double total = 0;
  for (int k : marked_) total += static_cast<double>(param.value[k]) * param.value[k];
  return total;
}

void Weights::zero_gradient() {
  param.zero_gradient();
  bias.zero_gradient();
  gain.zero_gradient();
}

void Weights::update(const Sgd& sgd) {
  normalise_gradient();
  if (sgd.penalty != 0.0f)
    for (int k : marked_) param.gradient[k] += 2.0f * sgd.penalty * param.value[k];
  param.update(sgd);
  bias.update(sgd);
  gain.update(sgd);
}

}  // namespace sparse

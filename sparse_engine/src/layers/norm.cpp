// Batch norm: from moments to scales, and from sums to gradients; see norm.hpp.
#include "layers/norm.hpp"

#include <algorithm>
#include <cmath>

#include "layers/checks.hpp"

namespace sparse {

Moments Moments::of(const float* x, ptrdiff_t n) {
  // About one of the values, so that a large mean takes no digits of a small variance.
  double sums[2] = {0, 0};
  kernels().moments(x, n, x[0], sums);
  const auto count = static_cast<double>(n);
  return {count, x[0] + sums[0] / count, std::max(0.0, sums[1] - sums[0] * sums[0] / count)};
}

void Moments::merge(const Moments& other) {
  const double total = count + other.count, apart = other.mean - mean;
  squares += other.squares + apart * apart * count * other.count / total;
  mean += apart * other.count / total;
  count = total;
}

Norm::Norm(int channels) {
  if (channels < 1 || channels > kMostChannels)
    refuse("a norm has 1 to " + std::to_string(kMostChannels) + " channels, not " + std::to_string(channels));
  gamma.use = beta.use = &use;
  const auto n = static_cast<size_t>(channels);
  gamma.resize(n, 1.0f);
  beta.resize(n, 0.0f);
  running_var.assign(n, 1.0f);
  for (auto* v : {&running_mean, &mean, &inverse, &scale, &shift, &slope_a, &slope_b, &slope_c}) v->assign(n, 0.0f);
}

namespace {

// The two sums of one channel over all parts, in order.
void total(const double* sums, int parts, int channels, int c, double& first, double& second) {
  first = second = 0;
  for (int p = 0; p < parts; ++p) {
    const double* s = sums + 2 * (static_cast<ptrdiff_t>(p) * channels + c);
    first += s[0], second += s[1];
  }
}

}  // namespace

void Norm::finish_batch(const Moments* moments, int parts, float momentum) {
  for (int c = 0; c < channels(); ++c) {
    Moments all = moments[c];
    for (int p = 1; p < parts; ++p) all.merge(moments[static_cast<ptrdiff_t>(p) * channels() + c]);
    const double var = all.squares / all.count;
    mean[c] = static_cast<float>(all.mean);
    inverse[c] = static_cast<float>(1.0 / std::sqrt(var + kBatchNormEpsilon));
    scale[c] = gamma.value[c] * inverse[c];
    shift[c] = beta.value[c] - mean[c] * scale[c];
    if (momentum >= 0) {
      running_mean[c] += momentum * (mean[c] - running_mean[c]);
      const double unbiased = all.count > 1 ? all.squares / (all.count - 1) : var;
      running_var[c] += momentum * (static_cast<float>(unbiased) - running_var[c]);
    }
  }
}

void Norm::use_running() {
  for (int c = 0; c < channels(); ++c) {
    const auto inv = static_cast<float>(1.0 / std::sqrt(running_var[c] + kBatchNormEpsilon));
    scale[c] = gamma.value[c] * inv;
    shift[c] = beta.value[c] - running_mean[c] * scale[c];
  }
}

void Norm::finish_gradient(const double* sums, int parts, double count) {
  for (int c = 0; c < channels(); ++c) {
    double s, q;
    total(sums, parts, channels(), c, s, q);
    const double along = q * inverse[c];  // sum of gm x^
    beta.gradient[c] += static_cast<float>(s);
    gamma.gradient[c] += static_cast<float>(along);
    const double a = static_cast<double>(gamma.value[c]) * inverse[c];
    const double b = -a * inverse[c] * along / count;
    slope_a[c] = static_cast<float>(a);
    slope_b[c] = static_cast<float>(b);
    slope_c[c] = static_cast<float>(-a * s / count - b * mean[c]);
  }
}

void Norm::finish_pruned_gradient(const double* sums, const double* energies, int parts, double count) {
  for (int c = 0; c < channels(); ++c) {
    double s, along, energy = 0;
    total(sums, parts, channels(), c, s, along);
    for (int p = 0; p < parts; ++p) energy += energies[static_cast<ptrdiff_t>(p) * channels() + c];
    energy = std::max(energy, 1e-6 * count);
    beta.gradient[c] += static_cast<float>(s);
    gamma.gradient[c] += static_cast<float>(along * count / energy);
    const double a = static_cast<double>(gamma.value[c]) * inverse[c];
    slope_a[c] = static_cast<float>(a);
    slope_b[c] = static_cast<float>(-a * along / energy);
    slope_c[c] = static_cast<float>(-a * s / count);
  }
}

}  // namespace sparse

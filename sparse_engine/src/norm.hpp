// Batch norm of one layer: parameters, running statistics, and what a step computes of them.
#pragma once

#include <vector>

#include "weights.hpp"

namespace sparse {

constexpr double kBatchNormEpsilon = 1e-5;

class Norm {
 public:
  explicit Norm(int channels);

  int channels() const { return static_cast<int>(mean.size()); }
  // From sums of (x - running mean) and its square over `count` values a channel: the batch's mean and scale, and
  // with `momentum` >= 0 the running statistics moved. `sums` is [parts][channels][2].
  void finish_batch(const double* sums, int parts, double count, float momentum);
  // Scale and shift from the running statistics.
  void use_running();
  // From sums of gm and gm (x - mean), laid out alike: the parameters' gradients, and the slope of x.
  void finish_gradient(const double* sums, int parts, double count);

  // The same where x^ was pruned to x~, from sums of gm, gm x~ and x~^2, [parts][channels][2] and [parts][channels]:
  // dx = scale (gm - mean(gm) - x~ sum(gm x~) / sum(x~^2)), a slope of x~.
  void finish_pruned_gradient(const double* sums, const double* energies, int parts, double count);

  Reading reading(int channel, Act act, float gain) const { return {scale[channel], shift[channel], act, gain}; }

  Param gamma, beta;
  std::vector<float> running_mean, running_var;
  std::vector<float> mean, inverse;        // of the batch
  std::vector<float> scale, shift;         // y = scale x + shift
  std::vector<float> slope_a, slope_b, slope_c;  // dx = a gm + b x + c
};

}  // namespace sparse

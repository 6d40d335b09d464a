// Batch norm of one layer: parameters, running statistics, and what a step computes of them.
#pragma once

#include <vector>

#include "layers/weights.hpp"

namespace sparse {

constexpr double kBatchNormEpsilon = 1e-5;

// Of some values: how many, their mean and the sum of squares about it.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  static Moments of(const float* x, ptrdiff_t n);
  void merge(const Moments& other);  // of both together (Chan et al. 1979)
};

class Norm {
 public:
  explicit Norm(int channels);  // throws std::invalid_argument

  int channels() const { return static_cast<int>(mean.size()); }
  // From the moments of all parts, [parts][channels]: the batch's mean and scale, and with `momentum` >= 0 the
  // running statistics moved.
  void finish_batch(const Moments* moments, int parts, float momentum);
  // Scale and shift from the running statistics.
  void use_running();
  // From sums of gm and gm (x - mean), laid out alike: the parameters' gradients, and the slope of x.
  void finish_gradient(const double* sums, int parts, double count);

  // The same where x^ was pruned to x~, from sums of gm, gm x~ and x~^2, [parts][channels][2] and
  // [parts][channels]: dx = scale (gm - mean(gm) - x~ sum(gm x~) / sum(x~^2)), a slope of x~.
  void finish_pruned_gradient(const double* sums, const double* energies, int parts, double count);

  Reading reading(int channel, Act act, float gain) const { return {scale[channel], shift[channel], act, gain}; }

  Use use;
  Param gamma, beta;
  std::vector<float> running_mean, running_var;
  std::vector<float> mean, inverse;              // of the batch
  std::vector<float> scale, shift;               // y = scale x + shift
  std::vector<float> slope_a, slope_b, slope_c;  // dx = a gm + b x + c
};

}  // namespace sparse

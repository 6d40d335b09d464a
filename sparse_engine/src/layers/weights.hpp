// The weights of one layer: only those that are not pruned, with their momentum and gradient.
#pragma once

#include <cstdint>
#include <vector>

#include "layers/shapes.hpp"
#include "threads/use.hpp"

namespace sparse {

struct Sgd {
  float rate = 0.0f, momentum = 0.0f, decay = 0.0f, penalty = 0.0f;
};

// A trained vector.
struct Param {
  std::vector<float> value, velocity, gradient;
  const Use* use = nullptr;  // of what it belongs to

  void resize(size_t n, float fill);
  void reserve(size_t n);
  void zero_gradient();
  void update(const Sgd& sgd);
};

enum class WeightNorm : int32_t { none, active, all };

class Weights {
 public:
  // `positions` are the flat positions of the weights in the (out, in / groups, kernel_h, kernel_w) tensor,
  // strictly ascending. Throws std::invalid_argument.
  Weights(int out, int row_size, bool biased, WeightNorm norm);
  void set(const int64_t* positions, const float* values, size_t count);  // whole, or not at all

  size_t count() const { return param.value.size(); }
  bool dense() const { return count() == static_cast<size_t>(out_) * row_size_; }
  int out() const { return out_; }
  int row_size() const { return row_size_; }
  const std::vector<int32_t>& rows() const { return row_; }      // out + 1 bounds
  const std::vector<int32_t>& places() const { return place_; }  // position within the row
  // What the convolution uses: the values, or with a norm the normalised ones.
  const float* used() const { return norm_ == WeightNorm::none ? param.value.data() : normalised_.data(); }

  // With a norm: compute `used()` anew (FedMef, section 3.3).
  void normalise();
  // With a norm: turn the gradient of the used weights into those of the values and gains.
  void normalise_gradient();
  void mark(const int64_t* positions, size_t count);  // drawn to zero by Sgd::penalty
  double marked_square() const;
  void zero_gradient();
  void update(const Sgd& sgd);

  Use use;
  Param param, bias, gain;
  long version = 0;  // changes with the positions

 private:
  int out_, row_size_;
  WeightNorm norm_;
  std::vector<int32_t> row_, place_;
  std::vector<float> normalised_;
  std::vector<int32_t> marked_;
};

}  // namespace sparse

// Operations on whole tensors other than convolution. Threads share the image blocks or channels out.
#pragma once

#include "operations/context.hpp"

namespace sparse {

struct LossSums {
  double loss = 0;
  long correct = 0;
};

enum class Objective : int32_t { cross_entropy, squared_error, flow };  // flow: the sum of all logits

// Moments of a stored tensor: [blocks][channels].
void moments(const Context& context, int tensor, Moments* parts);
// Sums of gm and gm (x - mean) for the reading of a normalised tensor: [blocks][channels][2].
void reduce_gradient(const Context& context, int gradient, const View& view, double* sums);
// Sums of g, g x~ and x~^2 for a pruned normalised tensor: [blocks][channels][2] and [blocks][channels].
void reduce_pruned(const Context& context, int gradient, int tensor, double* sums, double* energies);
// out = gain * act(a + b); with b.tensor < 0 just a.
void combine(const Context& context, const View& a, const View& b, int out, Act act, float gain);
// gradient *= the activation's derivative, told by its output.
void slope_by_output(const Context& context, int gradient, int output, Act act, float gain);
// The gradient of the stored tensor from that of its reading, written or added to `out`.
void view_gradient(const Context& context, int gradient, const View& view, int out, bool add);

void max_pool(const Context& context, const View& input, int out, const PoolShape& shape);
// The first of equal values in a window has its gradient. `out` is written, or added to.
void max_pool_gradient(const Context& context, int gradient, const View& input, int out, const PoolShape& shape,
                       bool add);
// Padding is not counted in the mean.
void average_pool(const Context& context, const View& input, int out, const PoolShape& shape);
void average_pool_gradient(const Context& context, int gradient, int out, const PoolShape& shape, bool add);

// Copy a reading into channels [first, ...) of `out`, and the gradient back.
void concatenate(const Context& context, const View& input, int out, int first);
void concatenate_gradient(const Context& context, int gradient, int first, int out, bool add);

// out = a b, value by value; `b` may have one value a channel. Of two such readings the gradient of one: `gradient`
// times `other`, where `out` has one value a channel their sum; written or added to `out`.
void multiply(const Context& context, const View& a, const View& b, int out);
void multiply_gradient(const Context& context, int gradient, const View& other, int out, bool add);

// Channel c of `out` is channel channels[c] of the reading, and the gradient back: zero where a channel went
// nowhere.
void take(const Context& context, const View& input, int out, const std::vector<int>& channels);
void take_gradient(const Context& context, int gradient, int out, const std::vector<int>& channels, bool add);

// The part of the reading's images whose first value is at (top, left), as large as `out`, and the gradient back.
void crop(const Context& context, const View& input, int out, int top, int left);
void crop_gradient(const Context& context, int gradient, int out, int top, int left, bool add);

// Zero values at random with probability `rate`, the others times 1 / (1 - rate); by a counter, so that the
// backward pass draws the same again. In place.
void dropout(const Context& context, int tensor, float rate, uint64_t seed);

// Logits against labels; the gradient, times `share`, is written unless it is -1. For squared_error the target
// is one-hot and the loss the mean over classes.
LossSums loss(const Context& context, int logits, const int64_t* labels, int gradient, float share, Objective);

// (samples, channels, height, width) <-> blocks of lanes.
void pack_input(const Context& context, const float* samples, int tensor);
void unpack_output(const Context& context, int tensor, float* samples);

}  // namespace sparse

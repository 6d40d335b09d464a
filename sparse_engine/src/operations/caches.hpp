// Copies of activations that the backward pass reads instead of the stored tensors: pruned to their largest
// entries (FedMef, section 3.3: scaled activation pruning), or only the bits that tell an activation's derivative.
#pragma once

#include <vector>

#include "operations/context.hpp"

namespace sparse {

// Where a copy lies in the arena: bitmap, then values.
struct Cache {
  ptrdiff_t offset = 0, floats = 0;
  Tensor shape{};
  bool half = false;
  std::vector<ptrdiff_t> start;  // of each plane's values
};

// The |reading| that about `keep` of the entries reach, from an even sample; exact for small tensors. 0: all.
float threshold(const Context& context, const View& view, float keep);

// Floats that a pruned copy of at most `keep` of a tensor takes, or one of `codes` bits a value.
ptrdiff_t pruned_floats(const Tensor& tensor, const Context& context, float keep, bool half);
ptrdiff_t code_floats(const Tensor& tensor, const Context& context, int codes);

// Keep the entries of a reading that reach `bound`. What the copy has no room for is dropped.
void compress(const Context& context, const View& view, float bound, Cache& cache);
void expand(const Context& context, const Cache& cache, int out);
// Keep what an activation's derivative needs of its input (or of its output: `gain` times as large).
void encode(const Context& context, int tensor, int norm, Act act, float gain, Cache& cache);
// Values that have the same derivative.
void decode(const Context& context, const Cache& cache, Act act, float gain, int out);

}  // namespace sparse

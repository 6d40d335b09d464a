// Products of tensors, channels in another order and parts of images, with their gradients.
#include <algorithm>
#include <cstring>

#include "operations/operations.hpp"

namespace sparse {

namespace {

// `work(block, channel, share)` for every channel of every block.
template <typename F>
void each_channel(const Context& context, int channels, F&& work) {
  context.pool->run(context.blocks * channels, [&](int begin, int end, int share) {
    for (int i = begin; i < end; ++i) work(i / channels, i % channels, share);
  });
}

// to[i] = x[i] factor[i], where `factor` is as long as x or has one value a lane for all.
void product(const float* x, const float* factor, ptrdiff_t plane, ptrdiff_t factors, float* to) {
  for (ptrdiff_t i = 0; i < plane; i += factors)
    for (ptrdiff_t k = 0; k < factors; ++k) to[i + k] = x[i + k] * factor[k];
}

}  // namespace

void multiply(const Context& context, const View& a, const View& b, int out) {
  const auto ra = context.readings(a), rb = context.readings(b);
  const ptrdiff_t plane = context.plane(out), factors = context.plane(b.tensor);
  each_channel(context, context.tensor(out).channels, [&](int block, int c, int share) {
    float *to = context.channel(out, block, c), *factor = context.scratch(share);
    kernels().read(context.channel(b.tensor, block, c), factor, factors, rb[c]);
    kernels().read(context.channel(a.tensor, block, c), to, plane, ra[c]);
    product(to, factor, plane, factors, to);
  });
}

void multiply_gradient(const Context& context, int gradient, const View& other, int out, bool add) {
  const auto readings = context.readings(other);
  const ptrdiff_t plane = context.plane(gradient), factors = context.plane(other.tensor), size = context.plane(out);
  each_channel(context, context.tensor(out).channels, [&](int block, int c, int share) {
    float *factor = context.scratch(share), *to = context.channel(out, block, c);
    kernels().read(context.channel(other.tensor, block, c), factor, factors, readings[c]);
    const float* g = context.channel(gradient, block, c);
    if (!add) std::memset(to, 0, static_cast<size_t>(size) * sizeof(float));
    // One of the three may be shorter than the others.
    for (ptrdiff_t i = 0; i < plane; i += context.lanes)
      for (int lane = 0; lane < context.lanes; ++lane)
        to[i % size + lane] += g[i + lane] * factor[i % factors + lane];
  });
}

void take(const Context& context, const View& input, int out, const std::vector<int>& channels) {
  const auto readings = context.readings(input);
  const ptrdiff_t plane = context.plane(out);
  each_channel(context, static_cast<int>(channels.size()), [&](int block, int c, int) {
    const int from = channels[static_cast<size_t>(c)];
    kernels().read(context.channel(input.tensor, block, from), context.channel(out, block, c), plane,
                   readings[from]);
  });
}

void take_gradient(const Context& context, int gradient, int out, const std::vector<int>& channels, bool add) {
  const ptrdiff_t plane = context.plane(out);
  std::vector<int> taken(static_cast<size_t>(context.tensor(out).channels), kNone);
  for (size_t c = 0; c < channels.size(); ++c) taken[static_cast<size_t>(channels[c])] = static_cast<int>(c);
  each_channel(context, context.tensor(out).channels, [&](int block, int c, int) {
    float* to = context.channel(out, block, c);
    const int from = taken[static_cast<size_t>(c)];
    if (from == kNone) {
      if (!add) std::memset(to, 0, static_cast<size_t>(plane) * sizeof(float));
    } else if (add) {
      kernels().add(context.channel(gradient, block, from), to, plane);
    } else {
      kernels().read(context.channel(gradient, block, from), to, plane, Reading{});
    }
  });
}

void crop(const Context& context, const View& input, int out, int top, int left) {
  const auto readings = context.readings(input);
  const Tensor &from = context.tensor(input.tensor), &to = context.tensor(out);
  const ptrdiff_t run = static_cast<ptrdiff_t>(to.width) * context.lanes;
  each_channel(context, to.channels, [&](int block, int c, int) {
    const float* x = context.channel(input.tensor, block, c);
    float* y = context.channel(out, block, c);
    for (int r = 0; r < to.height; ++r)
      kernels().read(x + (static_cast<ptrdiff_t>(top + r) * from.width + left) * context.lanes, y + r * run, run,
                     readings[c]);
  });
}

void crop_gradient(const Context& context, int gradient, int out, int top, int left, bool add) {
  const Tensor &from = context.tensor(gradient), &to = context.tensor(out);
  const ptrdiff_t run = static_cast<ptrdiff_t>(from.width) * context.lanes;
  each_channel(context, to.channels, [&](int block, int c, int) {
    const float* g = context.channel(gradient, block, c);
    float* dx = context.channel(out, block, c);
    if (!add) std::memset(dx, 0, static_cast<size_t>(context.plane(out)) * sizeof(float));
    for (int r = 0; r < from.height; ++r)
      kernels().add(g + r * run, dx + (static_cast<ptrdiff_t>(top + r) * to.width + left) * context.lanes, run);
  });
}

}  // namespace sparse

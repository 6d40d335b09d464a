// Operations on whole tensors but for pooling: see operations.hpp.
#include "operations/operations.hpp"

#include <cmath>
#include <cstring>
#include <limits>

namespace sparse {

namespace {

// `work(block, channel, share)` for every channel of every block.
template <typename F>
void each_plane(const Context& context, int channels, F&& work) {
  context.pool->run(context.blocks * channels, [&](int begin, int end, int share) {
    for (int i = begin; i < end; ++i) work(i / channels, i % channels, share);
  });
}

}  // namespace

void moments(const Context& context, int tensor, Moments* parts) {
  const int channels = context.tensor(tensor).channels;
  const ptrdiff_t plane = context.plane(tensor);
  each_plane(context, channels, [&](int block, int c, int) {
    parts[static_cast<ptrdiff_t>(block) * channels + c] = Moments::of(context.channel(tensor, block, c), plane);
  });
}

void reduce_gradient(const Context& context, int gradient, const View& view, double* sums) {
  const int channels = context.tensor(view.tensor).channels;
  const ptrdiff_t plane = context.plane(view.tensor);
  const Norm& norm = *context.norms[static_cast<size_t>(view.norm)];
  each_plane(context, channels, [&](int block, int c, int) {
    double* mine = sums + 2 * (static_cast<ptrdiff_t>(block) * channels + c);
    mine[0] = mine[1] = 0;
    kernels().reduce(context.channel(gradient, block, c), context.channel(view.tensor, block, c), plane,
                     norm.reading(c, view.act, view.gain), norm.mean[c], mine);
  });
}

void reduce_pruned(const Context& context, int gradient, int tensor, double* sums, double* energies) {
  const int channels = context.tensor(tensor).channels;
  const ptrdiff_t plane = context.plane(tensor);
  each_plane(context, channels, [&](int block, int c, int) {
    const ptrdiff_t i = static_cast<ptrdiff_t>(block) * channels + c;
    const float* x = context.channel(tensor, block, c);
    double squares[2] = {0, 0};
    sums[2 * i] = sums[2 * i + 1] = 0;
    kernels().reduce(context.channel(gradient, block, c), x, plane, Reading{}, 0.0f, sums + 2 * i);
    kernels().moments(x, plane, 0.0f, squares);
    energies[i] = squares[1];
  });
}

void combine(const Context& context, const View& a, const View& b, int out, Act act, float gain) {
  const auto ra = context.readings(a);
  const bool both = b.tensor >= 0;
  const auto rb = both ? context.readings(b) : std::vector<Reading>();
  const ptrdiff_t plane = context.plane(out);
  each_plane(context, context.tensor(out).channels, [&](int block, int c, int) {
    const float* x = context.channel(a.tensor, block, c);
    float* to = context.channel(out, block, c);
    if (both) {
      kernels().combine(x, ra[c], context.channel(b.tensor, block, c), rb[c], to, plane, act, gain);
    } else {
      kernels().read(x, to, plane, ra[c]);
      if (act != Act::none || gain != 1.0f) kernels().read(to, to, plane, {1.0f, 0.0f, act, gain});
    }
  });
}

void slope_by_output(const Context& context, int gradient, int output, Act act, float gain) {
  const ptrdiff_t plane = context.plane(gradient);
  each_plane(context, context.tensor(gradient).channels, [&](int block, int c, int) {
    kernels().slope_by_output(context.channel(gradient, block, c), context.channel(output, block, c), plane, act,
                              gain);
  });
}

void view_gradient(const Context& context, int gradient, const View& view, int out, bool add) {
  const ptrdiff_t plane = context.plane(out);
  const auto readings = context.readings(view);
  const Norm* norm = view.norm >= 0 ? context.norms[static_cast<size_t>(view.norm)].get() : nullptr;
  each_plane(context, context.tensor(out).channels, [&](int block, int c, int share) {
    Slope slope{readings[c]};
    if (norm != nullptr) slope.a = norm->slope_a[c], slope.b = norm->slope_b[c], slope.c = norm->slope_c[c];
    const float* g = context.channel(gradient, block, c);
    const float* x = context.channel(view.tensor, block, c);
    float* to = context.channel(out, block, c);
    if (!add) {
      kernels().slope(g, x, to, plane, slope);
      return;
    }
    float* part = context.scratch(share);
    kernels().slope(g, x, part, plane, slope);
    kernels().add(part, to, plane);
  });
}

void concatenate(const Context& context, const View& input, int out, int first) {
  const auto readings = context.readings(input);
  const ptrdiff_t plane = context.plane(out);
  each_plane(context, context.tensor(input.tensor).channels, [&](int block, int c, int) {
    kernels().read(context.channel(input.tensor, block, c), context.channel(out, block, first + c), plane,
                   readings[c]);
  });
}

void concatenate_gradient(const Context& context, int gradient, int first, int out, bool add) {
  const ptrdiff_t plane = context.plane(out);
  each_plane(context, context.tensor(out).channels, [&](int block, int c, int) {
    const float* g = context.channel(gradient, block, first + c);
    float* to = context.channel(out, block, c);
    if (add)
      kernels().add(g, to, plane);
    else
      kernels().read(g, to, plane, Reading{});
  });
}

namespace {

// SplitMix64: a good hash of a counter.
uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

void dropout(const Context& context, int tensor, float rate, uint64_t seed) {
  const ptrdiff_t plane = context.plane(tensor);
  const int channels = context.tensor(tensor).channels;
  const auto bound = static_cast<uint64_t>(static_cast<double>(rate) * 4294967296.0);
  const float scale = 1.0f / (1.0f - rate);
  each_plane(context, channels, [&](int block, int c, int) {
    float* x = context.channel(tensor, block, c);
    const uint64_t base = mixed(seed) + static_cast<uint64_t>(block * channels + c) * static_cast<uint64_t>(plane);
    for (ptrdiff_t i = 0; i < plane; ++i)
      x[i] = (mixed(base + static_cast<uint64_t>(i)) >> 32) < bound ? 0.0f : x[i] * scale;
  });
}

LossSums loss(const Context& context, int logits, const int64_t* labels, int gradient, float share,
              Objective objective) {
  const int classes = context.tensor(logits).channels, lanes = context.lanes;
  LossSums sums;
  for (int block = 0; block < context.blocks; ++block) {
    const float* x = context.at(logits, block);
    float* g = gradient >= 0 ? context.at(gradient, block) : nullptr;
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t label = objective == Objective::flow ? 0 : labels[block * lanes + lane];
      int best = 0;
      for (int k = 1; k < classes; ++k)
        if (x[k * lanes + lane] > x[best * lanes + lane]) best = k;
      sums.correct += best == label;
      const double top = x[best * lanes + lane];
      double total = 0;
      if (objective == Objective::cross_entropy)
        for (int k = 0; k < classes; ++k) total += std::exp(x[k * lanes + lane] - top);
      if (objective == Objective::cross_entropy) sums.loss += std::log(total) + top - x[label * lanes + lane];
      for (int k = 0; k < classes; ++k) {
        const double value = x[k * lanes + lane], target = k == label;
        double slope = 1.0;
        if (objective == Objective::cross_entropy) slope = std::exp(value - top) / total - target;
        if (objective == Objective::squared_error) {
          sums.loss += (value - target) * (value - target) / classes;
          slope = 2.0 * (value - target) / classes;
        }
        if (objective == Objective::flow) sums.loss += value;
        if (g != nullptr) g[k * lanes + lane] = static_cast<float>(slope) * share;
      }
    }
  }
  return sums;
}

void pack_input(const Context& context, const float* samples, int tensor) {
  const ptrdiff_t values = context.tensor(tensor).values(), plane = values / context.tensor(tensor).channels;
  const int lanes = context.lanes;
  each_plane(context, context.tensor(tensor).channels, [&](int block, int c, int) {
    float* to = context.channel(tensor, block, c);
    const float* from = samples + block * lanes * values + c * plane;
    for (ptrdiff_t i = 0; i < plane; ++i)
      for (int lane = 0; lane < lanes; ++lane) to[i * lanes + lane] = from[lane * values + i];
  });
}

void unpack_output(const Context& context, int tensor, float* samples) {
  const ptrdiff_t values = context.tensor(tensor).values(), plane = values / context.tensor(tensor).channels;
  const int lanes = context.lanes;
  each_plane(context, context.tensor(tensor).channels, [&](int block, int c, int) {
    const float* from = context.channel(tensor, block, c);
    float* to = samples + block * lanes * values + c * plane;
    for (ptrdiff_t i = 0; i < plane; ++i)
      for (int lane = 0; lane < lanes; ++lane) to[lane * values + i] = from[i * lanes + lane];
  });
}

}  // namespace sparse

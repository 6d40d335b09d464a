// Largest and mean values of windows, and their gradients.
#include <algorithm>
#include <cstring>
#include <limits>

#include "operations/operations.hpp"

namespace sparse {

namespace {

struct Window {
  int top, bottom, left, right;  // half open, within the image
};

Window window(const PoolShape& p, int r, int c, int height, int width) {
  const int top = r * p.stride_h - p.pad_h, left = c * p.stride_w - p.pad_w;
  return {std::max(top, 0), std::min(top + p.kernel_h, height), std::max(left, 0),
          std::min(left + p.kernel_w, width)};
}

// `work(block, channel, x)` on each plane of the reading, copied to scratch.
template <typename F>
void each_reading(const Context& context, const View& input, F&& work) {
  const int channels = context.tensor(input.tensor).channels;
  const auto readings = context.readings(input);
  const ptrdiff_t plane = context.plane(input.tensor);
  context.pool->run(context.blocks * channels, [&](int begin, int end, int share) {
    for (int i = begin; i < end; ++i) {
      float* x = context.scratch(share);
      kernels().read(context.channel(input.tensor, i / channels, i % channels), x, plane, readings[i % channels]);
      work(i / channels, i % channels, x);
    }
  });
}

// `work(offset, window)` for each output, in order: its place in the output's plane, and what it is computed from.
template <typename F>
void each_window(const PoolShape& shape, const Tensor& in, const Tensor& out, int lanes, F&& work) {
  ptrdiff_t offset = 0;
  for (int r = 0; r < out.height; ++r)
    for (int q = 0; q < out.width; ++q, offset += lanes) work(offset, window(shape, r, q, in.height, in.width));
}

float mean_share(const Window& w) { return 1.0f / static_cast<float>((w.bottom - w.top) * (w.right - w.left)); }

}  // namespace

void max_pool(const Context& context, const View& input, int out, const PoolShape& shape) {
  const Tensor &from = context.tensor(input.tensor), &to = context.tensor(out);
  const int lanes = context.lanes;
  each_reading(context, input, [&](int block, int c, const float* x) {
    float* plane = context.channel(out, block, c);
    each_window(shape, from, to, lanes, [&](ptrdiff_t offset, const Window& w) {
      float* y = plane + offset;
      std::fill(y, y + lanes, -std::numeric_limits<float>::infinity());
      for (int h = w.top; h < w.bottom; ++h)
        for (int i = w.left; i < w.right; ++i) {
          const float* v = x + (static_cast<ptrdiff_t>(h) * from.width + i) * lanes;
          for (int lane = 0; lane < lanes; ++lane) y[lane] = y[lane] < v[lane] ? v[lane] : y[lane];
        }
    });
  });
}

void max_pool_gradient(const Context& context, int gradient, const View& input, int out, const PoolShape& shape,
                       bool add) {
  const Tensor &from = context.tensor(input.tensor), &to = context.tensor(gradient);
  const int lanes = context.lanes;
  each_reading(context, input, [&](int block, int c, const float* x) {
    const float* g = context.channel(gradient, block, c);
    float* dx = context.channel(out, block, c);
    if (!add) std::memset(dx, 0, static_cast<size_t>(context.plane(out)) * sizeof(float));
    each_window(shape, from, to, lanes, [&](ptrdiff_t offset, const Window& w) {
      for (int lane = 0; lane < lanes; ++lane) {
        ptrdiff_t best = (static_cast<ptrdiff_t>(w.top) * from.width + w.left) * lanes + lane;
        for (int h = w.top; h < w.bottom; ++h)
          for (int i = w.left; i < w.right; ++i) {
            const ptrdiff_t at = (static_cast<ptrdiff_t>(h) * from.width + i) * lanes + lane;
            if (x[at] > x[best]) best = at;
          }
        dx[best] += g[offset + lane];
      }
    });
  });
}

void average_pool(const Context& context, const View& input, int out, const PoolShape& shape) {
  const Tensor &from = context.tensor(input.tensor), &to = context.tensor(out);
  const int lanes = context.lanes;
  each_reading(context, input, [&](int block, int c, const float* x) {
    float* plane = context.channel(out, block, c);
    each_window(shape, from, to, lanes, [&](ptrdiff_t offset, const Window& w) {
      float* y = plane + offset;
      const float share = mean_share(w);
      std::fill(y, y + lanes, 0.0f);
      for (int h = w.top; h < w.bottom; ++h)
        for (int i = w.left; i < w.right; ++i)
          for (int lane = 0; lane < lanes; ++lane)
            y[lane] += x[(static_cast<ptrdiff_t>(h) * from.width + i) * lanes + lane];
      for (int lane = 0; lane < lanes; ++lane) y[lane] *= share;
    });
  });
}

void average_pool_gradient(const Context& context, int gradient, int out, const PoolShape& shape, bool add) {
  const Tensor &to = context.tensor(gradient), &from = context.tensor(out);
  const int lanes = context.lanes, channels = from.channels;
  context.pool->run(context.blocks * channels, [&](int begin, int end, int) {
    for (int i = begin; i < end; ++i) {
      const float* g = context.channel(gradient, i / channels, i % channels);
      float* dx = context.channel(out, i / channels, i % channels);
      if (!add) std::memset(dx, 0, static_cast<size_t>(context.plane(out)) * sizeof(float));
      each_window(shape, from, to, lanes, [&](ptrdiff_t offset, const Window& w) {
        const float share = mean_share(w);
        for (int h = w.top; h < w.bottom; ++h)
          for (int j = w.left; j < w.right; ++j)
            for (int lane = 0; lane < lanes; ++lane)
              dx[(static_cast<ptrdiff_t>(h) * from.width + j) * lanes + lane] += g[offset + lane] * share;
      });
    }
  });
}

}  // namespace sparse

// Copies of activations: how they are chosen, packed and unpacked; see caches.hpp.
#include "operations/caches.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace sparse {

namespace {

constexpr ptrdiff_t kSample = 1 << 14;  // entries that a threshold is estimated from: its rank errs by 0.4 %
constexpr float kSpare = 1.05f;         // room for that error

ptrdiff_t words(ptrdiff_t plane) { return (plane + 15) / 16; }  // of a plane's bitmap

ptrdiff_t planes(const Context& context, const Tensor& tensor) {
  return static_cast<ptrdiff_t>(context.blocks) * tensor.channels;
}

ptrdiff_t bitmap_floats(const Context& context, const Tensor& tensor) {
  const ptrdiff_t plane = static_cast<ptrdiff_t>(tensor.height) * tensor.width * context.lanes;
  return round_up(words(plane) * planes(context, tensor), 2) / 2;
}

uint16_t* bitmap_of(const Context& context, const Cache& cache) {
  return reinterpret_cast<uint16_t*>(context.base + cache.offset);
}

// `work(plane, block, channel, share)` for every plane.
template <typename F>
void each(const Context& context, const Tensor& tensor, F&& work) {
  context.pool->run(context.blocks * tensor.channels, [&](int begin, int end, int share) {
    for (int i = begin; i < end; ++i) work(i, i / tensor.channels, i % tensor.channels, share);
  });
}

// Clear all bits but the first `room`; returns how many are left.
ptrdiff_t trim(uint16_t* bitmap, ptrdiff_t count, ptrdiff_t room) {
  ptrdiff_t left = 0;
  for (ptrdiff_t i = 0; i < count; ++i) {
    while (left + __builtin_popcount(bitmap[i]) > room)
      bitmap[i] = static_cast<uint16_t>(bitmap[i] & ~(1u << (31 - __builtin_clz(bitmap[i]))));
    left += __builtin_popcount(bitmap[i]);
  }
  return left;
}

}  // namespace

float threshold(const Context& context, const View& view, float keep) {
  if (keep >= 1.0f) return 0.0f;
  const Tensor& t = context.tensor(view.tensor);
  const ptrdiff_t plane = context.plane(view.tensor), total = plane * planes(context, t);
  // An odd stride visits every residue of the powers of two by which tensors are laid out.
  const ptrdiff_t stride = std::max<ptrdiff_t>(1, total / kSample) | 1;
  const auto readings = context.readings(view);
  std::vector<float> sample;
  sample.reserve(static_cast<size_t>(total / stride + 1));
  for (ptrdiff_t i = 0; i < total; i += stride) {
    const auto at = static_cast<int>(i / plane);
    float value;
    kernels().read(context.channel(view.tensor, at / t.channels, at % t.channels) + i % plane, &value, 1,
                   readings[static_cast<size_t>(at % t.channels)]);
    // What is no number has no order: it counts among the largest.
    sample.push_back(std::isnan(value) ? HUGE_VALF : std::fabs(value));
  }
  const auto kept = std::max<ptrdiff_t>(1, std::lround(keep * static_cast<float>(sample.size())));
  const auto nth = sample.begin() + (static_cast<ptrdiff_t>(sample.size()) - kept);
  std::nth_element(sample.begin(), nth, sample.end());
  return *nth;
}

ptrdiff_t pruned_floats(const Tensor& tensor, const Context& context, float keep, bool half) {
  const double values = static_cast<double>(tensor.values()) * context.samples();
  const auto kept = static_cast<ptrdiff_t>(std::min(values, std::ceil(values * keep * kSpare) + 64));
  return bitmap_floats(context, tensor) + (half ? (kept + 1) / 2 : kept) + kSlack;
}

ptrdiff_t code_floats(const Tensor& tensor, const Context& context, int codes) {
  return bitmap_floats(context, tensor) * codes + kSlack;
}

void compress(const Context& context, const View& view, float bound, Cache& cache) {
  const Tensor& t = context.tensor(view.tensor);
  const auto readings = context.readings(view);
  const ptrdiff_t plane = context.plane(view.tensor), count = planes(context, t);
  uint16_t* bitmap = bitmap_of(context, cache);
  std::vector<ptrdiff_t> kept(static_cast<size_t>(count));
  const auto read = [&](int block, int c, int share) -> const float* {
    const float* x = context.channel(view.tensor, block, c);
    if (readings[static_cast<size_t>(c)].plain()) return x;
    kernels().read(x, context.scratch(share), plane, readings[static_cast<size_t>(c)]);
    return context.scratch(share);
  };
  each(context, t, [&](int i, int block, int c, int share) {
    kept[static_cast<size_t>(i)] =
        kernels().mark_large(read(block, c, share), plane, bound, bitmap + i * words(plane));
  });
  float* values = context.base + cache.offset + bitmap_floats(context, t);
  const ptrdiff_t room = (cache.floats - kSlack - bitmap_floats(context, t)) * (cache.half ? 2 : 1);
  cache.start.assign(static_cast<size_t>(count), 0);
  const ptrdiff_t wanted = std::accumulate(kept.begin(), kept.end(), ptrdiff_t{0});
  ptrdiff_t total = 0;
  for (ptrdiff_t i = 0; i < count; ++i) {
    cache.start[static_cast<size_t>(i)] = total;
    // The threshold's error is within the spare room. Many equal values are not: then each plane has its share.
    if (wanted > room)
      kept[static_cast<size_t>(i)] = trim(bitmap + i * words(plane), words(plane), room * (i + 1) / count - total);
    total += kept[static_cast<size_t>(i)];
  }
  each(context, t, [&](int i, int block, int c, int share) {
    void* to = cache.half
                   ? static_cast<void*>(reinterpret_cast<uint16_t*>(values) + cache.start[static_cast<size_t>(i)])
                   : static_cast<void*>(values + cache.start[static_cast<size_t>(i)]);
    kernels().pack(read(block, c, share), plane, bitmap + i * words(plane), to, cache.half);
  });
}

void expand(const Context& context, const Cache& cache, int out) {
  const Tensor& t = context.tensor(out);
  const ptrdiff_t plane = context.plane(out);
  const uint16_t* bitmap = bitmap_of(context, cache);
  const float* values = context.base + cache.offset + bitmap_floats(context, t);
  each(context, t, [&](int i, int block, int c, int) {
    const ptrdiff_t start = cache.start[static_cast<size_t>(i)];
    const void* from = cache.half ? static_cast<const void*>(reinterpret_cast<const uint16_t*>(values) + start)
                                  : static_cast<const void*>(values + start);
    kernels().unpack(from, plane, bitmap + i * words(plane), context.channel(out, block, c), cache.half);
  });
}

void encode(const Context& context, int tensor, int norm, Act act, float gain, Cache& cache) {
  const Tensor& t = context.tensor(tensor);
  const auto readings = context.readings({tensor, norm, Act::none, 1.0f});
  const ptrdiff_t plane = context.plane(tensor), second = words(plane) * planes(context, t);
  uint16_t* bitmap = bitmap_of(context, cache);
  each(context, t, [&](int i, int block, int c, int share) {
    const float* x = context.channel(tensor, block, c);
    if (!readings[static_cast<size_t>(c)].plain()) {
      kernels().read(x, context.scratch(share), plane, readings[static_cast<size_t>(c)]);
      x = context.scratch(share);
    }
    kernels().mark_above(x, plane, 0.0f, bitmap + i * words(plane));
    // What reaches the ceiling: the last value below it is the bound.
    if (act == Act::relu6)
      kernels().mark_above(x, plane, std::nextafter(6.0f * gain, 0.0f), bitmap + second + i * words(plane));
  });
}

void decode(const Context& context, const Cache& cache, Act act, float gain, int out) {
  const Tensor& t = context.tensor(out);
  const ptrdiff_t plane = context.plane(out), second = words(plane) * planes(context, t);
  const uint16_t* bitmap = bitmap_of(context, cache);
  each(context, t, [&](int i, int block, int c, int) {
    kernels().choose(bitmap + i * words(plane), act == Act::relu6 ? bitmap + second + i * words(plane) : nullptr,
                     plane, -1.0f, 3.0f * gain, 7.0f * gain, context.channel(out, block, c));
  });
}

}  // namespace sparse

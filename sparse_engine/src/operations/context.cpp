// The arena's memory, and how the channels of a view are read.
#include "operations/context.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace sparse {

namespace {

// Pages of zeros; null where there are none left.
#if defined(__SANITIZE_ADDRESS__)
// Of just that size, and watched: what lies beyond its end is nobody's.
constexpr ptrdiff_t kUnitFloats = kAlignment;
void* take(size_t bytes) {
  void* got = std::aligned_alloc(kAlignment * sizeof(float), bytes);
  return got == nullptr ? got : std::memset(got, 0, bytes);
}
void give_back(void* base, size_t) { std::free(base); }
#else
constexpr ptrdiff_t kUnitFloats = 1024;
void* take(size_t bytes) {
  void* got = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (got == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  madvise(got, bytes, MADV_HUGEPAGE);  // fewer page faults and translations; refusal does no harm
#endif
  return got;
}
void give_back(void* base, size_t bytes) { munmap(base, bytes); }
#endif

}  // namespace

Arena::~Arena() { release(); }

void Arena::release() {
  if (base_ != nullptr) give_back(base_, static_cast<size_t>(floats_) * sizeof(float));
  base_ = nullptr;
  floats_ = 0;
  holder = nullptr;
}

float* Arena::ensure(ptrdiff_t floats) {
  if (floats <= floats_) return base_;
  release();
  const ptrdiff_t whole = round_up(floats, kUnitFloats);
  void* got = take(static_cast<size_t>(whole) * sizeof(float));
  if (got == nullptr) throw std::bad_alloc();
  base_ = static_cast<float*>(got);
  floats_ = whole;
  return base_;
}

std::vector<Reading> Context::readings(const View& view) const {
  const int channels = tensor(view.tensor).channels;
  std::vector<Reading> found(static_cast<size_t>(channels), {1.0f, 0.0f, view.act, view.gain});
  if (view.norm >= 0) {
    const Norm& norm = *norms[static_cast<size_t>(view.norm)];
    for (int c = 0; c < channels; ++c)
      found[c] = view.standard ? Reading{norm.inverse[c], -norm.mean[c] * norm.inverse[c], view.act, view.gain}
                               : norm.reading(c, view.act, view.gain);
  }
  return found;
}

}  // namespace sparse

// The arena's memory, and how the channels of a view are read.
#include "context.hpp"

#include <sys/mman.h>

#include <new>

namespace sparse {

namespace {

constexpr ptrdiff_t kPageFloats = 1024;

}  // namespace

Arena::~Arena() { release(); }

void Arena::release() {
  if (base_ != nullptr) munmap(base_, static_cast<size_t>(floats_) * sizeof(float));
  base_ = nullptr;
  floats_ = 0;
  holder = nullptr;
}

float* Arena::ensure(ptrdiff_t floats) {
  if (floats <= floats_) return base_;
  release();
  const size_t bytes = static_cast<size_t>(round_up(floats, kPageFloats)) * sizeof(float);
  void* got = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (got == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(got, bytes, MADV_HUGEPAGE);  // fewer page faults and translations; refusal does no harm
#endif
  base_ = static_cast<float*>(got);
  floats_ = static_cast<ptrdiff_t>(bytes / sizeof(float));
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

// Multiply-adds of one thread, timed: see probe.hpp.
#include "kernels/probe.hpp"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/kernels.hpp"

namespace sparse {

namespace {

constexpr double kSeconds = 0.01;  // of a trial: long against the clock, short against interruptions
constexpr int kTrials = 5;
constexpr ptrdiff_t kRegisterFloats = 64 * kProbeStep;
constexpr ptrdiff_t kMostBytes = ptrdiff_t{1} << 30;

double seconds(const float* operands, ptrdiff_t n, ptrdiff_t rounds) {
  const auto begin = std::chrono::steady_clock::now();
  const volatile float kept = kernels().multiply_add(operands, n, rounds);  // kept: else no work need be done
  static_cast<void>(kept);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

double peak_gflops(ptrdiff_t bytes) {
  if (bytes < 0 || bytes > kMostBytes)
    throw std::invalid_argument("bytes must be 0 to " + std::to_string(kMostBytes) + ", not " +
                                std::to_string(bytes));
  std::vector<float> buffer;
  ptrdiff_t n = kRegisterFloats;
  if (bytes > 0) {
    n = std::max<ptrdiff_t>(1, bytes / static_cast<ptrdiff_t>(sizeof(float)) / kProbeStep) * kProbeStep;
    buffer.assign(static_cast<size_t>(n) + kSlack, 0.5f);
  }
  // From a cache line's beginning: a vector across two lines costs two accesses.
  const float* operands = nullptr;
  if (bytes > 0) {
    const auto address = reinterpret_cast<uintptr_t>(buffer.data());
    operands = buffer.data() + (64 - address % 64) % 64 / sizeof(float);
  }
  ptrdiff_t rounds = 1;
  while (seconds(operands, n, rounds) < kSeconds) rounds *= 2;
  double best = seconds(operands, n, rounds);
  for (int trial = 1; trial < kTrials; ++trial) best = std::min(best, seconds(operands, n, rounds));
  return 2.0 * static_cast<double>(n) * static_cast<double>(rounds) / best * 1e-9;
}

}  // namespace sparse

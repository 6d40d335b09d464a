// Which table of kernels this processor runs.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels/kernels.hpp"

namespace sparse {

namespace {

const Kernels* choose() {
  const Kernels* candidates[3];
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    candidates[count++] = kAvx512Kernels;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) candidates[count++] = kAvx2Kernels;
#endif
  candidates[count++] = kBaselineKernels;
  const char* wanted = std::getenv("SPARSE_ENGINE_ISA");
  if (wanted == nullptr || *wanted == '\0') return candidates[0];
  std::string known;
  for (int i = 0; i < count; ++i) {
    if (std::string(wanted) == candidates[i]->name) return candidates[i];
    known += std::string(i ? ", " : "") + candidates[i]->name;
  }
  throw std::invalid_argument("SPARSE_ENGINE_ISA=" + std::string(wanted) + " cannot run here; choose of " + known);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = *choose();
  return chosen;
}

}  // namespace sparse

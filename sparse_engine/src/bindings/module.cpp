// The Python module: what it tells of the processor and of memory, and the face of all else.
#include "bindings/bindings.hpp"
#include "kernels/probe.hpp"
#include "layers/checks.hpp"
#include "program/program.hpp"

namespace {

using namespace sparse;

ptrdiff_t tensor_floats(int channels, int height, int width, int samples, bool packed) {
  check_tensor(channels, height, width, samples);
  const int lanes = Program::lanes_for(samples);
  return channel_stride(height, width, lanes, packed) * channels * (samples / lanes);
}

ptrdiff_t cache_floats(int channels, int height, int width, int samples, float keep, bool half, int codes) {
  check_tensor(channels, height, width, samples);
  check_keep(keep);
  if (codes < 0 || codes > 2) refuse("codes have 1 or 2 bits, or 0 for none, not " + std::to_string(codes));
  Context context;
  context.lanes = Program::lanes_for(samples);
  context.blocks = samples / context.lanes;
  const Tensor tensor{0, channels, height, width, 0};
  return codes > 0 ? code_floats(tensor, context, codes) : pruned_floats(tensor, context, keep, half);
}

}  // namespace

// The interpreter's lock is what uses are guarded by, so the module must not say that it does without.
NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // at exit some functions of ours are still referred to: that is Python's order
  m.doc() = "Sparse training on the CPU: the compiled part. What is asked of it is checked; errors are exceptions.";
  m.attr("isa") = kernels().name;
  m.attr("width") = kernels().width;
  m.attr("LANES") = kMostLanes;
  m.attr("ALIGNMENT") = kAlignment;
  m.def("tensor_floats", &tensor_floats, "channels"_a, "height"_a, "width"_a, "samples"_a, "packed"_a,
        "What a tensor takes of the arena.");
  m.def("cache_floats", &cache_floats, "channels"_a, "height"_a, "width"_a, "samples"_a, "keep"_a, "half"_a,
        "codes"_a, "What a pruned copy takes, or with codes > 0 one of so many bits a value.");
  m.def("lanes_for", &Program::lanes_for, "samples"_a, "Images that lie innermost for so many samples.");
  m.def("peak_gflops", &peak_gflops, "bytes"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Multiply-adds of one thread, one operand from a buffer of so many bytes or, with 0, from registers.");
  bind_numbers(m);
  bind_shapes(m);
  bind_program(m);
}

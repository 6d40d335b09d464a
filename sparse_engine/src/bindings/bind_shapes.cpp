// The Python face of descriptions: plain values, which programs check when they are given them.
#include "bindings/bindings.hpp"
#include "program/program.hpp"

namespace sparse {

void bind_shapes(nb::module_& m) {
  nb::enum_<Act>(m, "Act")
      .value("none", Act::none)
      .value("relu", Act::relu)
      .value("relu6", Act::relu6)
      .value("leaky", Act::leaky)
      .value("hardswish", Act::hardswish)
      .value("hardsigmoid", Act::hardsigmoid)
      .value("sigmoid", Act::sigmoid)
      .value("tanh", Act::tanh);
  nb::enum_<Objective>(m, "Objective")
      .value("cross_entropy", Objective::cross_entropy)
      .value("squared_error", Objective::squared_error)
      .value("flow", Objective::flow);
  nb::class_<View>(m, "View", "How a stored tensor is read: normalised, then activated.")
      .def(
          "__init__",
          [](View* v, int tensor, int norm, Act act, float gain, bool standard) {
            new (v) View{tensor, norm, act, gain, standard};
          },
          "tensor"_a = -1, "norm"_a = -1, "act"_a = Act::none, "gain"_a = 1.0f, "standard"_a = false);
  nb::class_<ConvShape>(m, "ConvShape")
      .def(nb::init<>())
#define FIELD(name) .def_rw(#name, &ConvShape::name)
          FIELD(in_channels) FIELD(out_channels) FIELD(groups) FIELD(kernel_h) FIELD(kernel_w) FIELD(stride_h)
              FIELD(stride_w) FIELD(pad_h) FIELD(pad_w) FIELD(in_h) FIELD(in_w) FIELD(out_h) FIELD(out_w)
                  FIELD(end_h) FIELD(end_w) FIELD(dilation_h) FIELD(dilation_w);
#undef FIELD
  nb::class_<PoolShape>(m, "PoolShape")
      .def(
          "__init__",
          [](PoolShape* p, int kh, int kw, int sh, int sw, int ph, int pw, int eh, int ew) {
            new (p) PoolShape{kh, kw, sh, sw, ph, pw, eh, ew};
          },
          "kernel_h"_a, "kernel_w"_a, "stride_h"_a, "stride_w"_a, "pad_h"_a = 0, "pad_w"_a = 0,
          "end_h"_a = kAsBefore, "end_w"_a = kAsBefore);
  nb::class_<BackwardWants>(m, "BackwardWants")
      .def(
          "__init__",
          [](BackwardWants* b, const View& output, int output_gradient, const View& input, int input_gradient,
             int added, bool weight_gradient, float keep, bool norm_gradient) {
            new (b) BackwardWants{output, output_gradient, input, input_gradient,
                                  added,  weight_gradient, keep,  norm_gradient};
          },
          "output"_a, "output_gradient"_a, "input"_a, "input_gradient"_a = -1, "added"_a = -1,
          "weight_gradient"_a = true, "keep"_a = 1.0f, "norm_gradient"_a = false);
}

}  // namespace sparse

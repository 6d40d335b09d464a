// The Python face of the engine: objects and operations as they are; nothing is decided here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>

#include "probe.hpp"
#include "program.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace sparse;

namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Longs = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

nb::ndarray<nb::numpy, float, nb::ndim<1>> array(const std::vector<float>& values) {
  auto* copy = new float[values.empty() ? 1 : values.size()];
  std::copy(values.begin(), values.end(), copy);
  nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return nb::ndarray<nb::numpy, float, nb::ndim<1>>(copy, {values.size()}, owner);
}

void assign(std::vector<float>& to, const Floats& from, const char* what) {
  if (from.shape(0) != to.size())
    refuse(std::string(what) + " holds " + std::to_string(to.size()) + " values, not " +
           std::to_string(from.shape(0)));
  std::copy(from.data(), from.data() + from.shape(0), to.begin());
}

void bind_param(nb::module_& m) {
  nb::class_<Param>(m, "Param", "A trained vector with its momentum.")
      .def_prop_rw(
          "value", [](const Param& p) { return array(p.value); },
          [](Param& p, const Floats& v) { assign(p.value, v, "value"); }, nb::rv_policy::automatic)
      .def_prop_rw(
          "velocity", [](const Param& p) { return array(p.velocity); },
          [](Param& p, const Floats& v) { assign(p.velocity, v, "velocity"); }, nb::rv_policy::automatic)
      .def_prop_ro("gradient", [](const Param& p) { return array(p.gradient); }, nb::rv_policy::automatic);
}

void bind_state(nb::module_& m) {
  nb::class_<Sgd>(m, "Sgd")
      .def(
          "__init__",
          [](Sgd* s, float rate, float momentum, float decay, float penalty) {
            new (s) Sgd{rate, momentum, decay, penalty};
          },
          "rate"_a, "momentum"_a = 0.0f, "decay"_a = 0.0f, "penalty"_a = 0.0f);
  nb::enum_<WeightNorm>(m, "WeightNorm")
      .value("none", WeightNorm::none)
      .value("active", WeightNorm::active)
      .value("all", WeightNorm::all);
  nb::class_<Weights>(m, "Weights", "The weights of a layer that are not pruned, (out, row_size) flat.")
      .def(nb::init<int, int, bool, WeightNorm>(), "out"_a, "row_size"_a, "biased"_a = false,
           "norm"_a = WeightNorm::none)
      .def(
          "set",
          [](Weights& w, const Longs& positions, const Floats& values) {
            if (positions.shape(0) != values.shape(0)) refuse("as many positions as values are needed");
            w.set(positions.data(), values.data(), values.shape(0));
          },
          "positions"_a, "values"_a)
      .def("__len__", &Weights::count)
      .def_prop_ro("positions",
                   [](const Weights& w) {
                     auto* copy = new int64_t[std::max<size_t>(w.count(), 1)];
                     for (int o = 0; o < w.out(); ++o)
                       for (int k = w.rows()[o]; k < w.rows()[o + 1]; ++k)
                         copy[k] = static_cast<int64_t>(o) * w.row_size() + w.places()[k];
                     nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<int64_t*>(p); });
                     return nb::ndarray<nb::numpy, int64_t, nb::ndim<1>>(copy, {w.count()}, owner);
                   },
                   nb::rv_policy::automatic)
      .def(
          "mark", [](Weights& w, const Longs& positions) { w.mark(positions.data(), positions.shape(0)); },
          "positions"_a)
      .def("marked_square", &Weights::marked_square)
      .def("zero_gradient", &Weights::zero_gradient)
      .def("update", &Weights::update, "sgd"_a)
      .def_prop_ro("param", [](Weights& w) -> Param& { return w.param; }, nb::rv_policy::reference_internal)
      .def_prop_ro("bias", [](Weights& w) -> Param& { return w.bias; }, nb::rv_policy::reference_internal)
      .def_prop_ro("gain", [](Weights& w) -> Param& { return w.gain; }, nb::rv_policy::reference_internal);
  nb::class_<Norm>(m, "Norm", "Batch norm of a layer.")
      .def(
          "__init__",
          [](Norm* n, int channels) {
            require(channels > 0, "a norm needs channels");
            new (n) Norm(channels);
          },
          "channels"_a)
      .def_prop_ro("gamma", [](Norm& n) -> Param& { return n.gamma; }, nb::rv_policy::reference_internal)
      .def_prop_ro("beta", [](Norm& n) -> Param& { return n.beta; }, nb::rv_policy::reference_internal)
      .def_prop_rw(
          "running_mean", [](const Norm& n) { return array(n.running_mean); },
          [](Norm& n, const Floats& v) { assign(n.running_mean, v, "running_mean"); },
          nb::rv_policy::automatic)
      .def_prop_rw(
          "running_var", [](const Norm& n) { return array(n.running_var); },
          [](Norm& n, const Floats& v) { assign(n.running_var, v, "running_var"); }, nb::rv_policy::automatic)
      .def("zero_gradient",
           [](Norm& n) {
             n.gamma.zero_gradient();
             n.beta.zero_gradient();
           })
      .def(
          "update",
          [](Norm& n, const Sgd& sgd) {
            n.gamma.update(sgd);
            n.beta.update(sgd);
          },
          "sgd"_a);
}

void bind_shapes(nb::module_& m) {
  nb::enum_<Act>(m, "Act")
      .value("none", Act::none)
      .value("relu", Act::relu)
      .value("relu6", Act::relu6)
      .value("leaky", Act::leaky)
      .value("hardswish", Act::hardswish);
  nb::enum_<Objective>(m, "Objective")
      .value("cross_entropy", Objective::cross_entropy)
      .value("squared_error", Objective::squared_error)
      .value("flow", Objective::flow);
  nb::class_<View>(m, "View", "How a stored tensor is read: normalised, then activated.")
      .def(
          "__init__", [](View* v, int tensor, int norm, Act act, float gain, bool standard) {
            new (v) View{tensor, norm, act, gain, standard};
          },
          "tensor"_a = -1, "norm"_a = -1, "act"_a = Act::none, "gain"_a = 1.0f, "standard"_a = false);
  nb::class_<ConvShape>(m, "ConvShape")
      .def(nb::init<>())
#define FIELD(name) .def_rw(#name, &ConvShape::name)
      FIELD(in_channels) FIELD(out_channels) FIELD(groups) FIELD(kernel_h) FIELD(kernel_w) FIELD(stride_h)
      FIELD(stride_w) FIELD(pad_h) FIELD(pad_w) FIELD(in_h) FIELD(in_w) FIELD(out_h) FIELD(out_w);
#undef FIELD
  nb::class_<PoolShape>(m, "PoolShape")
      .def(
          "__init__",
          [](PoolShape* p, int kh, int kw, int sh, int sw, int ph, int pw) {
            new (p) PoolShape{kh, kw, sh, sw, ph, pw};
          },
          "kernel_h"_a, "kernel_w"_a, "stride_h"_a, "stride_w"_a, "pad_h"_a = 0, "pad_w"_a = 0);
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

// Where the caller's samples or labels are too few, or a label is no class, nothing is run.
void check_samples(Program& p, size_t values, int tensor) {
  require(tensor >= 0 && tensor < static_cast<int>(p.context().tensors.size()), "an unknown tensor");
  const auto wanted = static_cast<size_t>(p.context().tensor(tensor).values() * p.samples());
  if (values != wanted)
    refuse(std::to_string(wanted) + " values are needed, not " + std::to_string(values));
}

void bind_program(nb::module_& m) {
  nb::class_<Arena>(m, "Arena", "The memory that programs share.")
      .def(nb::init<>())
      .def_prop_ro("bytes", [](const Arena& a) { return a.floats() * static_cast<ptrdiff_t>(sizeof(float)); })
      .def("release", &Arena::release);
  nb::class_<Pool>(m, "Pool", "A team of threads.")
      .def(nb::init<int, int>(), "threads"_a, "shares"_a = 0)
      .def_prop_ro("threads", &Pool::threads);
  nb::class_<Program>(m, "Program", "Operations over one arena for one number of samples.")
      .def(nb::init<std::shared_ptr<Arena>, std::shared_ptr<Pool>, int>(), "arena"_a, "pool"_a, "samples"_a)
      .def_prop_ro("samples", &Program::samples)
      .def_prop_ro("bytes", [](Program& p) { return p.floats() * static_cast<ptrdiff_t>(sizeof(float)); })
      .def("__len__", &Program::size)
      .def("tensor", &Program::tensor, "channels"_a, "height"_a, "width"_a, "offset"_a,
           "packed"_a = false)
      .def("norm", &Program::norm, "norm"_a)
      .def("convolution", &Program::convolution, "shape"_a, "weights"_a, "dense_from"_a = 0.7f)
      .def("forward", &Program::forward, "convolution"_a, "input"_a, "output"_a, "norm"_a = -1)
      .def("backward", &Program::backward, "convolution"_a, "wants"_a)
      .def("batch_statistics", &Program::batch_statistics, "tensor"_a, "norm"_a)
      .def("running_statistics", &Program::running_statistics, "norm"_a)
      .def("norm_gradient", &Program::norm_gradient, "gradient"_a, "view"_a)
      .def("combine", &Program::combine, "a"_a, "b"_a, "out"_a, "act"_a = Act::none, "gain"_a = 1.0f)
      .def("slope_by_output", &Program::slope_by_output, "gradient"_a, "output"_a, "act"_a, "gain"_a = 1.0f)
      .def("view_gradient", &Program::view_gradient, "gradient"_a, "view"_a, "out"_a, "add"_a = false)
      .def("pool", &Program::pool, "input"_a, "out"_a, "shape"_a, "max"_a)
      .def("pool_gradient", &Program::pool_gradient, "gradient"_a, "input"_a, "out"_a, "shape"_a, "max"_a,
           "add"_a = false)
      .def("concatenate", &Program::concatenate, "input"_a, "out"_a, "first"_a)
      .def("concatenate_gradient", &Program::concatenate_gradient, "gradient"_a, "first"_a, "out"_a,
           "add"_a = false)
      .def("dropout", &Program::dropout, "tensor"_a, "rate"_a, "stream"_a)
      .def("cache", &Program::cache, "like"_a, "offset"_a, "floats"_a, "half"_a)
      .def("compress", &Program::compress, "view"_a, "keep"_a, "cache"_a)
      .def("expand", &Program::expand, "cache"_a, "out"_a)
      .def("encode", &Program::encode, "view"_a, "cache"_a)
      .def("decode", &Program::decode, "cache"_a, "act"_a, "gain"_a, "out"_a)
      .def("pruned_norm_gradient", &Program::pruned_norm_gradient, "gradient"_a, "tensor"_a, "norm"_a)
      .def("loss", &Program::loss, "logits"_a, "gradient"_a = -1)
      .def("release", &Program::release)
      .def(
          "begin",
          [](Program& p, const Floats& samples, int tensor) {
            check_samples(p, samples.shape(0), tensor);
            nb::gil_scoped_release release;
            p.begin(samples.data(), tensor);
          },
          "samples"_a, "tensor"_a)
      .def(
          "run",
          [](Program& p, const Longs& labels, int classes, int first, int last, float momentum, float share,
             Objective objective, uint64_t seed) {
            if (labels.shape(0) != static_cast<size_t>(p.samples()))
              refuse(std::to_string(p.samples()) + " labels are needed, not " + std::to_string(labels.shape(0)));
            for (size_t i = 0; i < labels.shape(0); ++i)
              if (labels.data()[i] < 0 || labels.data()[i] >= classes)
                refuse("label " + std::to_string(labels.data()[i]) + " is not one of " + std::to_string(classes) +
                       " classes");
            LossSums sums;
            {
              nb::gil_scoped_release release;
              sums = p.run(first, last, {momentum, share, labels.data(), objective, seed});
            }
            return std::make_tuple(sums.loss, sums.correct);
          },
          "labels"_a, "classes"_a, "first"_a, "last"_a, "momentum"_a = -1.0f, "share"_a = 1.0f,
          "objective"_a = Objective::cross_entropy, "seed"_a = 0)
      .def(
          "output",
          [](Program& p, int tensor, FloatsOut out) {
            check_samples(p, out.shape(0), tensor);
            p.output(tensor, out.data());
          },
          "tensor"_a, "out"_a)
      .def(
          "dense_gradient",
          [](Program& p, int step, int first, int last, FloatsOut out) {
            if (out.shape(0) != p.dense_gradient_size(step, first, last))
              refuse("the gradient of other output channels is needed");
            nb::gil_scoped_release release;
            p.dense_gradient(step, first, last, out.data());
          },
          "step"_a, "first"_a, "last"_a, "out"_a);
}

}  // namespace

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // at exit some functions of ours are still referred to: that is Python's order
  m.doc() = "Sparse training on the CPU: the compiled part.";
  m.attr("isa") = kernels().name;
  m.attr("width") = kernels().width;
  m.def(
      "tensor_floats",
      [](int channels, int height, int width, int samples, bool packed) {
        const int lanes = Program::lanes_for(samples);
        return channel_stride(height, width, lanes, packed) * channels * (samples / lanes);
      },
      "channels"_a, "height"_a, "width"_a, "samples"_a, "packed"_a, "What a tensor takes of the arena.");
  m.def(
      "cache_floats",
      [](int channels, int height, int width, int samples, float keep, bool half, int codes) {
        Context context;
        context.lanes = Program::lanes_for(samples);
        context.blocks = samples / context.lanes;
        const Tensor tensor{0, channels, height, width, 0};
        return codes > 0 ? code_floats(tensor, context, codes) : pruned_floats(tensor, context, keep, half);
      },
      "channels"_a, "height"_a, "width"_a, "samples"_a, "keep"_a, "half"_a, "codes"_a,
      "What a pruned copy takes, or with codes > 0 one of so many bits a value.");
  m.def("lanes_for", &Program::lanes_for, "samples"_a, "Images that lie innermost for so many samples.");
  m.def("peak_gflops", &peak_gflops, "bytes"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Multiply-adds of one thread, one operand from a buffer of so many bytes or, with 0, from registers.");
  bind_param(m);
  bind_state(m);
  bind_shapes(m);
  bind_program(m);
}

// The Python face of programs: an arena, a team of threads, operations, and runs that give up the interpreter's
// lock.
#include "bindings/bindings.hpp"
#include "program/program.hpp"

namespace sparse {

namespace {

// An array of as many values as the tensor has.
void check_values(const Program& p, size_t values, int tensor) {
  const auto& tensors = p.context().tensors;
  if (tensor < 0 || tensor >= static_cast<int>(tensors.size()))
    refuse("tensor " + std::to_string(tensor) + " is none of the program's " + std::to_string(tensors.size()));
  const auto wanted = static_cast<size_t>(p.context().tensor(tensor).values() * p.samples());
  if (values != wanted) refuse(std::to_string(wanted) + " values are needed, not " + std::to_string(values));
}

}  // namespace

void bind_program(nb::module_& m) {
  nb::class_<Arena>(m, "Arena", "The memory that programs share.")
      .def(nb::init<>())
      .def_prop_ro("bytes",
                   [](const Arena& a) {
                     a.use.require_free();
                     return a.floats() * static_cast<ptrdiff_t>(sizeof(float));
                   })
      .def("release", when_free(&Arena::release));
  nb::class_<Pool>(m, "Pool", "A team of threads.")
      .def(nb::init<int, int>(), "threads"_a, "shares"_a = 0)
      .def_prop_ro("threads", &Pool::threads);
  nb::class_<Program>(m, "Program", "Operations over one arena for one number of samples.")
      .def(nb::init<std::shared_ptr<Arena>, std::shared_ptr<Pool>, int>(), "arena"_a, "pool"_a, "samples"_a)
      .def_prop_ro("samples", &Program::samples)
      .def_prop_ro("bytes",
                   [](Program& p) {
                     const Claim claim(p.uses());
                     return p.floats() * static_cast<ptrdiff_t>(sizeof(float));
                   })
      .def("__len__", &Program::size)
      .def("tensor", when_free(&Program::tensor), "channels"_a, "height"_a, "width"_a, "offset"_a,
           "packed"_a = false)
      .def("norm", when_free(&Program::norm), "norm"_a)
      .def("convolution", when_free(&Program::convolution), "shape"_a, "weights"_a, "dense_from"_a = 0.7f)
      .def("forward", when_free(&Program::forward), "convolution"_a, "input"_a, "output"_a, "norm"_a = -1)
      .def("backward", when_free(&Program::backward), "convolution"_a, "wants"_a)
      .def("batch_statistics", when_free(&Program::batch_statistics), "tensor"_a, "norm"_a)
      .def("running_statistics", when_free(&Program::running_statistics), "norm"_a)
      .def("norm_gradient", when_free(&Program::norm_gradient), "gradient"_a, "view"_a)
      .def("combine", when_free(&Program::combine), "a"_a, "b"_a, "out"_a, "act"_a = Act::none, "gain"_a = 1.0f)
      .def("slope_by_output", when_free(&Program::slope_by_output), "gradient"_a, "output"_a, "act"_a,
           "gain"_a = 1.0f)
      .def("view_gradient", when_free(&Program::view_gradient), "gradient"_a, "view"_a, "out"_a, "add"_a = false)
      .def("pool", when_free(&Program::pool), "input"_a, "out"_a, "shape"_a, "max"_a)
      .def("pool_gradient", when_free(&Program::pool_gradient), "gradient"_a, "input"_a, "out"_a, "shape"_a,
           "max"_a, "add"_a = false)
      .def("concatenate", when_free(&Program::concatenate), "input"_a, "out"_a, "first"_a)
      .def("concatenate_gradient", when_free(&Program::concatenate_gradient), "gradient"_a, "first"_a, "out"_a,
           "add"_a = false)
      .def("multiply", when_free(&Program::multiply), "a"_a, "b"_a, "out"_a)
      .def("multiply_gradient", when_free(&Program::multiply_gradient), "gradient"_a, "other"_a, "out"_a,
           "add"_a = false)
      .def("take", when_free(&Program::take), "input"_a, "out"_a, "channels"_a)
      .def("take_gradient", when_free(&Program::take_gradient), "gradient"_a, "out"_a, "channels"_a,
           "add"_a = false)
      .def("crop", when_free(&Program::crop), "input"_a, "out"_a, "top"_a, "left"_a)
      .def("crop_gradient", when_free(&Program::crop_gradient), "gradient"_a, "out"_a, "top"_a, "left"_a,
           "add"_a = false)
      .def("dropout", when_free(&Program::dropout), "tensor"_a, "rate"_a, "stream"_a)
      .def("cache", when_free(&Program::cache), "like"_a, "offset"_a, "floats"_a, "half"_a)
      .def("compress", when_free(&Program::compress), "view"_a, "keep"_a, "cache"_a)
      .def("expand", when_free(&Program::expand), "cache"_a, "out"_a)
      .def("encode", when_free(&Program::encode), "view"_a, "cache"_a)
      .def("decode", when_free(&Program::decode), "cache"_a, "act"_a, "gain"_a, "out"_a)
      .def("pruned_norm_gradient", when_free(&Program::pruned_norm_gradient), "gradient"_a, "tensor"_a, "norm"_a)
      .def("loss", when_free(&Program::loss), "logits"_a, "gradient"_a = -1)
      .def("release", when_free(&Program::release))
      .def(
          "begin",
          [](Program& p, const Floats& samples, int tensor) {
            check_values(p, samples.shape(0), tensor);
            const Claim claim(p.uses());
            nb::gil_scoped_release release;
            p.begin(samples.data(), tensor);
          },
          "samples"_a, "tensor"_a)
      .def(
          "run",
          [](Program& p, const Longs& labels, int first, int last, float momentum, float share, Objective objective,
             uint64_t seed) {
            const Claim claim(p.uses());
            // A copy: the caller's may change once the interpreter runs on.
            const Settings settings{
                momentum, share, {labels.data(), labels.data() + labels.shape(0)}, objective, seed};
            LossSums sums;
            {
              nb::gil_scoped_release release;
              sums = p.run(first, last, settings);
            }
            return std::make_tuple(sums.loss, sums.correct);
          },
          "labels"_a, "first"_a, "last"_a, "momentum"_a = -1.0f, "share"_a = 1.0f,
          "objective"_a = Objective::cross_entropy, "seed"_a = 0)
      .def(
          "output",
          [](Program& p, int tensor, const FloatsOut& out) {
            check_values(p, out.shape(0), tensor);
            const Claim claim(p.uses());
            p.output(tensor, out.data());
          },
          "tensor"_a, "out"_a.noconvert())
      .def(
          "dense_gradient",
          [](Program& p, int operation, int first, int last, const FloatsOut& out) {
            if (out.shape(0) != p.dense_gradient_size(operation, first, last))
              refuse("the gradient of other output channels is needed");
            const Claim claim(p.uses());
            nb::gil_scoped_release release;
            p.dense_gradient(operation, first, last, out.data());
          },
          "operation"_a, "first"_a, "last"_a, "out"_a.noconvert());
}

}  // namespace sparse

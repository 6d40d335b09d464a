// The Python face of what a model learns: vectors, weights and norms, copied in and out.
#include "bindings/bindings.hpp"
#include "layers/norm.hpp"

namespace sparse {

namespace {

void assign(std::vector<float>& to, const Floats& from, const char* what) {
  if (from.shape(0) != to.size())
    refuse(std::string(what) + " holds " + std::to_string(to.size()) + " values, not " +
           std::to_string(from.shape(0)));
  std::copy(from.data(), from.data() + from.shape(0), to.begin());
}

const std::vector<float>& values_of(const Param& p, std::vector<float> Param::* values) {
  p.use->require_free();
  return p.*values;
}

std::vector<int64_t> positions_of(const Weights& w) {
  w.use.require_free();
  std::vector<int64_t> found;
  found.reserve(w.count());
  for (int o = 0; o < w.out(); ++o)
    for (int k = w.rows()[o]; k < w.rows()[o + 1]; ++k)
      found.push_back(static_cast<int64_t>(o) * w.row_size() + w.places()[k]);
  return found;
}

}  // namespace

void bind_numbers(nb::module_& m) {
  nb::class_<Param>(m, "Param", "A trained vector with its momentum.")
      .def_prop_rw(
          "value", [](const Param& p) { return array(values_of(p, &Param::value)); },
          [](Param& p, const Floats& v) {
            p.use->require_free();
            assign(p.value, v, "value");
          },
          nb::rv_policy::automatic)
      .def_prop_rw(
          "velocity", [](const Param& p) { return array(values_of(p, &Param::velocity)); },
          [](Param& p, const Floats& v) {
            p.use->require_free();
            assign(p.velocity, v, "velocity");
          },
          nb::rv_policy::automatic)
      .def_prop_ro(
          "gradient", [](const Param& p) { return array(values_of(p, &Param::gradient)); },
          nb::rv_policy::automatic);
  nb::class_<Sgd>(m, "Sgd").def(
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
            w.use.require_free();
            if (positions.shape(0) != values.shape(0)) refuse("as many positions as values are needed");
            w.set(positions.data(), values.data(), values.shape(0));
          },
          "positions"_a, "values"_a)
      .def("__len__", &Weights::count)
      .def_prop_ro(
          "positions", [](const Weights& w) { return array(positions_of(w)); }, nb::rv_policy::automatic)
      .def(
          "mark",
          [](Weights& w, const Longs& positions) {
            w.use.require_free();
            w.mark(positions.data(), positions.shape(0));
          },
          "positions"_a)
      .def("marked_square",
           [](const Weights& w) {
             w.use.require_free();
             return w.marked_square();
           })
      .def("zero_gradient", when_free(&Weights::zero_gradient))
      .def("update", when_free(&Weights::update), "sgd"_a)
      .def_prop_ro(
          "param", [](Weights& w) -> Param& { return w.param; }, nb::rv_policy::reference_internal)
      .def_prop_ro(
          "bias", [](Weights& w) -> Param& { return w.bias; }, nb::rv_policy::reference_internal)
      .def_prop_ro("gain", [](Weights& w) -> Param& { return w.gain; }, nb::rv_policy::reference_internal);
  nb::class_<Norm>(m, "Norm", "Batch norm of a layer.")
      .def(nb::init<int>(), "channels"_a)
      .def_prop_ro(
          "gamma", [](Norm& n) -> Param& { return n.gamma; }, nb::rv_policy::reference_internal)
      .def_prop_ro(
          "beta", [](Norm& n) -> Param& { return n.beta; }, nb::rv_policy::reference_internal)
      .def_prop_rw(
          "running_mean",
          [](const Norm& n) {
            n.use.require_free();
            return array(n.running_mean);
          },
          [](Norm& n, const Floats& v) {
            n.use.require_free();
            assign(n.running_mean, v, "running_mean");
          },
          nb::rv_policy::automatic)
      .def_prop_rw(
          "running_var",
          [](const Norm& n) {
            n.use.require_free();
            return array(n.running_var);
          },
          [](Norm& n, const Floats& v) {
            n.use.require_free();
            assign(n.running_var, v, "running_var");
          },
          nb::rv_policy::automatic)
      .def("zero_gradient",
           [](Norm& n) {
             n.use.require_free();
             n.gamma.zero_gradient();
             n.beta.zero_gradient();
           })
      .def(
          "update",
          [](Norm& n, const Sgd& sgd) {
            n.use.require_free();
            n.gamma.update(sgd);
            n.beta.update(sgd);
          },
          "sgd"_a);
}

}  // namespace sparse

// What the files of the Python face share: arrays to and fro, and methods that refuse to work on what is in use.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "threads/use.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace sparse {

void bind_numbers(nb::module_& m);
void bind_shapes(nb::module_& m);
void bind_program(nb::module_& m);

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Longs = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// An array of Python's own that holds a copy.
template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> array(const std::vector<T>& values) {
  auto copy = std::make_unique<T[]>(std::max<size_t>(values.size(), 1));
  std::copy(values.begin(), values.end(), copy.get());
  nb::capsule owner(copy.get(), [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::ndarray<nb::numpy, T, nb::ndim<1>>(copy.release(), {values.size()}, owner);
}

// A method as Python calls it: refused while a call in another thread works on the object.
template <typename R, typename C, typename... A>
auto when_free(R (C::*method)(A...)) {
  return [method](C& self, A... arguments) -> R {
    self.use.require_free();
    return (self.*method)(std::forward<A>(arguments)...);
  };
}

}  // namespace sparse

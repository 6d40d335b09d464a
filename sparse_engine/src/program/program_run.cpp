// How a program is run: its arena, its operations in order, what it gives.
#include "program/program.hpp"

#include <algorithm>

namespace sparse {

ptrdiff_t Program::floats() {
  // The number of weights may have changed: the gradients' sums with it.
  for (const Operation& operation : operations_)
    if (operation.convolution != kNone) scratch(convolution_of(operation.convolution).scratch(operation.backward));
  context_.scratch_offset = round_up(tensor_floats_, 16);
  context_.scratch_floats = scratch_floats_;
  return context_.scratch_offset + scratch_floats_ * pool_->shares();
}

void Program::begin(const float* samples, int tensor) {
  context_.base = arena_->ensure(floats());
  arena_->holder = this;
  pack_input(context_, samples, known(tensor));
}

// Another program may have run since, the arena may be gone, or new weights may need more of it.
void Program::require_values() {
  require(context_.base != nullptr && arena_->holder == this && floats() <= arena_->floats(),
          "the program has no input, or lost it since");
}

void Program::release() {
  for (auto& convolution : convolutions_) convolution->release();
}

LossSums Program::run(int first, int last, const Settings& settings) {
  require(0 <= first && first <= last && last <= size(), "operations out of range");
  require_values();
  for (int i = first; i < last; ++i) check_labels(settings, operations_[static_cast<size_t>(i)].classes);
  loss_ = {};
  for (int i = first; i < last; ++i) operations_[static_cast<size_t>(i)].work(settings);
  return loss_;
}

// Where labels are too few, or one is no class, nothing is run.
void Program::check_labels(const Settings& settings, int classes) const {
  if (classes == 0) return;
  if (settings.labels.size() != static_cast<size_t>(samples()))
    refuse(std::to_string(samples()) + " labels are needed, not " + std::to_string(settings.labels.size()));
  for (const int64_t label : settings.labels)
    if (label < 0 || label >= classes)
      refuse("label " + std::to_string(label) + " is not one of " + std::to_string(classes) + " classes");
}

void Program::output(int tensor, float* samples) {
  require_values();
  unpack_output(context_, known(tensor), samples);
}

const Program::Operation& Program::backward_operation(int id) const {
  require(id >= 0 && id < size() && operations_[static_cast<size_t>(id)].backward, "not a backward operation");
  return operations_[static_cast<size_t>(id)];
}

size_t Program::dense_gradient_size(int id, int first, int last) const {
  const ConvShape& shape = convolution_of(backward_operation(id).convolution).shape();
  require(0 <= first && first <= last && last <= shape.out_channels, "output channels out of range");
  return static_cast<size_t>(last - first) * static_cast<size_t>(shape.row_size());
}

void Program::dense_gradient(int id, int first, int last, float* out) {
  require_values();
  const Operation& operation = backward_operation(id);
  convolution_of(operation.convolution)
      .dense_gradient(context_, operation.wants, bound(operation.wants), first, last, out);
}

}  // namespace sparse

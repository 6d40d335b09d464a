// How a program is built: every number and shape is checked here, so that what runs needs no more checks.
#include "program/program.hpp"

#include <algorithm>

#include "layers/checks.hpp"

namespace sparse {

int Program::lanes_for(int samples) {
  check_samples(samples);
  int lanes = 1;
  while (lanes < kMostLanes && samples % (2 * lanes) == 0) lanes *= 2;
  return lanes;
}

Program::Program(std::shared_ptr<Arena> arena, std::shared_ptr<Pool> pool, int samples)
    : arena_(std::move(arena)), pool_(std::move(pool)) {
  require(arena_ != nullptr && pool_ != nullptr, "a program needs an arena and a pool");
  uses_ = {&use, &arena_->use, &pool_->use};
  context_.pool = pool_.get();
  context_.lanes = lanes_for(samples);
  context_.blocks = samples / context_.lanes;
}

int Program::tensor(int channels, int height, int width, ptrdiff_t offset, bool packed) {
  check_tensor(channels, height, width, samples());
  const ptrdiff_t stride = channel_stride(height, width, context_.lanes, packed);
  const ptrdiff_t floats = stride * channels * context_.blocks;
  check_place(offset, floats);
  context_.tensors.push_back({offset, channels, height, width, stride});
  tensor_floats_ = std::max(tensor_floats_, offset + floats + kSlack);
  return static_cast<int>(context_.tensors.size()) - 1;
}

int Program::norm(std::shared_ptr<Norm> norm) {
  require(norm != nullptr, "no norm");
  context_.norms.reserve(context_.norms.size() + 1);
  uses(norm->use);
  context_.norms.push_back(std::move(norm));
  return static_cast<int>(context_.norms.size()) - 1;
}

int Program::convolution(const ConvShape& s, std::shared_ptr<Weights> weights, float dense_from) {
  require(weights != nullptr, "no weights");
  check_convolution(s);
  if (!(dense_from >= 0.0f)) refuse("dense_from must be 0 or more, not " + std::to_string(dense_from));
  auto made = std::make_unique<Convolution>(s, weights, context_.lanes, dense_from);
  require(made->most_items(context_.blocks) <= INT32_MAX, "so many rows of so many samples are too large");
  convolutions_.reserve(convolutions_.size() + 1);
  uses(weights->use);
  convolutions_.push_back(std::move(made));
  return static_cast<int>(convolutions_.size()) - 1;
}

void Program::uses(Use& other) {
  if (std::find(uses_.begin(), uses_.end(), &other) == uses_.end()) uses_.push_back(&other);
}

int Program::known(int tensor) const {
  if (tensor < 0 || tensor >= static_cast<int>(context_.tensors.size()))
    refuse("tensor " + std::to_string(tensor) + " is none of the program's " +
           std::to_string(context_.tensors.size()));
  return tensor;
}

int Program::known_norm(int norm, int tensor) const {
  if (norm < 0 || norm >= static_cast<int>(context_.norms.size()))
    refuse("norm " + std::to_string(norm) + " is none of the program's " + std::to_string(context_.norms.size()));
  require(norm_of(norm).channels() == context_.tensor(known(tensor)).channels, "a norm of other channels");
  return norm;
}

Convolution& Program::convolution_of(int id) const {
  if (id < 0 || id >= static_cast<int>(convolutions_.size()))
    refuse("convolution " + std::to_string(id) + " is none of the program's " +
           std::to_string(convolutions_.size()));
  return *convolutions_[static_cast<size_t>(id)];
}

const View& Program::checked(const View& view) const {
  known(view.tensor);
  if (view.norm != kNone) known_norm(view.norm, view.tensor);
  return view;
}

void Program::shaped(int tensor, int channels, int height, int width, const char* why) const {
  const Tensor& t = context_.tensor(known(tensor));
  require(t.channels == channels && t.height == height && t.width == width, why);
}

void Program::same(int a, int b) const {
  const Tensor& x = context_.tensor(known(a));
  shaped(b, x.channels, x.height, x.width, "tensors of different shapes");
}

double Program::count(int tensor) const {
  const Tensor& t = context_.tensor(tensor);
  return static_cast<double>(samples()) * t.height * t.width;
}

double* Program::sums(int parts, int channels) {
  sums_.resize(std::max(sums_.size(), 2 * static_cast<size_t>(parts) * channels));
  return sums_.data();
}

Moments* Program::moments(int parts, int channels) {
  moments_.resize(std::max(moments_.size(), static_cast<size_t>(parts) * channels));
  return moments_.data();
}

void Program::scratch(ptrdiff_t floats) { scratch_floats_ = std::max(scratch_floats_, round_up(floats, 16)); }

// -- operations --------------------------------------------------------------------------

void Program::forward(int id, const View& input, int output, int norm) {
  Convolution& conv = convolution_of(id);
  const ConvShape& s = conv.shape();
  shaped(checked(input).tensor, s.in_channels, s.in_h, s.in_w, "an input of another shape");
  shaped(output, s.out_channels, s.out_h, s.out_w, "an output of another shape");
  if (norm != kNone) known_norm(norm, output);
  append([this, &conv, input, output, norm](const Settings& settings) {
    if (norm == kNone) {
      conv.forward(context_, input, output, nullptr);
      return;
    }
    const int parts = conv.parts(context_);
    Moments* mine = moments(parts, conv.shape().out_channels);
    conv.forward(context_, input, output, mine);
    norm_of(norm).finish_batch(mine, parts, settings.momentum);
  });
  operations_.back().convolution = id;
}

void Program::backward(int id, const BackwardWants& wants) {
  Convolution& conv = convolution_of(id);
  const ConvShape& s = conv.shape();
  shaped(checked(wants.output).tensor, s.out_channels, s.out_h, s.out_w, "an output of another shape");
  same(wants.output.tensor, wants.output_gradient);
  shaped(checked(wants.input).tensor, s.in_channels, s.in_h, s.in_w, "an input of another shape");
  if (wants.input_gradient != kNone) same(wants.input.tensor, wants.input_gradient);
  if (wants.added != kNone) {
    require(wants.input_gradient != kNone, "no gradient to add to");
    same(wants.input.tensor, wants.added);
  }
  if (wants.norm_gradient)
    require(wants.input.norm != kNone && wants.input_gradient != kNone, "no norm or no gradient to reduce");
  check_keep(wants.keep);
  append([this, &conv, wants](const Settings&) {
    if (!wants.norm_gradient) {
      conv.backward(context_, wants, bound(wants), nullptr);
      return;
    }
    const int parts = conv.back_parts(context_);
    double* mine = sums(parts, conv.shape().in_channels);
    conv.backward(context_, wants, bound(wants), mine);
    norm_of(wants.input.norm).finish_gradient(mine, parts, count(wants.input.tensor));
  });
  operations_.back().convolution = id;
  operations_.back().wants = wants;
  operations_.back().backward = true;
}

float Program::bound(const BackwardWants& wants) const {
  return wants.keep < 1.0f ? threshold(context_, wants.input, wants.keep) : 0.0f;
}

void Program::batch_statistics(int tensor, int norm) {
  known_norm(norm, tensor);
  append([this, tensor, norm](const Settings& settings) {
    Moments* mine = moments(context_.blocks, norm_of(norm).channels());
    sparse::moments(context_, tensor, mine);
    norm_of(norm).finish_batch(mine, context_.blocks, settings.momentum);
  });
}

void Program::running_statistics(int norm) {
  if (norm < 0 || norm >= static_cast<int>(context_.norms.size()))
    refuse("norm " + std::to_string(norm) + " is none of the program's " + std::to_string(context_.norms.size()));
  append([this, norm](const Settings&) { norm_of(norm).use_running(); });
}

void Program::norm_gradient(int gradient, const View& view) {
  checked(view);
  same(gradient, view.tensor);
  require(view.norm != kNone, "a reading without a norm");
  append([this, gradient, view](const Settings&) {
    double* mine = sums(context_.blocks, norm_of(view.norm).channels());
    reduce_gradient(context_, gradient, view, mine);
    norm_of(view.norm).finish_gradient(mine, context_.blocks, count(view.tensor));
  });
}

void Program::combine(const View& a, const View& b, int out, Act act, float gain) {
  same(checked(a).tensor, out);
  if (b.tensor != kNone) same(checked(b).tensor, out);
  append([=, this_ = this](const Settings&) { sparse::combine(this_->context_, a, b, out, act, gain); });
}

void Program::slope_by_output(int gradient, int output, Act act, float gain) {
  same(gradient, output);
  require(act == Act::none || act == Act::relu || act == Act::relu6, "an activation that its output does not tell");
  append([=, this_ = this](const Settings&) {
    sparse::slope_by_output(this_->context_, gradient, output, act, gain);
  });
}

void Program::view_gradient(int gradient, const View& view, int out, bool add) {
  same(checked(view).tensor, gradient);
  same(gradient, out);
  scratch(context_.plane(out) + kSlack);
  append([=, this_ = this](const Settings&) { sparse::view_gradient(this_->context_, gradient, view, out, add); });
}

void Program::pool(const View& input, int out, const PoolShape& shape, bool max) {
  check_pool(context_.tensor(checked(input).tensor), context_.tensor(known(out)), shape);
  scratch(context_.plane(input.tensor) + kSlack);
  append(
      [=, this_ = this](const Settings&) { (max ? max_pool : average_pool)(this_->context_, input, out, shape); });
}

void Program::pool_gradient(int gradient, const View& input, int out, const PoolShape& shape, bool max, bool add) {
  same(checked(input).tensor, out);
  check_pool(context_.tensor(out), context_.tensor(known(gradient)), shape);
  scratch(context_.plane(out) + kSlack);
  append([=, this_ = this](const Settings&) {
    if (max)
      max_pool_gradient(this_->context_, gradient, input, out, shape, add);
    else
      average_pool_gradient(this_->context_, gradient, out, shape, add);
  });
}

void Program::concatenate(const View& input, int out, int first) {
  const Tensor &from = context_.tensor(checked(input).tensor), &to = context_.tensor(known(out));
  require(from.height == to.height && from.width == to.width && first >= 0 && first <= to.channels - from.channels,
          "tensors that cannot be joined");
  append([=, this_ = this](const Settings&) { sparse::concatenate(this_->context_, input, out, first); });
}

void Program::concatenate_gradient(int gradient, int first, int out, bool add) {
  const Tensor &from = context_.tensor(known(gradient)), &to = context_.tensor(known(out));
  require(from.height == to.height && from.width == to.width && first >= 0 && first <= from.channels - to.channels,
          "tensors that were not joined");
  append([=, this_ = this](const Settings&) {
    sparse::concatenate_gradient(this_->context_, gradient, first, out, add);
  });
}

void Program::dropout(int tensor, float rate, uint64_t stream) {
  known(tensor);
  require(rate >= 0.0f && rate < 1.0f, "dropout's rate must be in [0, 1)");
  append([=, this_ = this](const Settings& settings) {
    sparse::dropout(this_->context_, tensor, rate, settings.seed * 0x100000001b3ULL + stream);
  });
}

void Program::loss(int logits, int gradient) {
  const Tensor& t = context_.tensor(known(logits));
  require(t.height == 1 && t.width == 1, "logits are one value a class");
  if (gradient != kNone) same(logits, gradient);
  append([=, this_ = this](const Settings& settings) {
    this_->loss_ =
        sparse::loss(this_->context_, logits, settings.labels.data(), gradient, settings.share, settings.objective);
  });
  operations_.back().classes = t.channels;
}

}  // namespace sparse

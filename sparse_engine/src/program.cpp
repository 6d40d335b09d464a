#include "program.hpp"

#include <algorithm>

namespace sparse {

int Program::lanes_for(int samples) {
  int lanes = 1;
  while (lanes < 16 && samples % (2 * lanes) == 0) lanes *= 2;
  return lanes;
}

Program::Program(std::shared_ptr<Arena> arena, std::shared_ptr<Pool> pool, int samples)
    : arena_(std::move(arena)), pool_(std::move(pool)) {
  require(samples > 0, "a program needs at least one sample");
  context_.pool = pool_.get();
  context_.lanes = lanes_for(samples);
  context_.blocks = samples / context_.lanes;
}

int Program::tensor(int channels, int height, int width, ptrdiff_t offset, bool packed) {
  require(channels > 0 && height > 0 && width > 0 && offset >= 0 && offset % 16 == 0, "a tensor of no size");
  const ptrdiff_t stride = channel_stride(height, width, context_.lanes, packed);
  context_.tensors.push_back({offset, channels, height, width, stride});
  tensor_floats_ = std::max(tensor_floats_, offset + stride * channels * context_.blocks + kSlack);
  return static_cast<int>(context_.tensors.size()) - 1;
}

int Program::norm(std::shared_ptr<Norm> norm) {
  require(norm != nullptr, "no norm");
  context_.norms.push_back(std::move(norm));
  return static_cast<int>(context_.norms.size()) - 1;
}

int Program::convolution(const ConvShape& s, std::shared_ptr<Weights> weights, float dense_from) {
  require(weights != nullptr, "no weights");
  require(s.in_channels > 0 && s.out_channels > 0 && s.groups > 0 && s.in_channels % s.groups == 0 &&
              s.out_channels % s.groups == 0,
          "channels must be positive multiples of the groups");
  require(s.kernel_h > 0 && s.kernel_w > 0 && s.stride_h > 0 && s.stride_w > 0 && s.pad_h >= 0 && s.pad_w >= 0,
          "kernel and stride must be positive");
  require(s.in_h + 2 * s.pad_h >= s.kernel_h && s.in_w + 2 * s.pad_w >= s.kernel_w,
          "the kernel is larger than its padded input");
  require(s.out_h == (s.in_h + 2 * s.pad_h - s.kernel_h) / s.stride_h + 1 &&
              s.out_w == (s.in_w + 2 * s.pad_w - s.kernel_w) / s.stride_w + 1,
          "the output has another size");
  convolutions_.push_back(std::make_unique<Convolution>(s, std::move(weights), context_.lanes, dense_from));
  return static_cast<int>(convolutions_.size()) - 1;
}

int Program::known(int tensor) const {
  require(tensor >= 0 && tensor < static_cast<int>(context_.tensors.size()), "an unknown tensor");
  return tensor;
}

const View& Program::checked(const View& view) const {
  known(view.tensor);
  require(view.norm < static_cast<int>(context_.norms.size()), "an unknown norm");
  require(view.norm < 0 || norm_of(view.norm).channels() == context_.tensor(view.tensor).channels,
          "a norm of other channels");
  return view;
}

void Program::same(int a, int b) const {
  const Tensor &x = context_.tensor(known(a)), &y = context_.tensor(known(b));
  require(x.channels == y.channels && x.height == y.height && x.width == y.width, "tensors of different shapes");
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
  require(id >= 0 && id < static_cast<int>(convolutions_.size()), "an unknown convolution");
  Convolution& conv = *convolutions_[static_cast<size_t>(id)];
  const ConvShape& s = conv.shape();
  checked(input);
  const Tensor &in = context_.tensor(input.tensor), &out = context_.tensor(known(output));
  require(in.channels == s.in_channels && in.height == s.in_h && in.width == s.in_w, "an input of another shape");
  require(out.channels == s.out_channels && out.height == s.out_h && out.width == s.out_w,
          "an output of another shape");
  if (norm >= 0) checked({output, norm});
  append([this, &conv, input, output, norm](const Settings& settings) {
    if (norm < 0) {
      conv.forward(context_, input, output, nullptr);
      return;
    }
    const int parts = conv.parts(context_);
    Moments* mine = moments(parts, conv.shape().out_channels);
    conv.forward(context_, input, output, mine);
    norm_of(norm).finish_batch(mine, parts, settings.momentum);
  });
  steps_.back().convolution = id;
}

void Program::backward(int id, const BackwardWants& wants) {
  require(id >= 0 && id < static_cast<int>(convolutions_.size()), "an unknown convolution");
  Convolution& conv = *convolutions_[static_cast<size_t>(id)];
  if (wants.output.tensor >= 0) {
    checked(wants.output);
    same(wants.output.tensor, wants.output_gradient);
  }
  require(context_.tensor(known(wants.output_gradient)).channels == conv.shape().out_channels,
          "a gradient of another shape");
  if (wants.input_gradient >= 0) same(wants.input.tensor, wants.input_gradient);
  if (wants.added >= 0) same(wants.input.tensor, wants.added);
  if (wants.norm_gradient)
    require(wants.input.norm >= 0 && wants.input_gradient >= 0, "no norm or no gradient to reduce");
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
  steps_.back().convolution = id;
  steps_.back().wants = wants;
  steps_.back().backward = true;
}

float Program::bound(const BackwardWants& wants) const {
  return wants.keep < 1.0f ? threshold(context_, wants.input, wants.keep) : 0.0f;
}

void Program::batch_statistics(int tensor, int norm) {
  checked({tensor, norm});
  append([this, tensor, norm](const Settings& settings) {
    Moments* mine = moments(context_.blocks, norm_of(norm).channels());
    sparse::moments(context_, tensor, mine);
    norm_of(norm).finish_batch(mine, context_.blocks, settings.momentum);
  });
}

void Program::running_statistics(int norm) {
  require(norm >= 0 && norm < static_cast<int>(context_.norms.size()), "an unknown norm");
  append([this, norm](const Settings&) { norm_of(norm).use_running(); });
}

void Program::norm_gradient(int gradient, const View& view) {
  checked(view);
  same(gradient, view.tensor);
  require(view.norm >= 0, "a reading without a norm");
  append([this, gradient, view](const Settings&) {
    double* mine = sums(context_.blocks, norm_of(view.norm).channels());
    reduce_gradient(context_, gradient, view, mine);
    norm_of(view.norm).finish_gradient(mine, context_.blocks, count(view.tensor));
  });
}

void Program::combine(const View& a, const View& b, int out, Act act, float gain) {
  same(checked(a).tensor, out);
  if (b.tensor >= 0) same(checked(b).tensor, out);
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

namespace {

void check_pool(const Tensor& in, const Tensor& out, const PoolShape& p) {
  require(p.kernel_h > 0 && p.kernel_w > 0 && p.stride_h > 0 && p.stride_w > 0, "kernel and stride must be positive");
  require(p.pad_h >= 0 && p.pad_w >= 0 && 2 * p.pad_h <= p.kernel_h && 2 * p.pad_w <= p.kernel_w,
          "pooling pads by half of its kernel at most");
  require(in.height + 2 * p.pad_h >= p.kernel_h && in.width + 2 * p.pad_w >= p.kernel_w,
          "the window is larger than its padded input");
  require(in.channels == out.channels && out.height == (in.height + 2 * p.pad_h - p.kernel_h) / p.stride_h + 1 &&
              out.width == (in.width + 2 * p.pad_w - p.kernel_w) / p.stride_w + 1,
          "the output has another size");
}

}  // namespace

void Program::pool(const View& input, int out, const PoolShape& shape, bool max) {
  check_pool(context_.tensor(checked(input).tensor), context_.tensor(known(out)), shape);
  scratch(context_.plane(input.tensor) + kSlack);
  append([=, this_ = this](const Settings&) {
    (max ? max_pool : average_pool)(this_->context_, input, out, shape);
  });
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
  require(from.height == to.height && from.width == to.width && first >= 0 &&
              first + from.channels <= to.channels,
          "tensors that cannot be joined");
  append([=, this_ = this](const Settings&) { sparse::concatenate(this_->context_, input, out, first); });
}

void Program::concatenate_gradient(int gradient, int first, int out, bool add) {
  const Tensor &from = context_.tensor(known(gradient)), &to = context_.tensor(known(out));
  require(from.height == to.height && from.width == to.width && first >= 0 &&
              first + to.channels <= from.channels,
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
  if (gradient >= 0) same(logits, gradient);
  append([=, this_ = this](const Settings& settings) {
    this_->loss_ = sparse::loss(this_->context_, logits, settings.labels, gradient, settings.share,
                                settings.objective);
  });
}

// -- running -----------------------------------------------------------------------------

ptrdiff_t Program::floats() {
  // The number of weights may have changed: the gradients' sums with it.
  for (const Step& step : steps_)
    if (step.convolution >= 0) scratch(convolutions_[static_cast<size_t>(step.convolution)]->scratch(step.backward));
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
  require(0 <= first && first <= last && last <= size(), "steps out of range");
  require_values();
  loss_ = {};
  for (int i = first; i < last; ++i) steps_[static_cast<size_t>(i)].work(settings);
  return loss_;
}

void Program::output(int tensor, float* samples) {
  require_values();
  unpack_output(context_, known(tensor), samples);
}

size_t Program::dense_gradient_size(int step, int first, int last) const {
  require(step >= 0 && step < size() && steps_[static_cast<size_t>(step)].backward, "not a backward step");
  const int id = steps_[static_cast<size_t>(step)].convolution;
  const ConvShape& shape = convolutions_[static_cast<size_t>(id)]->shape();
  require(0 <= first && first <= last && last <= shape.out_channels, "output channels out of range");
  return static_cast<size_t>(last - first) * shape.row_size();
}

void Program::dense_gradient(int step, int first, int last, float* out) {
  require_values();
  const Step& s = steps_[static_cast<size_t>(step)];
  convolutions_[static_cast<size_t>(s.convolution)]->dense_gradient(context_, s.wants, bound(s.wants), first, last, out);
}

}  // namespace sparse

// Products and channels in another order, as a program takes them: what fits is checked here.
#include "program/program.hpp"

namespace sparse {

// Whether the tensors are alike, or `part` has one value for each channel of `whole`.
bool Program::spread(int whole, int part) const {
  const Tensor &x = context_.tensor(known(whole)), &y = context_.tensor(known(part));
  return x.channels == y.channels &&
         ((x.height == y.height && x.width == y.width) || (y.height == 1 && y.width == 1));
}

void Program::multiply(const View& a, const View& b, int out) {
  same(checked(a).tensor, out);
  require(spread(out, checked(b).tensor), "factors of another shape");
  scratch(context_.plane(out) + kSlack);
  append([=, this_ = this](const Settings&) { sparse::multiply(this_->context_, a, b, out); });
}

void Program::multiply_gradient(int gradient, const View& other, int out, bool add) {
  require(spread(gradient, checked(other).tensor) && spread(gradient, out), "factors of another shape");
  require(gradient != out, "a gradient that would be overwritten while it is read");
  scratch(context_.plane(other.tensor) + kSlack);
  append([=, this_ = this](const Settings&) {
    sparse::multiply_gradient(this_->context_, gradient, other, out, add);
  });
}

void Program::check_taken(const std::vector<int>& channels, int from, int to) const {
  const Tensor &x = context_.tensor(known(from)), &y = context_.tensor(known(to));
  require(x.height == y.height && x.width == y.width && channels.size() == static_cast<size_t>(y.channels),
          "channels for a tensor of another shape");
  std::vector<char> seen(static_cast<size_t>(x.channels), 0);
  for (const int channel : channels) {
    require(channel >= 0 && channel < x.channels, "a channel that the tensor does not have");
    require(seen[static_cast<size_t>(channel)] == 0, "a channel is taken once at most");
    seen[static_cast<size_t>(channel)] = 1;
  }
}

void Program::take(const View& input, int out, std::vector<int> channels) {
  check_taken(channels, checked(input).tensor, out);
  append([=, this_ = this, chosen = std::move(channels)](const Settings&) {
    sparse::take(this_->context_, input, out, chosen);
  });
}

void Program::take_gradient(int gradient, int out, std::vector<int> channels, bool add) {
  check_taken(channels, out, gradient);
  append([=, this_ = this, chosen = std::move(channels)](const Settings&) {
    sparse::take_gradient(this_->context_, gradient, out, chosen, add);
  });
}

void Program::check_crop(int whole, int part, int top, int left) const {
  const Tensor &x = context_.tensor(known(whole)), &y = context_.tensor(known(part));
  require(
      x.channels == y.channels && top >= 0 && left >= 0 && top <= x.height - y.height && left <= x.width - y.width,
      "a part that is not in the image");
}

void Program::crop(const View& input, int out, int top, int left) {
  check_crop(checked(input).tensor, out, top, left);
  append([=, this_ = this](const Settings&) { sparse::crop(this_->context_, input, out, top, left); });
}

void Program::crop_gradient(int gradient, int out, int top, int left, bool add) {
  check_crop(out, gradient, top, left);
  append([=, this_ = this](const Settings&) {
    sparse::crop_gradient(this_->context_, gradient, out, top, left, add);
  });
}

}  // namespace sparse

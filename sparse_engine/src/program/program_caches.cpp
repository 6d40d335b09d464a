// A program's pruned copies: how they are made and read again.
#include "program/program.hpp"

#include "layers/checks.hpp"

namespace sparse {

int Program::cache(int like, ptrdiff_t offset, ptrdiff_t floats, bool half) {
  require(floats > kSlack, "a copy of no size");
  check_place(offset, floats);
  caches_.push_back(std::make_unique<Cache>(Cache{offset, floats, context_.tensor(known(like)), half, {}}));
  tensor_floats_ = std::max(tensor_floats_, offset + floats + kSlack);
  return static_cast<int>(caches_.size()) - 1;
}

Cache& Program::cache_of(int id, int tensor) const {
  if (id < 0 || id >= static_cast<int>(caches_.size()))
    refuse("copy " + std::to_string(id) + " is none of the program's " + std::to_string(caches_.size()));
  Cache& cache = *caches_[static_cast<size_t>(id)];
  const Tensor &a = cache.shape, &b = context_.tensor(known(tensor));
  require(a.channels == b.channels && a.height == b.height && a.width == b.width, "a copy of another shape");
  return cache;
}

void Program::compress(const View& view, float keep, int id) {
  check_keep(keep);
  Cache& cache = cache_of(id, checked(view).tensor);
  require(cache.floats >= pruned_floats(cache.shape, context_, keep, cache.half), "too little room for the copy");
  scratch(context_.plane(view.tensor) + kSlack);
  append([=, this_ = this, &cache](const Settings&) {
    sparse::compress(this_->context_, view, threshold(this_->context_, view, keep), cache);
  });
}

void Program::expand(int id, int out) {
  Cache& cache = cache_of(id, out);
  append([=, this_ = this, &cache](const Settings&) {
    require(!cache.start.empty(), "nothing was compressed into the copy that is expanded");
    sparse::expand(this_->context_, cache, out);
  });
}

void Program::require_codes(const Cache& cache, Act act) const {
  require(act == Act::none || act == Act::relu || act == Act::relu6 || act == Act::leaky,
          "an activation whose derivative no bits tell");
  require(cache.floats >= code_floats(cache.shape, context_, act == Act::relu6 ? 2 : 1),
          "too little room for the copy");
}

void Program::encode(const View& view, int id) {
  Cache& cache = cache_of(id, checked(view).tensor);
  require_codes(cache, view.act);
  scratch(context_.plane(view.tensor) + kSlack);
  append([=, this_ = this, &cache](const Settings&) {
    sparse::encode(this_->context_, view.tensor, view.norm, view.act, view.gain, cache);
  });
}

void Program::decode(int id, Act act, float gain, int out) {
  Cache& cache = cache_of(id, out);
  require_codes(cache, act);
  append([=, this_ = this, &cache](const Settings&) { sparse::decode(this_->context_, cache, act, gain, out); });
}

void Program::pruned_norm_gradient(int gradient, int tensor, int norm) {
  known_norm(norm, tensor);
  same(gradient, tensor);
  append([=, this_ = this](const Settings&) {
    Norm& owner = this_->norm_of(norm);
    const int parts = this_->context_.blocks;
    double* mine = this_->sums(2 * parts, owner.channels());
    double* energies = mine + 2 * static_cast<ptrdiff_t>(parts) * owner.channels();
    reduce_pruned(this_->context_, gradient, tensor, mine, energies);
    owner.finish_pruned_gradient(mine, energies, parts, this_->count(tensor));
  });
}

}  // namespace sparse
